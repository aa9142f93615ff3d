"""What a run recorded is what each tracker's own package reads back, without a network."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.trackers import TRACKERS, lines_of, track
from windtunnel.train.loop import train
from windtunnel.train.run import Run, create


@pytest.fixture(scope="module")
def run(make_lab: Callable[[], Any], stem: Callable[..., Recipe]) -> Run:
    lab = make_lab().path
    corpus = Corpus.open(lab / "corpora" / "tiny")
    made = create(lab, stem(2560), corpus)
    assert train(made, corpus).status == "done"
    return made


def losses(run: Run) -> list[tuple[int, float]]:
    return [(step.tokens, step.loss) for step in run.steps()]


def test_the_lines_are_those_of_the_metrics(run: Run) -> None:
    lines = lines_of(run)
    kept = [(at, values["train/loss"]) for at, values in lines if "train/loss" in values]
    assert kept == losses(run) and len(kept) == 20
    held = [values for _, values in lines if "held-out/loss" in values]
    assert held[-1]["held-out/loss"] == run.status().loss
    assert held[-1]["held-out/prose/bits_per_byte"] > 0


def test_tensorboard_reads_it(run: Run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the same again replaces itself
        folder = track(run, TRACKERS["tensorboard"])
    read = EventAccumulator(str(folder / run.id))
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert found == [(tokens, pytest.approx(loss)) for tokens, loss in losses(run)]
    assert read.Scalars("held-out/bits_per_byte")


def records_in(file: Path) -> Iterator[bytes]:
    """Of a .wandb file: LevelDB's log, in blocks of 32 KiB, each chunk with its length and kind."""
    data, at, whole = file.read_bytes(), 7, b""
    while at < len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        if kind in (1, 4):  # the whole of a record, or its end
            yield whole
            whole = b""
        at += 7 + length


def test_wandb_keeps_it_offline(run: Run) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = track(run, TRACKERS["wandb"])
    (file,) = (folder / "wandb").glob(f"offline-run-*-{run.id}/*.wandb")
    give_up = time.monotonic() + PATIENCE
    records: list[Any] = []
    # another process of the package's writes the file, and its last record is that of the exit
    while not any(one.HasField("exit") for one in records) and time.monotonic() < give_up:
        records = [Record.FromString(data) for data in records_in(file)]
    found = []
    for record in records:
        for item in record.history.item:
            if "train/loss" in (item.key, *item.nested_key):
                found.append(float(item.value_json))
    assert found == [pytest.approx(loss) for _, loss in losses(run)]


def test_trackio_keeps_it_here(run: Run) -> None:
    pytest.importorskip("trackio")
    code = (
        "import json, sys; from windtunnel.report.trackers import *; "
        "from windtunnel.train.run import open_run; run = open_run(Path(sys.argv[1])); "
        "[track(run, TRACKERS['trackio']) for _ in range(2)]; "
        "from trackio.sqlite_storage import SQLiteStorage; "
        "print(json.dumps(SQLiteStorage.get_logs(run.lab.name, run.recipe.name)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((run.lab / "trackers/trackio").glob("*.db"))
    logs = json.loads(done.stdout.splitlines()[-1])
    found = [(log["step"], log["train/loss"]) for log in logs if "train/loss" in log]
    assert sorted(found) == losses(run)


def test_a_package_that_is_missing_is_one_line(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"--to wandb: needs wandb; `pip install"):
        track(run, TRACKERS["wandb"])


def test_a_run_that_recorded_nothing_is_refused(
    run: Run, stem: Callable[..., Recipe], tmp_path: Path
) -> None:
    corpus = Corpus.open(run.lab / "corpora" / "tiny")
    begun = create(run.lab, stem(2560).change(name="begun", seed=9), corpus)
    with pytest.raises(InputError, match="recorded nothing"):
        track(begun, TRACKERS["tensorboard"])
