"""A study is read as it was written, byte by byte, and a damaged one is refused by its field."""

import json
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.results.experiments import EXPERIMENTS, study_of
from windtunnel.results.record import Record
from windtunnel.results.study import (
    COLUMNS,
    Experiment,
    Numbers,
    Row,
    find_study,
    read_study,
    read_table,
    want_runs,
    write_study,
)
from windtunnel.results.transfer import TRANSFER, TransferNumbers


class Part(Record):
    """A part of the numbers."""

    loss: float
    """nats/token."""


class PitchNumbers(Numbers):
    """Numbers of an experiment that only this test has."""

    eps: float
    steps: int
    parts: tuple[Part, ...] = ()


class PitchRow(Row):
    """Its rows."""

    angle: float
    """Degrees."""
    name: str | None = None


PITCH = Experiment(name="pitch", help="its angle", numbers=PitchNumbers, row=PitchRow)
ROWS = [
    PitchRow(
        run="abc",
        params=10,
        params_total=12,
        tokens=512,
        flops=10**18,
        loss=3.25,
        bits_per_byte=2.1,
        source="all",
        seed=0,
        kind="run",
        angle=1e-8,
    ),
    PitchRow(params=10, params_total=12, tokens=64, source="all", seed=1, kind="run", angle=30),
]
TABLE = (
    "run,params,params_total,tokens,flops,loss,bits_per_byte,source,seed,kind,angle,name\n"
    "abc,10,12,512,1000000000000000000,3.25,2.1,all,0,run,1e-08,\n"
    ",10,12,64,,,,all,1,run,30.0,\n"
)


def written(lab: Path) -> Path:
    return write_study(
        lab,
        PITCH,
        rows=ROWS,
        verdict="pass",
        summary="it holds",
        numbers=PitchNumbers(eps=1e-8, steps=3, parts=(Part(loss=2.0),)),
        runs=["abc"],
    )


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert folder == tmp_path / "studies" / "pitch"
    result = read_study(tmp_path, PITCH)
    assert (result.study, result.verdict, result.runs) == ("pitch", "pass", ("abc",))
    assert result.numbers == PitchNumbers(eps=1e-8, steps=3, parts=(Part(loss=2.0),))
    assert read_table(tmp_path, PITCH) == ROWS


def test_what_a_study_wants_is_kept_until_its_result_names_it(tmp_path: Path) -> None:
    file = tmp_path / "studies" / "pitch" / "runs.json"
    for wanted in (["a", "b"], ["b", "c"], ["a"]):
        want_runs(tmp_path, PITCH, wanted)
    assert json.loads(file.read_text()) == {"runs": ["a", "b", "c"]}
    assert find_study(tmp_path, PITCH) is None
    written(tmp_path)
    assert not file.exists()
    file.write_text("{")
    with pytest.raises(InputError, match=r"pitch/runs.json: damaged"):
        want_runs(tmp_path, PITCH, ["a"])


def test_the_bytes_are_those_of_plain_json_and_csv(tmp_path: Path) -> None:
    folder = written(tmp_path)
    plain = {
        "study": "pitch",
        "verdict": "pass",
        "summary": "it holds",
        "numbers": {"eps": 1e-8, "steps": 3, "parts": [{"loss": 2.0}]},
        "runs": ["abc"],
    }
    assert (folder / "result.json").read_text() == json.dumps(plain, indent=1)
    assert (folder / "table.csv").read_text() == TABLE
    assert read_study(tmp_path, PITCH).to_json() == (folder / "result.json").read_text()


def test_a_study_that_is_not_there_is_none_or_one_line(tmp_path: Path) -> None:
    assert find_study(tmp_path, PITCH) is None
    with pytest.raises(InputError, match=r"studies/pitch: .*`windtunnel pitch`"):
        read_study(tmp_path, PITCH)
    with pytest.raises(InputError, match=r"table.csv: missing or damaged"):
        read_table(tmp_path, PITCH)


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ('"steps": 3', '"steps": "three"', "numbers.steps: .*got 'three'"),
        ('"eps": 1e-08,', "", "numbers.eps: missing"),
        ('"loss": 2.0', '"lost": 2.0', "numbers.parts.0.loss: missing"),
        ('"verdict": "pass"', '"verdict": "won"', "verdict: .*got 'won'"),
        ('"runs"', "", "damaged"),
    ],
)
def test_a_damaged_result_is_refused_by_its_field(
    tmp_path: Path, was: str, now: str, says: str
) -> None:
    file = written(tmp_path) / "result.json"
    text = file.read_text()
    assert was in text
    file.write_text(text.replace(was, now))
    with pytest.raises(InputError, match=f"result.json: {says}"):
        read_study(tmp_path, PITCH)


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        (",angle", ",angel", "line 2: angle: missing"),
        ("512", "many", "line 2: tokens: .*got 'many'"),
        (",64,", ",,", "line 3: tokens: missing"),
        ("3.25", "nan", "line 2: loss: .*got 'nan'"),
    ],
)
def test_a_damaged_table_is_refused_by_line_and_column(
    tmp_path: Path, was: str, now: str, says: str
) -> None:
    file = written(tmp_path) / "table.csv"
    file.write_text(file.read_text().replace(was, now))
    with pytest.raises(InputError, match=f"table.csv: {says}"):
        read_table(tmp_path, PITCH)


def test_a_new_experiment_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "pitch", PITCH)
    written(tmp_path)
    assert EXPERIMENTS.choose("pitch", "--study pitch") is PITCH
    found = find_study(tmp_path, EXPERIMENTS["pitch"])
    assert found and (found.verdict, found.summary) == ("pass", "it holds")


@pytest.mark.parametrize(("made_on", "found"), [("tiny", True), (None, True), ("other", False)])
def test_a_study_is_of_a_corpus_if_it_says_so_or_says_nothing(
    tmp_path: Path, made_on: str | None, found: bool
) -> None:
    assert study_of(tmp_path, TRANSFER, "tiny") is None, "there is no study"
    numbers = TransferNumbers(tokens=1, batch=1, seeds=(0,), corpus=made_on, parametrizations={})
    write_study(
        tmp_path, TRANSFER, rows=[], verdict=None, summary="nothing", numbers=numbers, runs=[]
    )
    study = study_of(tmp_path, TRANSFER, "tiny")
    assert (study is not None) is found
    assert study is None or study.numbers == numbers


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"--study scalling: .*check, search, .*did you mean 'scaling'"
    ):
        EXPERIMENTS.choose("scalling", "--study scalling")


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_every_table_begins_with_the_same_columns(experiment: Experiment[Numbers, Row]) -> None:
    assert COLUMNS == (
        "run",
        "params",
        "params_total",
        "tokens",
        "flops",
        "loss",
        "bits_per_byte",
        "source",
        "seed",
        "kind",
    )
    assert tuple(experiment.row.model_fields)[: len(COLUMNS)] == COLUMNS


def test_an_older_search_is_read_with_its_settings_gathered() -> None:
    from windtunnel.results.search import Chosen

    inside = {"lr": 0.02, "beta2": 0.97, "trial": 2, "losses": [3.5, None]}
    chosen = Chosen.model_validate(inside)
    assert chosen.point == {"lr": 0.02, "beta2": 0.97}
    assert chosen.losses == (3.5, None)
    assert chosen.model_dump(mode="json") == inside
