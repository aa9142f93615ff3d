"""Text that no training saw, on which engines are compared with our own forward pass."""

import math
import pydoc_data.topics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from windtunnel.data.shards import Corpus, Source, TokenStream
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError

TOKENS = 2000
LINES = 1000
# Lines that tokenizers often split in different ways.
ODD_LINES = (
    "<|end|><|user|>special tokens, written out<|assistant|>",
    "tabs\tand  two   three spaces, trailing  ",
    "12345 1,234.5 ½ Ⅷ ٣٤٥ 四十二 ²³ x₁",
    "I'm, they'll, WE'VE, 'tis, don’t — “quoted” … ¿qué?",
    "naïve café, Ελληνικά, кириллица, עברית, العربية, हिन्दी, ไทย, 한국어, 日本語, 繁體中文",
    "e\u0301 (combining) \u00a0 (no break) \u200b (no width) "
    "\u2028 (line) \u3000 (wide) \ufeff (mark)",
    "🙂 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ﷽ \U0001f9ff \U00020000 \U000e0041",
    "a\u0000b \u0001\u001f\u007f\u0085 \ufffd \ufdd0",
)
_DECODED = 20_000  # tokens turned into text at once


@dataclass(frozen=True)
class HeldOut:
    """Held-out text, as windows of tokens to score and as lines to tokenise."""

    windows: np.ndarray
    """Token ids (n, context)."""
    bytes: int
    """Of the text of all tokens that are scored."""
    lines: tuple[str, ...]
    skip: int = 0
    """Tokens of each window, after its first, that are read and not scored: then the others stand
    beyond a context."""

    @property
    def tokens(self) -> int:
        """How many tokens have a log-probability."""
        return self.windows[:, 1 + self.skip :].size

    def bits_per_byte(self, log_probabilities: np.ndarray) -> float:
        """Of this text, whose scored tokens have these log-probabilities, nats."""
        return float(-log_probabilities.sum() / math.log(2) / max(1, self.bytes))


def held_out(
    corpus: Corpus, context: int, tokens: int = TOKENS, lines: int = LINES, skip: int = 0
) -> HeldOut:
    """At least `tokens` tokens to score, out of every source's validation split and spread over
    it, and `lines` lines of its text, odd ones first; of each window `skip` tokens after the first
    are read only. Raises InputError where no split holds a window.
    """
    sources = [source for source in corpus.sources.values() if source.validation.tokens >= context]
    if not sources:
        raise InputError(f"{corpus.folder}: no validation split holds {context} tokens")
    each = math.ceil(tokens / (context - 1 - skip) / len(sources))
    windows = spread([source.validation for source in sources], each, context)
    text = _lines(corpus, sources, lines - len(ODD_LINES))
    return _held_out(corpus.tokenizer, windows, text, lines, skip)


def documentation(tokenizer: Tokenizer, context: int, skip: int = 0) -> HeldOut:
    """Python's own documentation, for a model that brings no corpus: as much as `held_out`."""
    text = "\n".join(pydoc_data.topics.topics.values())
    count = math.ceil(TOKENS / (context - 1 - skip))
    ids = tokenizer.encode(text)[: count * context]
    windows = ids.astype(np.int64).reshape(-1, context)
    lines = [line for line in text.split("\n") if line]
    return _held_out(tokenizer, windows, lines, LINES, skip)


def spread(streams: Sequence[TokenStream], each: int, length: int) -> np.ndarray:
    """Windows of ids (n, length): `each` of every stream, evenly spread over it, or as many
    different ones as it has.
    """
    windows = []
    for stream in streams:
        starts = np.linspace(0, stream.tokens - length, each).astype(np.int64)
        windows.append(stream.read(np.unique(starts), length))
    return np.concatenate(windows)


def _held_out(
    tokenizer: Tokenizer, windows: np.ndarray, text: Sequence[str], lines: int, skip: int
) -> HeldOut:
    size = int(tokenizer.token_bytes[windows[:, 1 + skip :]].sum())
    return HeldOut(windows, size, (*ODD_LINES, *text)[:lines], skip)


def _lines(corpus: Corpus, sources: Sequence[Source], count: int) -> list[str]:
    """Lines of every source. A source that has fewer than its share leaves the rest to the
    others.
    """
    lines: list[str] = []
    # Smallest first, so that what a short source leaves goes to those after it.
    smallest_first = sorted(sources, key=lambda source: source.validation.tokens)
    for left, source in zip(range(len(sources), 0, -1), smallest_first, strict=True):
        share = math.ceil(max(0, count - len(lines)) / left)
        lines += islice(_lines_of(corpus, source), share)
    return lines


def _lines_of(corpus: Corpus, source: Source) -> Iterator[str]:
    """The lines of its validation split that are not empty, followed by those of its training
    text.
    """
    end = corpus.tokenizer.eos
    for stream in (source.validation, source.train):
        for start in range(0, stream.tokens, _DECODED):
            # a line that is cut here is two lines, which is no harm
            ids = stream.read(np.array([start]), min(_DECODED, stream.tokens - start))[0]
            for document in np.split(ids, np.flatnonzero(ids == end)):
                text = corpus.tokenizer.decode(document[document != end])
                yield from filter(None, text.split("\n"))
