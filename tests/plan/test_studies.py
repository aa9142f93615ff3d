"""What a lab's studies give a plan, and what they say beside it."""

import json
from pathlib import Path

import pytest
from plan_labs import (
    LENGTHS,
    SIZES,
    table_of,
    with_batch_study,
    with_search_study,
    with_study,
    with_transfer_study,
)

from windtunnel.errors import InputError
from windtunnel.plan import flags
from windtunnel.plan.evidence import Evidence, from_table
from windtunnel.plan.settings import PlannedRun, batch_for, rate_for
from windtunnel.plan.studies import from_lab


def test_a_scaling_study_gives_its_points_and_how_its_runs_were_trained(
    evidence: Evidence,
) -> None:
    assert len(evidence.points) == len(SIZES) * len(LENGTHS)
    assert evidence.sizes == SIZES and evidence.corpus == "tiny"
    assert (evidence.decay.share, evidence.decay.shape, evidence.decay.floor) == (
        0.1,
        "exponential",
        0.1,
    )
    assert evidence.seed_sd == 0.01 and {rate for _, rate in evidence.rates} == {0.01}
    assert evidence.core_speed is not None
    assert evidence.core_speed.flops_per_second == 6e12 / 60


def test_a_study_and_its_table_alone_are_the_same_points(studied: Path, evidence: Evidence) -> None:
    alone = from_table(studied / "studies/scaling/table.csv").points
    assert (alone.loss == evidence.points.loss).all() and (alone.stem == evidence.points.stem).all()


def test_the_batch_study_of_the_lab_says_the_batch(tmp_path: Path) -> None:
    best = {tokens: 3 * tokens**0.4 for tokens in (1e5, 2e5, 4e5, 8e5)}
    lab = with_batch_study(with_study(tmp_path), best, runs=("r1",))
    found = batch_for(from_lab(lab, "scaling"), PlannedRun(4.5, 1.6e6, 5e4))
    assert found.batch == pytest.approx(3 * 1.6e6**0.4, rel=0.01)
    assert (found.provenance.study, found.provenance.runs) == ("batch", ("r1",))
    assert found.interval and 1.1 < found.interval[1] / found.interval[0] < 2
    assert found.inside


def test_a_better_rate_elsewhere_is_said_and_not_taken(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    with_transfer_study(lab, 0.03, (0.025, 0.04), verdict="fail", runs=("t1", "t2"))
    found = from_lab(lab, "scaling")
    rate = rate_for(found, 1e5)
    assert rate.lr == 0.01
    (beside,) = rate.beside
    assert (beside.study, beside.lr, beside.runs) == ("transfer", 0.03, ("t1", "t2"))
    assert beside.interval == (0.025, 0.04) and beside.at == "64x2, 800000 tokens"
    levels = {flag.about: flag.level for flag in flags.of_studies(found)}
    assert levels == {"transfer": "caution", "check": "note"}


@pytest.mark.parametrize(("outcome", "said"), [("beats", True), ("ties", True), ("loses", False)])
def test_a_searched_rate_is_said_unless_it_lost(outcome: str, said: bool, tmp_path: Path) -> None:
    lab = with_search_study(with_study(tmp_path), 0.02, outcome, runs=("s1",))
    found = [beside.outcome for beside in rate_for(from_lab(lab, "scaling"), 1e5).beside]
    assert found == ([outcome] if said else [])


def test_a_study_of_another_corpus_says_nothing(tmp_path: Path) -> None:
    lab = with_transfer_study(with_study(tmp_path), 0.03, (0.025, 0.04), corpus="other")
    assert not rate_for(from_lab(lab, "scaling"), 1e5).beside


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    (lab / "studies/scaling/result.json").write_text("{")
    with pytest.raises(InputError, match=r"scaling/result\.json"):
        from_lab(lab, "scaling")


def test_an_absent_study_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="windtunnel scaling"):
        from_lab(tmp_path, "scaling")


def test_a_damaged_study_is_refused_by_its_field(tmp_path: Path) -> None:
    file = with_study(tmp_path) / "studies/scaling/result.json"
    result = json.loads(file.read_text())
    del result["numbers"]["lengths"]
    file.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"scaling/result\.json: numbers\.lengths: missing"):
        from_lab(tmp_path, "scaling")


def test_a_damaged_table_is_refused_by_line_and_column(tmp_path: Path) -> None:
    folder = with_study(tmp_path) / "studies/scaling"
    table_of(folder / "table.csv", width="wide")
    with pytest.raises(InputError, match=r"table\.csv: line 2: width"):
        from_lab(tmp_path, "scaling")
