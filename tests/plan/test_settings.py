"""The batch and the rate of a plan, from studies, tables and published runs."""

from pathlib import Path

import pytest
from plan_labs import CHINCHILLA, table_of, with_study, write_result

from windtunnel.plan import flags
from windtunnel.plan.evidence import from_lab, from_table
from windtunnel.plan.settings import PlannedRun, batch_for, rate_for


def test_of_many_runs_of_a_cell_the_best_counts(tmp_path: Path) -> None:
    rows = ["params,tokens,loss,lr,batch"]
    for n in (1e6, 4e6, 16e6):
        for d in (1e8, 4e8, 16e8):
            for off in (0, 1, 2):
                loss = CHINCHILLA.at(n, d) + 0.01 * off
                rows.append(f"{n},{d},{loss},{1.0 / n**0.3 * 2**off},{int(d**0.6) * 2**off}")
    (tmp_path / "grid.csv").write_text("\n".join(rows))
    found = from_table(tmp_path / "grid.csv")
    assert len(found.points) == 9
    assert rate_for(found, 64e6).lr == pytest.approx(64e6**-0.3, rel=0.01)
    batch = batch_for(found, PlannedRun(3.0, 64e8, 64e6))
    assert batch.batch == pytest.approx(64e8**0.6, rel=0.02) and batch.inside
    assert batch.interval and batch.interval[0] < batch.batch < batch.interval[1]


def test_the_batch_study_of_the_lab_says_the_batch(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    levels = [
        {
            "batch": 3 * d**0.4,
            "loss": 5 - i / 10,
            "tokens": d,
            "where": "inside",
            "interval": [2.4 * d**0.4, 3.75 * d**0.4],
        }
        for i, d in enumerate((1e5, 2e5, 4e5, 8e5))
    ]
    write_result(
        lab,
        "batch",
        {
            "corpus": "tiny",
            "chosen": "tokens",
            "arms": {"fixed": {"sizes": [{"params": 5e4, "levels": levels}]}},
        },
        runs=("r1",),
    )
    found = batch_for(from_lab(lab, "scaling"), PlannedRun(4.5, 1.6e6, 5e4))
    assert found.batch == pytest.approx(3 * 1.6e6**0.4, rel=0.01) and found.provenance.runs == (
        "r1",
    )
    assert found.interval and 1.1 < found.interval[1] / found.interval[0] < 2


def test_a_better_rate_elsewhere_is_said_and_not_taken(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    sizes = [{"width": 64, "depth": 2, "lr": 0.03, "interval": [0.025, 0.04]}]
    write_result(
        lab,
        "transfer",
        {
            "corpus": "tiny",
            "tokens": 800_000,
            "parametrizations": {"minicpm": {"sizes": sizes}},
        },
        verdict="fail",
        runs=("t1", "t2"),
    )
    found = from_lab(lab, "scaling")
    rated = rate_for(found, 1e5)
    assert rated.lr == 0.01
    (beside,) = rated.beside
    assert (beside.study, beside.lr, beside.runs) == ("transfer", 0.03, ("t1", "t2"))
    assert beside.interval == (0.025, 0.04) and beside.at == "64x2, 800000 tokens"
    levels = {flag.about: flag.level for flag in flags.of_studies(found)}
    assert levels == {"transfer": "caution", "check": "note"}


def test_without_rates_the_transfer_study_says_it(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    file = lab / "studies/scaling/table.csv"
    file.write_text(file.read_text().replace(",lr", ",rate"))
    assert rate_for(from_lab(lab, "scaling"), 1e5).lr == 0.01  # the paper's
    sizes = [{"width": 64, "depth": 2, "lr": 0.03, "interval": [0.025, 0.04]}]
    write_result(
        lab,
        "transfer",
        {"corpus": "tiny", "tokens": 1, "parametrizations": {"minicpm": {"sizes": sizes}}},
    )
    assert rate_for(from_lab(lab, "scaling"), 1e5).lr == 0.03


@pytest.mark.parametrize(("outcome", "said"), [("beats", True), ("ties", True), ("loses", False)])
def test_a_searched_rate_is_said_unless_it_lost(outcome: str, said: bool, tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    numbers = {
        "corpus": "tiny",
        "outcome": outcome,
        "chosen": {"lr": 0.02},
        "width": 32,
        "depth": 2,
        "tokens": 800_000,
    }
    write_result(lab, "search", numbers, runs=("s1",))
    found = [beside.outcome for beside in rate_for(from_lab(lab, "scaling"), 1e5).beside]
    assert found == ([outcome] if said else [])


def test_a_study_of_another_corpus_says_nothing(tmp_path: Path) -> None:
    lab = with_study(tmp_path)
    sizes = [{"width": 64, "depth": 2, "lr": 0.03, "interval": [0.025, 0.04]}]
    tables = {"minicpm": {"sizes": sizes}}
    write_result(lab, "transfer", {"corpus": "other", "tokens": 1, "parametrizations": tables})
    assert not rate_for(from_lab(lab, "scaling"), 1e5).beside


def test_without_a_column_batch_small_runs_take_the_laptops_law_and_large_ones_published_runs(
    tmp_path: Path,
) -> None:
    found = from_table(table_of(tmp_path / "table.csv"))
    small = batch_for(found, PlannedRun(4.5, 1.6e6, 8e4))
    assert 1000 < small.batch < 4000 and small.interval and small.inside
    large = batch_for(found, PlannedRun(2.0, 1e10, 1e9))
    assert large.batch == pytest.approx(0.58 * 1e10**0.571) and large.interval is None
    assert large.inside and "2503.04715" in large.provenance.how
    assert not batch_for(found, PlannedRun(2.0, 1e12, 1e9)).inside
