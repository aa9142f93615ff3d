"""A conversation: what is said again each time, and where an answer of a run's own model ends."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from windtunnel.data.chat_format import Message, format_of
from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.ship.chat import Chat, OwnModel, Sampling
from windtunnel.train.run import Run, create


class Parrot:
    """Answers with how many messages it was given, and keeps them."""

    def __init__(self) -> None:
        self.given: list[list[Message]] = []

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        self.given.append(list(messages))
        say("said")
        return str(len(messages))


@pytest.mark.parametrize("system", ["", "be kind"])
def test_all_that_was_said_is_said_again(system: str) -> None:
    parrot, heard = Parrot(), list[str]()
    chat = Chat(parrot, Sampling(), system)
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    first, second = (chat.ask(text, heard.append) for text in ("one", "two"))
    assert (first, second) == (str(len(before) + 1), str(len(before) + 3))
    assert heard == ["said", "said"]
    turns: list[Message] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
    ]
    assert parrot.given == [[*before, *turns[:1]], [*before, *turns]]
    assert chat.turns == [*turns, {"role": "assistant", "content": second}]


def test_how_an_answer_is_sampled_where_nobody_says() -> None:
    usual = Sampling()
    assert (usual.temperature, usual.top_p, usual.seed, usual.most) == (0.8, 0.95, 0, 256)


@pytest.fixture
def run(lab: Any, recipe: Callable[..., Recipe], corpus: Corpus) -> Run:
    return create(lab.path, recipe(), corpus)


def answered(
    run: Run, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tokens: Sequence[int]
) -> tuple[str, list[str], list[Any]]:
    """What a model says that generates these tokens, its pieces, and what was asked of it."""
    asked: list[Any] = []

    def generate(model: Any, ids: list[int], *how: Any) -> Iterator[int]:
        asked.extend([ids, how])
        yield from tokens

    monkeypatch.setattr("windtunnel.train.loop.load_model", lambda run: None)
    monkeypatch.setattr("windtunnel.model.generate.generate", generate)
    pieces: list[str] = []
    sampling = Sampling(temperature=0.3, top_p=0.7, seed=9, most=11)
    messages: list[Message] = [{"role": "user", "content": "hi"}]
    said = OwnModel(run).answer(messages, sampling, pieces.append)
    assert asked[0] == format_of(corpus.tokenizer).encode(corpus.tokenizer, messages)
    assert asked[1] == (11, 0.3, 0.7, 9)
    return said, pieces, asked


def test_an_answer_ends_at_the_token_that_closes_it(
    run: Run, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = corpus.tokenizer.encode("wind sel").tolist()
    closing = corpus.tokenizer.id(format_of(corpus.tokenizer).closing)
    for end in {closing, corpus.tokenizer.eos}:
        said, pieces, _ = answered(run, corpus, monkeypatch, [*text, end, *text])
        assert said == "".join(pieces) == "wind sel"


def test_a_character_is_said_when_it_is_whole(
    run: Run, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = corpus.tokenizer.encode("a日b").tolist()
    assert len(ids) == 5, "three tokens of one character"
    said, pieces, _ = answered(run, corpus, monkeypatch, ids)
    assert said == "a日b" and pieces == ["a", "日", "b"]
    said, pieces, _ = answered(run, corpus, monkeypatch, ids[:3])
    assert said == "a" and pieces == ["a"], "what is left of one is not said"
