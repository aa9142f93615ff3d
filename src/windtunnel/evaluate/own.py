"""A model of ours that is evaluated: its weights in our own decoder, with its tokenizer. No export
is needed.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.evaluate.likelihood import likelihoods
from windtunnel.evaluate.model import Done, Likelihood, Pair, Sampling
from windtunnel.model.decoder import Decoder
from windtunnel.model.generate import continued, sampler
from windtunnel.recipe import Model

_CHARACTER = 4  # bytes of one, at most: tokens that may hold it in parts


class OwnModel:
    """A model in fp32, as `evaluate.model.Evaluated` has it."""

    def __init__(
        self,
        name: str,
        model: Model,
        weights: Mapping[str, Tensor],
        context: int,
        tokenizer: Tokenizer,
        begin: int | None,
        ends: Sequence[int],
        device: str,
    ) -> None:
        """`begin`: the token that begins a text, where there is one; `ends`: those that end an
        answer, the first of them what ends a text.
        """
        self.name, self.context, self.tokenizer = name, context, tokenizer
        self.end = ends[0]
        self.prefix = self.end if begin is None else begin
        self._ends = frozenset(ends)
        self._decoder = Decoder(model, context)
        self._decoder.load_state_dict({n: weight.float() for n, weight in weights.items()})
        self._decoder.to(device).requires_grad_(False)
        self.engine = f"windtunnel, {device}, fp32"

    def encode(self, text: str, around: bool = True) -> list[int]:
        """As `Evaluated` has it."""
        return self.tokenizer.encode_marked(text, around)

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """As `Evaluated` has it."""
        return [ids.tolist() for ids in self.tokenizer.encode_batch(texts)]

    def likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
        """As `Evaluated` has it."""
        return likelihoods(self._decoder, pairs, done)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, done: Done
    ) -> list[str]:
        """As `Evaluated` has it."""
        seeds = [sampling.seed + number for number in range(len(prompts))]
        choose = sampler(sampling.temperature, sampling.top_p, seeds)
        # tokens that surely hold the longest stop, if it has just been written
        tail = _CHARACTER + max((len(stop.encode()) for stop in sampling.stops), default=0)

        def ended(written: list[int]) -> bool:
            if written[-1] in self._ends:
                return True
            text = self._text(written[-tail:]) if sampling.stops else ""
            return any(stop in text for stop in sampling.stops)

        written = continued(self._decoder, prompts, sampling.most, choose, ended, done)
        return [until(self._text(ids), sampling.stops) for ids in written]

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(i for i in ids if i not in self._special)

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.id(name) for name in self.tokenizer.special)


def until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
