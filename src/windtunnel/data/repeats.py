"""How much of the held-out text stands word for word in the text to train on: in other versions of
a document, in quotations, in what many files begin with. What is held out is then partly learnt by
heart.
"""

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.shards import Corpus, TokenStream

# Tokens in a row that hardly ever come twice by chance: with a small vocabulary about as many
# characters as the 13 words by which evaluation data are looked for (Brown et al. 2020).
IN_A_ROW = 16
_HELD_OUT = 1 << 20  # tokens of a source's held-out text that are looked for
_READ = 1 << 26  # tokens of its text to train on that are looked through
_AT_ONCE = 1 << 21
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def repeated(corpus: Corpus) -> dict[str, float]:
    """By source, the share of the places in its held-out text whose next `IN_A_ROW` tokens stand
    in that order in the source's text to train on. Of more than a million held-out tokens the first
    ones are looked for, in the first 67 million tokens: of longer texts, what is found is the least
    that there is.
    """
    return {
        name: _repeated(source.train, source.validation) for name, source in corpus.sources.items()
    }


def _repeated(train: TokenStream, held_out: TokenStream) -> float:
    if held_out.tokens < IN_A_ROW:
        return 0.0
    wanted = _hashes(_between(held_out, 0, min(held_out.tokens, _HELD_OUT)))
    known, places = np.unique(wanted, return_inverse=True)
    found = np.zeros(len(known), bool)
    most = min(train.tokens, _READ)
    for start in range(0, most, _AT_ONCE):
        # the last tokens before come once more: rows cross from one part into the next
        hashes = _hashes(_between(train, max(0, start - IN_A_ROW + 1), min(most, start + _AT_ONCE)))
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        found[at[known[at] == hashes]] = True
    return float(found[places].mean())


def _between(stream: TokenStream, start: int, end: int) -> NDArray[np.integer]:
    """Tokens from `start` to `end`."""
    return stream.read(np.array([start]), end - start)[0]


def _hashes(tokens: NDArray[np.integer]) -> Hashes:
    """Of every `IN_A_ROW` tokens in a row."""
    count = max(0, len(tokens) - IN_A_ROW + 1)
    found = np.zeros(count, np.uint64)
    for offset in range(IN_A_ROW):
        found = found * _FACTOR + tokens[offset : offset + count].astype(np.uint64) + np.uint64(1)
    return found
