"""llama.cpp as we drive it."""

import os
import signal
import time
from pathlib import Path

import pytest
from ship_models import SHAPES, model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.ship.gguf.model import write
from windtunnel.ship.llama_cpp import LlamaCpp, apart

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def test_it_answers_after_a_pause(tmp_path: Path, corpus: Corpus) -> None:
    """Its server ends connections that were idle for five seconds; scoring text takes longer than
    that.
    """
    model, file = model_of(next(iter(SHAPES))), tmp_path / "x.gguf"
    write(file, portable_of(model, weights_of(model), corpus.tokenizer), "F32")
    expected = corpus.tokenizer.encode("a word").tolist()
    with LlamaCpp(file, 64) as engine:
        assert engine.tokenise(["a word"]) == [expected]
        time.sleep(6.5)
        assert engine.tokenise(["a word", "a word"]) == [expected] * 2


def test_what_llama_cpp_does_to_its_process_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"x\.gguf: the process that ran llama\.cpp on it was killed, or crashed"
    ):
        apart(_abort, tmp_path / "x.gguf")
    with pytest.raises(InputError, match=r"x\.gguf: cannot be read"):
        apart(LlamaCpp, tmp_path / "x.gguf")


def _abort(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGABRT)
