"""What an evaluation asks of a model, whatever it is computed with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# Called with how many of the asked things are done since the last call.
Done = Callable[[int], None]
# Called with what is being done, how much of it is done, and how much there is.
Show = Callable[[str, float, float | None], None]


class Pair(NamedTuple):
    """What a model is to say, and after what. Both are ids of tokens, and neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """How likely a model finds a continuation."""

    nats: float
    """The sum of the log-probabilities of its tokens, never above 0."""
    greedy: bool
    """Whether each of them is the likeliest token at its place."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is generated."""

    most: int
    """Tokens, at most."""
    stops: tuple[str, ...] = ()
    """Texts that end it, and that are left out of it."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that have this probability together."""
    seed: int = 0


class Evaluated(Protocol):
    """A model that is evaluated."""

    name: str
    context: int
    """Tokens of the longest sequence."""
    prefix: int
    """The token before a text that has nothing else before it."""
    end: int
    """The token that ends a text."""
    engine: str
    """What it is computed with."""

    def encode(self, text: str, around: bool = True) -> list[int]:
        """The ids of a text, in which special tokens are written by their names; with what the
        tokenizer puts `around` every text, or without.
        """
        ...

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. A special token that is written in it is text as well, and nothing
        is put around it.
        """
        ...

    def likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
        """Of each pair, of which none is longer than the context and one token more."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, done: Done
    ) -> list[str]:
        """The text after each prompt, up to the first stop. A prompt with `sampling.most` tokens
        more is no longer than the context.
        """
        ...


def nothing(_: int) -> None:
    """For `Done`, where nobody watches."""
