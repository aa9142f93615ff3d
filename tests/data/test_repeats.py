"""What of the held-out text stands in the text to train on."""

from pathlib import Path

import numpy as np
import pytest

from windtunnel.data import repeats
from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.repeats import repeated
from windtunnel.data.shards import Corpus

WORDS, LENGTH, DOCUMENTS = [f"w{number}" for number in range(300)], 200, 400


def corpus(folder: Path, copied: float) -> Corpus:
    """Documents of random words; the same text, so large a share of each, begins them all."""
    rng = np.random.default_rng(0)
    same = rng.choice(WORDS, round(copied * LENGTH)).tolist()
    own = LENGTH - len(same)
    texts = [" ".join(same + rng.choice(WORDS, own).tolist()) for _ in range(DOCUMENTS)]
    source = Documents(read=lambda: iter(texts), origin="made", identity=str(copied))
    return build(folder, {"one": source}, vocab=512, validation=0.1)


@pytest.mark.parametrize("copied", [0.0, 0.25, 0.5])
def test_what_every_document_begins_with_is_counted_and_their_own_words_are_not(
    tmp_path: Path, copied: float
) -> None:
    assert repeated(corpus(tmp_path / "c", copied))["one"] == pytest.approx(copied, abs=0.05)


def test_what_crosses_from_one_part_into_the_next_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = corpus(tmp_path / "c", 0.5)
    whole = repeated(made)
    monkeypatch.setattr(repeats, "_AT_ONCE", 37)
    assert repeated(made) == whole


def test_it_looks_no_farther_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = corpus(tmp_path / "c", 0.5)
    monkeypatch.setattr(repeats, "_READ", 8)
    assert repeated(made)["one"] == 0.0


def test_a_source_of_which_nothing_is_held_out_has_none(tmp_path: Path) -> None:
    source = Documents(read=lambda: iter(["a few words"]), origin="made", identity="few")
    assert repeated(build(tmp_path / "c", {"one": source}, vocab=260)) == {"one": 0.0}
