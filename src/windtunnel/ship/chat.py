"""A conversation with a run, by our own sampling, or with a GGUF file, by llama.cpp."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from windtunnel.data.chat_format import Message, format_of
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.llama_cpp import LlamaCpp
from windtunnel.train.run import Run


@dataclass(frozen=True)
class Sampling:
    """`most`: tokens of one answer at most. Temperature 0 takes the likeliest token."""

    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    most: int = 256


class Answers(Protocol):
    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        """The answer to a conversation; `say` hears it piece by piece."""
        ...


@dataclass
class Chat:
    """What was said so far, and who answers."""

    who: Answers
    sampling: Sampling
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def ask(self, text: str, say: Callable[[str], None]) -> str:
        """The answer to what a person says next."""
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        question: Message = {"role": "user", "content": text}
        answer = self.who.answer([*before, *self.turns, question], self.sampling, say)
        self.turns += [question, {"role": "assistant", "content": answer}]
        return answer


class OwnModel:
    """A run's last checkpoint, in fp32 on the processor."""

    def __init__(self, run: Run) -> None:
        from windtunnel.train.loop import load_model

        self._tokenizer = Tokenizer.load(run.tokenizer)
        self._format = format_of(self._tokenizer)
        self._model = load_model(run)

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        """Ends with the token that ends a message, or a document."""
        from windtunnel.model.generate import generate

        ids, said, given = self._format.encode(self._tokenizer, messages), "", []
        ends = {self._tokenizer.id(self._format.closing), self._tokenizer.eos}
        for token in generate(
            self._model, ids, sampling.most, sampling.temperature, sampling.top_p, sampling.seed
        ):
            if token in ends:
                break
            given.append(token)
            text = self._tokenizer.decode(given)
            if not text.endswith("\ufffd"):  # else a character that is not whole yet
                say(text[len(said) :])
                said = text
        return said


class GGUFModel(AbstractContextManager["GGUFModel"]):
    """A file, its own chat template, and llama.cpp."""

    def __init__(self, file: Path) -> None:
        self._engine = LlamaCpp(file)

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def answer(
        self, messages: list[Message], sampling: Sampling, say: Callable[[str], None]
    ) -> str:
        asked = {
            "max_tokens": sampling.most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        return self._engine.answer(messages, say, **asked, seed=sampling.seed)
