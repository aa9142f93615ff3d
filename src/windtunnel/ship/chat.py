"""A conversation with a run, by our own sampling, or with a GGUF file, by llama.cpp."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from windtunnel.data.chat_format import Message, format_of
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.llama_cpp import LlamaCpp
from windtunnel.train.run import Run, lineage


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token of an answer is chosen."""

    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_p: float = 0.95
    """Only the likeliest tokens that have this probability together."""
    seed: int = 0
    most: int = 256
    """Tokens of one answer, at most."""


class Answers(Protocol):
    """Who answers in a conversation."""

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        """The answer to a conversation; `say` is called with each piece of it."""
        ...


@dataclass
class Chat:
    """What was said so far, and who answers."""

    who: Answers
    sampling: Sampling
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def ask(self, text: str, say: Callable[[str], None]) -> str:
        """The answer to what a person says next; `say` is called with each piece of it."""
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        question: Message = {"role": "user", "content": text}
        answer = self.who.answer([*before, *self.turns, question], self.sampling, say)
        self.turns += [question, {"role": "assistant", "content": answer}]
        return answer


class OwnModel:
    """A run's last checkpoint, in fp32 on the processor."""

    def __init__(self, run: Run) -> None:
        """Raises InputError for a run without a checkpoint, or whose tokenizer has no tokens for a
        conversation.
        """
        from windtunnel.ship.import_model import brought_configs
        from windtunnel.ship.marks import marks_of
        from windtunnel.train.loop import load_model

        self._tokenizer = Tokenizer.load(run.tokenizer)
        self._format = format_of(self._tokenizer)
        # What closes an answer, what ends a document, and what an imported ancestor ends with.
        brought = marks_of(self._tokenizer, *brought_configs(lineage(run)[-1]))
        closing = self._format.ends(self._tokenizer)
        self._ends = {*closing, self._tokenizer.eos, *brought.ends}
        self._model = load_model(run)

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        """An answer, as `Answers` has it."""
        from windtunnel.model.generate import generate

        ids = self._format.encode(self._tokenizer, messages)
        tokens = generate(
            self._model, ids, sampling.most, sampling.temperature, sampling.top_p, sampling.seed
        )
        given: list[int] = []
        said = ""
        for token in tokens:
            if token in self._ends:
                break
            given.append(token)
            # All of it each time: a token alone may be a part of a character, or of a word that
            # takes a space with it.
            text = self._tokenizer.decode(given)
            if not text.endswith("\ufffd"):  # else its last character is not whole yet
                say(text[len(said) :])
                said = text
        return said


class GGUFModel(AbstractContextManager["GGUFModel"]):
    """A GGUF file with its own chat template, run by llama.cpp until its `with` block ends."""

    def __init__(self, file: Path, context: int | None = None) -> None:
        """`context`: the longest conversation, in tokens; None: what `LlamaCpp` takes. Raises
        InputError for a file that llama.cpp cannot load.
        """
        self._engine = LlamaCpp(file, context)

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        """An answer, as `Answers` has it."""
        return self._engine.answer(
            messages,
            say,
            n_predict=sampling.most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
