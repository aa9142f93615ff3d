"""An export: where it goes by default, what it may replace, and what is never written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_jobs import on_ranks, train_and_keep_gradients
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.results.export import Agreement
from windtunnel.ship import export as module
from windtunnel.ship.export import Disagreement, export, export_table
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.place import MARKER
from windtunnel.train.run import Run, open_run


@pytest.fixture
def run(tmp_path: Path, corpus: Corpus) -> Run:
    """An imported model; MiniCPM's layout is read back by this project itself, without an
    engine.
    """
    model = model_of("grouped")
    portable = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
    (tmp_path / "theirs model").mkdir()
    folder = LAYOUTS["minicpm"].write(tmp_path / "theirs model", portable, "fp32")
    return import_model(folder, tmp_path / "lab")


def test_every_choice_is_in_the_name_of_the_folder(run: Run) -> None:
    made = export(run, "minicpm")
    assert made.path == run.lab / "exports" / f"theirs-model-{run.id}-minicpm-fp32"
    assert (made.to, made.dtype, made.tokens) == ("minicpm", "fp32", 0)
    at = export(run, "minicpm", at=0, dtype="BF16")
    assert at.path.name == f"theirs-model-{run.id}-0-minicpm-bf16" and at.dtype == "bf16"
    assert {file.name for file in made.path.iterdir()} >= {"config.json", "README.md", MARKER}
    assert made.agreement.good and made.agreement.engine == "read back by windtunnel"


def test_what_several_processes_trained_is_exported_like_any_other(
    tmp_path: Path, recipe: Callable[..., Recipe], corpus: Corpus
) -> None:
    """Each of them wrote its shares of the weights to a file of its own."""
    pytest.importorskip("transformers")
    lab = tmp_path / "lab"
    shutil.copytree(corpus.folder, lab / "corpora" / "tiny")
    short = recipe(schedule={"tokens": 2 * 128, "warmup": 0})
    assert on_ranks(2, train_and_keep_gradients, lab, short, corpus.folder, []) == [0, 0]
    run = open_run(next((lab / "runs").iterdir()))
    assert len(list(run.checkpoints.glob(f"{256:015d}/weights/*.safetensors"))) == 2
    assert export(run, "hf").agreement.good


def test_an_export_is_not_replaced_unless_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    export(run, "minicpm", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"there is an export here already; replace it with --ove"):
        export(run, "minicpm", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    export(run, "minicpm", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() != "mine"


def test_a_table_is_not_replaced_unless_that_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def precisions(subject: Any, folder: Path) -> list[Any]:
        (folder / "x.gguf").write_text("new")
        return []

    monkeypatch.setattr(module, "precisions", precisions)
    export_table(run, tmp_path / "out")
    (tmp_path / "out" / "x.gguf").write_text("old")
    with pytest.raises(InputError, match="there is an export here already"):
        export_table(run, tmp_path / "out")
    assert (tmp_path / "out" / "x.gguf").read_text() == "old"
    export_table(run, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "x.gguf").read_text() == "new"
    export_table(run)
    assert (run.lab / "exports" / f"theirs-model-{run.id}-table" / "x.gguf").exists()


def test_what_an_engine_does_not_confirm_is_not_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*_: Any) -> Agreement:
        return agreement(wrong_lines=1)

    monkeypatch.setattr(module, "verify", off)
    with pytest.raises(Disagreement, match=r"fp32 was not written, because the model would be off"):
        export(run, "minicpm")
    assert not list((run.lab / "exports").iterdir())


def agreement(**changes: Any) -> Agreement:
    values: dict[str, Any] = {
        "layout": "hf",
        "engine": "known",
        "tokens": 100,
        "max_difference": 1e-6,
        "mean_difference": 1e-7,
        "bits_per_byte": 2.0,
        "bits_per_byte_change": 0.0,
        "most": 1e-4,
        "most_change": None,
        "lines": 10,
        "wrong_lines": 0,
        "marked_lines": 5,
        "wrong_marked_lines": 0,
        "template": None,
        "ends": ["<|end|>"],
        "missed_ends": [],
    }
    return Agreement(**values | changes)
