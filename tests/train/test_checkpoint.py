"""Checkpoints are there whole or not at all, say when they are damaged, and hold nothing that
could be executed.
"""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from windtunnel.errors import InputError
from windtunnel.results.run import CheckpointContent
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint


def state(tokens: int, seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    weights = {"a": torch.randn(3, 4), "layers.0.b": torch.randn(5)}
    moments = {
        f"{kind}.{name}": torch.randn_like(w)
        for kind in ("first", "second")
        for name, w in weights.items()
    }
    return Checkpoint(tokens, tokens // 128, weights, moments)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    saved = state(1280)
    checkpoint.save(tmp_path / "c", saved)
    loaded = checkpoint.load(tmp_path / "c", 1280)
    assert (loaded.tokens, loaded.steps) == (1280, 10)
    for name in ("weights", "moments"):
        ours, theirs = getattr(loaded, name), getattr(saved, name)
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[key], theirs[key]) for key in ours
        )


def test_weights_are_read_one_by_one(tmp_path: Path) -> None:
    saved = state(1280)
    checkpoint.save(tmp_path / "c", saved)
    weights = checkpoint.Weights(tmp_path / "c", 1280)
    assert set(weights) == set(saved.weights) and len(weights) == 2
    assert "a" in weights and "first.a" not in weights
    assert all(torch.equal(weights[name], value) for name, value in saved.weights.items())
    (checkpoint.path_of(tmp_path / "c", 1280) / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="damaged: its sha256"):
        checkpoint.Weights(tmp_path / "c", 1280)


def test_weights_have_a_name_however_many_files_they_are_in() -> None:
    one = {"weights.safetensors": "a", "moments.safetensors": "b"}
    two = {"weights/1.safetensors": "a", "weights/2.safetensors": "b", "moments/1": "c"}
    first, second, other = (
        checkpoint.weights_of(CheckpointContent(tokens=1, steps=1, sha256=files))
        for files in (one, two, two | {"weights/2.safetensors": "c"})
    )
    assert first == "a" and len({first, second, other}) == 3


def test_views_of_one_buffer_are_saved_each_for_itself(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    views = {"a": flat[:4].view(2, 2), "b": flat[4:].view(2, 4)}
    checkpoint.save(tmp_path / "c", Checkpoint(128, 1, views, {}))
    loaded = checkpoint.load(tmp_path / "c", 128).weights
    assert loaded["a"].tolist() == [[0, 1], [2, 3]] and loaded["b"].flatten().tolist() == list(
        range(4, 12)
    )


def test_what_a_crash_left_is_no_checkpoint_and_does_not_disturb(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(128))
    half = checkpoint.path_of(tmp_path, 256).with_suffix(".part")
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    gone = checkpoint.path_of(tmp_path, 64).with_suffix(".gone")
    gone.mkdir()
    (gone / "moments.safetensors").write_bytes(b"half")
    assert checkpoint.positions(tmp_path) == [128]
    checkpoint.save(tmp_path, state(256))
    assert checkpoint.load(tmp_path, 256).steps == 2
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        checkpoint.path_of(tmp_path, t).name for t in (128, 256)
    ]


@pytest.mark.parametrize("name", ["weights.safetensors", "moments.safetensors"])
def test_a_changed_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    file = checkpoint.save(tmp_path, state(128)) / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: damaged"):
        checkpoint.load(tmp_path, 128)
    file.unlink()
    with pytest.raises(InputError, match=f"{name}: damaged"):
        checkpoint.load(tmp_path, 128)


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "3", '{"steps": 1}', '{"steps": 1, "sha256": null}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: str | None) -> None:
    record = checkpoint.save(tmp_path, state(128)) / "checkpoint.json"
    record.unlink() if content is None else record.write_text(content)
    with pytest.raises(InputError, match=r"checkpoint\.json"):
        checkpoint.load(tmp_path, 128)


class Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.sprung,)


def test_a_pickle_is_refused_and_not_executed_even_with_the_right_checksum(tmp_path: Path) -> None:
    folder, sprung = checkpoint.save(tmp_path / "c", state(128)), tmp_path / "sprung"
    for data in (pickle.dumps(Trap(sprung)), b"", b"\x00" * 100):
        (folder / "weights.safetensors").write_bytes(data)
        record = json.loads((folder / "checkpoint.json").read_text())
        record["sha256"]["weights.safetensors"] = hashlib.sha256(data).hexdigest()
        (folder / "checkpoint.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=r"weights\.safetensors"):
            checkpoint.load(tmp_path / "c", 128)
    assert not sprung.exists()


def test_pruning_keeps_the_newest_and_what_is_pinned(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint.save(tmp_path, state(128 * step))
    checkpoint.pin(tmp_path, 256)
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.positions(tmp_path) == [256, 640, 768]
    assert checkpoint.load(tmp_path, 256).steps == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    blocked = checkpoint.path_of(tmp_path / "c", 128)
    blocked.mkdir()
    (blocked / "something").touch()  # so that no rename can replace it
    with pytest.raises(InputError, match=f"{blocked}: the checkpoint could not be written"):
        checkpoint.save(tmp_path / "c", state(128))
    assert [p.name for p in (tmp_path / "c").iterdir()] == [blocked.name]


def test_it_is_read_into_the_memory_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would have to hold it beside the model, and "cuda" is the first one for safetensors,
    whichever a process trains on.
    """
    checkpoint.save(tmp_path, Checkpoint(128, 1, {"a": torch.ones(2)}, {}))
    asked: list[tuple[object, ...]] = []
    read = safetensors.torch.load_file

    def load_file(file: Path, *more: object, **named: object) -> dict[str, torch.Tensor]:
        asked.append((*more, *named.items()))
        return read(file)

    monkeypatch.setattr(safetensors.torch, "load_file", load_file)
    checkpoint.load(tmp_path, 128)
    assert asked == [(), ()]
