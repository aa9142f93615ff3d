"""The tokens that a run reads: its order, applied to a corpus."""

import json
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.order import Order, OrderStage
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError, did_you_mean
from windtunnel.recipe import Data, Mixture


class Windows:
    """Windows of `data.context` + 1 tokens by position, those of conversations marked
    (`TokenStream.marked`). Raises InputError for a mixture or a context that the corpus can't
    give.
    """

    def __init__(self, corpus: Corpus, data: Data, seed: int) -> None:
        packing = corpus.manifest.packing
        if packing and packing.context != data.context:
            what = "conversations" if corpus.is_chat else "documents"
            raise InputError(
                f"data.context={data.context}: the {what} of {corpus.folder} are packed "
                f"into windows of {packing.context} tokens"
            )
        self.corpus, self.context = corpus, data.context
        settings = json.dumps(data.model_dump(mode="json"), sort_keys=True)
        # Windows of one key give the same tokens at every position.
        self.key: Hashable = (corpus.digest, settings, seed)
        # The last token of a window is the first of the next: every token but the very first is a
        # target each epoch.
        held = {
            name: max(0, source.train.tokens - 1) // data.context
            for name, source in corpus.sources.items()
        }
        # Of the first stage, which a stem and all its branches share.
        self.weights = self._mixture(data.mixture, held)
        stages = [OrderStage(0, self.weights)]
        for stage in data.stages:
            stages.append(OrderStage(stage.at // data.context, self._mixture(stage.mixture, held)))
        self.order = Order(seed, held, stages)
        self._streams = [corpus.sources[name].train for name in self.order.sources]

    def read(self, position: int, tokens: int) -> NDArray[np.int64]:
        """The windows of `tokens` tokens from a position, both multiples of the context: (n,
        context + 1).
        """
        source, window = self.order.at(position // self.context, tokens // self.context)
        # One read a source, however the windows of the sources lie among each other.
        result = np.empty((len(source), self.context + 1), np.int64)
        for index in np.unique(source):
            here = source == index
            result[here] = self._streams[index].marked(
                window[here] * self.context, self.context + 1
            )
        return result

    def validation(self, source: str, tokens: int) -> NDArray[np.int64]:
        """Windows of a source's validation split, evenly spread over it, of at most `tokens`
        tokens: (n, context + 1). The first ones alone could be all of one long document.
        """
        stream, held = self.corpus.sources[source].validation, self._held_out(source)
        count = min(held, max(1, tokens // self.context))
        # the middle one of each of `count` equal parts, in exact arithmetic
        index = (2 * np.arange(count, dtype=np.int64) + 1) * held // max(1, 2 * count)
        return stream.marked(index * self.context, self.context + 1)

    @property
    def unvalidated(self) -> list[str]:
        """Sources of the mixture whose held-out text holds no whole window, so that no loss says
        anything of them.
        """
        drawn = [source for source, weight in self.weights.items() if weight]
        return [source for source in drawn if not self._held_out(source)]

    @property
    def are_validated(self) -> bool:
        """Whether any source of the mixture has held-out text."""
        return len(self.unvalidated) < sum(weight > 0 for weight in self.weights.values())

    def _held_out(self, source: str) -> int:
        """Windows of a source's validation split."""
        return max(0, self.corpus.sources[source].validation.tokens - 1) // self.context

    def _mixture(self, mixture: Mixture, held: dict[str, int]) -> dict[str, float]:
        """The weights by source; without a mixture, as many windows as each source holds."""
        where = f"{self.corpus.folder}: the mixture"
        for name in mixture:
            if name not in held:
                known = ", ".join(held)
                raise InputError(
                    f"{where} names '{name}', not a source of this corpus ({known})"
                    f"{did_you_mean(name, held)}"
                )
        weights = mixture or {name: float(windows) for name, windows in held.items()}
        for name, weight in weights.items():
            if weight and not held[name]:
                raise InputError(
                    f"{where} draws on '{name}', which holds less than one window of "
                    f"{self.context} tokens"
                )
        if not any(weights.values()):
            raise InputError(
                f"{self.corpus.folder}: no source holds a window of {self.context} tokens"
            )
        return weights


# Readers of windows, each with a token position.
Places = Sequence[tuple[Windows, int]]
# Places, and how many tokens to read from each.
Wanted = tuple[Places, int]


class Prefetched:
    """Batches of one or more readers of windows, each read while the one before it is learnt."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[Wanted, Future[NDArray[np.int64]]] | None = None

    def read(self, wanted: Wanted, then: Wanted) -> NDArray[np.int64]:
        """The windows that are wanted, (places, n, context + 1); `then`: what will most likely be
        wanted next, which is read while these are learnt.
        """
        ready = self._next and self._next[0] == wanted
        batch = self._next[1].result() if self._next and ready else _read(*wanted)
        self._next = then, self._thread.submit(_read, *then)
        return batch


def _read(places: Places, tokens: int) -> NDArray[np.int64]:
    """Places that give the same tokens are read once."""
    once = {(windows.key, position): (windows, position) for windows, position in places}
    batches = {same: windows.read(position, tokens) for same, (windows, position) in once.items()}
    return np.stack([batches[windows.key, position] for windows, position in places])
