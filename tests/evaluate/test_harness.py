"""Scores through our class are those of lm-eval's own Hugging Face backend on the exported model,
to the last item.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.evaluate.bits import pieces
from windtunnel.evaluate.model import Evaluated, nothing
from windtunnel.evaluate.own import OwnModel
from windtunnel.evaluate.tasks import Asked, Scored, Task, evaluate_task, scored_by
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.portable import PortableModel

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

CONTEXT = 320
WORDS = ("wind", "sand", "tursel", "lorral", "gemna", "sarr", "the", "of")


def sentence(draw: random.Random, most: int = 12) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(2, most)))


def written(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def files(folder: Path) -> dict[str, Path]:
    """A task of each kind."""
    draw = random.Random(0)
    choices = [
        {
            "question": sentence(draw),
            "choices": [sentence(draw, 4) for _ in range(4)],
            "answer": draw.randrange(4),
        }
        for _ in range(12)
    ]
    endings = [
        {"ctx": sentence(draw), "endings": ["a", "b", "of sand", "the wind of"], "label": "B"}
        for _ in range(8)
    ]
    clozes = [{"text": sentence(draw)} for _ in range(9)]
    answers = [{"question": sentence(draw), "answer": sentence(draw, 2)} for _ in range(7)]
    numbers = [{"question": sentence(draw), "answer": f"so\n#### {at}"} for at in range(6)]
    return {
        "choices": written(folder, "choices", choices),
        "endings": written(folder, "endings", endings),
        "clozes": written(folder, "clozes", clozes),
        "answers": written(folder, "answers", answers),
        "numbers": written(folder, "numbers", numbers),
    }


@pytest.fixture(scope="module")
def portable(corpus: Corpus) -> PortableModel:
    model = model_of("grouped")
    tokenizer = corpus.tokenizer
    end = tokenizer.name(tokenizer.eos)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "bos_token": end,
        "clean_up_tokenization_spaces": False,
    }
    return portable_of(model, weights_of(model), tokenizer, CONTEXT, **settings)


@pytest.fixture(scope="module")
def model(portable: PortableModel) -> Evaluated:
    marks = portable.marks
    return OwnModel(
        "tiny",
        portable.model,
        portable.weights,
        portable.context,
        portable.tokenizer,
        marks.begin,
        [marks.end],
        "cpu",
    )


@pytest.fixture(scope="module")
def other(portable: PortableModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The exported model in lm-eval's own class."""
    from lm_eval.models import huggingface

    class_of: Any = huggingface.HFLM  # its arguments are hidden by a decorator

    folder = LAYOUTS["hf"].write(tmp_path_factory.mktemp("exported"), portable, "fp32")
    return class_of(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


def ours(model: Evaluated, task: Task, asked: Asked) -> list[Scored]:
    return evaluate_task(model, task, asked, None, lambda *_: None)


@pytest.mark.parametrize("name", ["choices", "endings", "clozes", "answers", "numbers"])
@pytest.mark.parametrize("shots", [None, 2])
def test_every_item_is_scored_as_by_lm_evals_own_backend(
    model: Evaluated, other: Any, tmp_path: Path, name: str, shots: int | None
) -> None:
    task, asked = Task.of(str(files(tmp_path)[name])), Asked(shots=shots)
    (got,), (expected,) = ours(model, task, asked), scored_by(other, task, asked)
    assert got.items == expected.items and len(got.items) >= 6
    for mine, theirs in zip(got.measures, expected.measures, strict=True):
        assert (mine.metric, mine.filter) == (theirs.metric, theirs.filter)
        if mine.metric == "perplexity":
            assert mine.value == pytest.approx(theirs.value, rel=1e-3)
            continue
        assert mine.values == theirs.values
        assert mine.stderr == pytest.approx(theirs.stderr)


def test_nothing_is_said_outside_of_a_repository(
    model: Evaluated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    task = Task.of(str(files(tmp_path)["choices"]))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    capfd.readouterr()
    ours(model, task, Asked(limit=2))
    assert "not a git repository" not in capfd.readouterr().err


def test_what_is_generated_is_what_lm_evals_own_backend_generates(
    model: Evaluated, other: Any
) -> None:
    from lm_eval.api.instance import Instance

    from windtunnel.evaluate.harness import Harness

    draw = random.Random(1)
    requests = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(sentence(draw, 30), {"until": ["\n", "nd", "e"], "max_gen_toks": most}),
            idx=0,
        )
        for most in (5, 40)
        for _ in range(8)
    ]
    expected = other.generate_until(requests, disable_tqdm=True)
    assert Harness(model, None, lambda *_: None).generate_until(requests) == expected
    assert len(set(expected)) > 4


def test_texts_longer_than_the_context_are_scored_as_by_lm_eval(
    model: Evaluated, other: Any
) -> None:
    from lm_eval.api.instance import Instance

    from windtunnel.evaluate.harness import Harness

    draw = random.Random(2)
    texts = [" ".join(sentence(draw) for _ in range(count)) for count in (1, 5, 130)]
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
        for text in texts
    ]
    assert len(model.encode(texts[-1])) > 2 * CONTEXT
    expected = other.loglikelihood_rolling(requests, disable_tqdm=True)
    found = Harness(model, None, lambda *_: None).loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 16, 17, 30])
def test_pieces_are_lm_evals_rolling_windows(count: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = list(range(100, 100 + count))
    windows = get_rolling_token_windows(ids, prefix_token=7, max_seq_len=8, context_len=1)
    expected = [tuple(map(tuple, make_disjoint_window(window))) for window in windows]
    assert [tuple(pair) for pair in pieces([7], ids, 8)] == expected


def test_half_of_the_room_is_for_the_question_of_a_long_answer() -> None:
    question, answer = list(range(20)), list(range(100, 125))
    pairs = list(pieces(question, answer, 8, half=True))
    assert [token for pair in pairs for token in pair.continuation] == answer
    for pair in pairs:
        assert len(pair.context) >= 4 and len(pair.context) + len(pair.continuation) <= 9
    assert pairs[0].context == tuple(question[-5:])
    (short,) = pieces(question[:3], answer[:4], 8, half=True)
    assert short == ((0, 1, 2), (100, 101, 102, 103))


def test_an_answer_longer_than_the_context_is_refused(model: Evaluated, tmp_path: Path) -> None:
    record = {"ctx": "the", "endings": ["of", "sand " * CONTEXT], "label": 0}
    task = Task.of(str(written(tmp_path, "long", [record])))
    with pytest.raises(InputError, match=f"longer than the context of tiny, {CONTEXT}"):
        ours(model, task, Asked())


def test_the_bits_of_a_text_are_those_of_its_likelihood(model: Evaluated, tmp_path: Path) -> None:
    from windtunnel.evaluate.bits import bits_per_byte, of_files

    draw = random.Random(3)
    texts = [sentence(draw, 20) for _ in range(40)]
    file = written(tmp_path, "texts", [{"text": text} for text in texts])
    items, measure = bits_per_byte(model, of_files("texts", file), False, nothing)
    assert len(set(items)) == len(items) == 40
    bits = [
        -model.likelihoods([*pieces([model.prefix], model.encode(text), CONTEXT)], nothing)[0].nats
        / math.log(2)
        for text in texts
    ]
    assert measure.values == pytest.approx(bits, rel=1e-4)
    assert measure.value == pytest.approx(sum(bits) / sum(map(len, texts)), rel=1e-4)
