"""What a model loses at each position of long held-out texts: near its beginning, where the old
context reached, and far from it.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.results.run import Engine
from windtunnel.train.validation import losses_of

NEAR, FAR = "near", "far"
_WIDER = 4  # a band ends this many times as far away as it begins


def texts_of(corpus: Corpus, length: int, most: int) -> NDArray[np.int64]:
    """Parts of single held-out documents, of `length` tokens and one more as the last target,
    (texts, length + 1): as many as there are, up to `most`, evenly from every source. Raises
    InputError where there is none.
    """
    parts = [list(_parts(corpus, name, length)) for name in corpus.sources]
    chosen: list[tuple[str, int]] = []
    for number in range(max(map(len, parts), default=0)):
        chosen += [of_source[number] for of_source in parts if number < len(of_source)]
    if not chosen:
        raise InputError(
            f"{corpus.folder}: no held-out document has more than {length} tokens; expected a "
            "corpus with long documents (see `windtunnel corpus show`), or a smaller --to"
        )
    read = []
    for name, start in chosen[:most]:
        read.append(corpus.sources[name].validation.read(np.array([start]), length + 1)[0])
    return np.stack(read)


def _parts(corpus: Corpus, name: str, length: int) -> Iterator[tuple[str, int]]:
    """Where each begins in the held-out stream of a source."""
    stream = corpus.sources[name].validation
    for begin, end in pairwise([*stream.starts.tolist(), stream.tokens]):
        for start in range(begin, end - length, length):
            yield name, start


def losses_at(
    model: Decoder, texts: NDArray[np.int64], engine: Engine, was: int
) -> dict[str, float]:
    """Nats a token by part of the texts' positions."""
    length = texts.shape[1] - 1
    whole = engine.model_copy(update={"micro_batch": length})
    (nats,), _ = losses_of(model, torch.from_numpy(texts), whole, None)
    return {name: float(nats[:, start:end].mean()) for name, start, end in bands(was, length)}


def bands(was: int, length: int) -> list[tuple[str, int, int]]:
    """Parts of the positions by name, from and to: below the old context, from it on, and the
    latter in bands where there are several.
    """
    edges = [was]
    while edges[-1] < length:
        edges.append(min(length, edges[-1] * _WIDER))
    parts = [(NEAR, 0, was), (FAR, was, length)]
    if len(edges) > 2:
        parts += [(f"{start}-{end}", start, end) for start, end in pairwise(edges)]
    return parts
