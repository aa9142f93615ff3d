"""Documents to tokens for the build: in worker processes, by the faster of two engines where it
gives the same ids.
"""

import contextlib
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np

from windtunnel.data.fast_bpe import FastBpe, Untranslatable, with_ends
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError

# All tokens of some documents, each with the end token behind it (tokens,), and how many each
# document has with it (documents,).
Tokens = tuple[np.ndarray, np.ndarray]
# From batches of documents, each a file and the spans (documents, 2) in it: offset, length.
Encode = Callable[[Iterable[tuple[Path, np.ndarray]]], Iterator[Tokens]]

_AHEAD = 4  # batches that wait for each worker

# Text on which tokenizers are known to differ: spaces, contractions, digits, scripts, emoji,
# control characters, special tokens, code, private and unassigned characters, long repeats.
ODD = [
    "",
    " ",
    "  two  spaces \t tabs\t\tand \r\n\r\n lines\n\n\n   end   ",
    "don't I'LL we've 'tis ''s 'ſ 12,345.67e-8 ½ ² Ⅻ ١٢٣ 七 x1y2",
    "Größe e\u0301 \u0301 ﬁ İi ß 한국어 ภาษาไทย हिन्दी العربية עברית 日本語、テキスト。",
    "👩‍👩‍👧‍👦 🇩🇪 \u200b\ufeff\u00a0 \u00a0x\u2003y\u3000z \u2028\u2029 \x85 \x1c\x1d \x00\x01\x7f",
    "<|end|> <|endoftext|> \0<|end|> </s>",
    "https://example.org/a_b?c=d&e=f#g ((((====---->>>>||||\\\\//// {'a': [1, 2]}",
    "\U0010ffff \ue000 \U00011de0\U00016ff4 \U0001f9ff",
    "a" * 300 + " " * 300 + "\n" * 300 + "!" * 300 + "9" * 300,
]


def engine(tokenizer: Tokenizer, documents: Sequence[str]) -> str:
    """What encodes: tiktoken, if it gives these documents, every token by itself and odd text the
    ids of tokenizers.

    Returns "tiktoken VERSION" or "tokenizers VERSION (why not tiktoken)".
    """
    try:
        _prove(tokenizer, documents)
    except Untranslatable as error:
        return f"tokenizers {version('tokenizers')} ({error})"
    return f"tiktoken {version('tiktoken')}"


def _prove(tokenizer: Tokenizer, documents: Sequence[str]) -> None:
    """Raises Untranslatable where tiktoken can't stand in for the tokenizer."""
    fast = FastBpe(tokenizer)
    tokens = [token.decode(errors="ignore") for token in fast.tokens]
    # Every token by itself as well: ids may differ in a token that no document happens to have.
    for texts in filter(len, (ODD, tokens, documents)):
        expected, lengths = with_ends(tokenizer, tokenizer.encode_batch(texts))
        ids, found = fast.encode(texts)
        if not (np.array_equal(ids, expected) and np.array_equal(found, lengths)):
            raise Untranslatable("tiktoken gives other ids")


@contextlib.contextmanager
def encoders(path: Path, engine: str, workers: int) -> Iterator[Encode]:
    """Encodes batches of documents in order, here or in worker processes.

    A batch is a file and the spans (offset and length in bytes) of its documents. What comes back
    is all their tokens, each document with the end token behind it, and how many tokens each has.
    (The threads of `tokenizers` itself were slower than a single one.) Raises InputError where a
    worker dies.
    """
    if workers <= 1:
        encode_texts = _encoder(path, engine)
        yield lambda tasks: (encode_texts(_texts(*task)) for task in tasks)
        return
    # Started anew and not forked: a fork beside the threads of tokenizers may never begin.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (path, engine))

    def encode(tasks: Iterable[tuple[Path, np.ndarray]]) -> Iterator[Tokens]:
        waiting: deque[Future] = deque()
        for task in tasks:
            waiting.append(pool.submit(_work, *task))
            # Enough to keep every worker busy, and no more: what is encoded waits in memory.
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield encode
    except BrokenProcessPool as error:
        raise InputError(
            f"an encoding worker died, perhaps for lack of memory; try fewer than {workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _encoder(path: Path, engine: str) -> Callable[[Sequence[str]], Tokens]:
    """Of the tokenizer in a file, by the engine that `engine` named."""
    tokenizer = Tokenizer.load(path)
    if engine.startswith("tiktoken "):
        return FastBpe(tokenizer).encode
    return lambda texts: with_ends(tokenizer, tokenizer.encode_batch(texts))


# Of this worker process, set as it starts.
_worker_encoder: Callable[[Sequence[str]], Tokens] | None = None


def _start_worker(path: Path, engine: str) -> None:
    global _worker_encoder
    # A worker is one thread: its cores are those of the other workers.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_encoder = _encoder(path, engine)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A build that is killed outright cannot stop its workers, which would wait for work for
    ever.
    """
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(text: Path, spans: np.ndarray) -> Tokens:
    assert _worker_encoder is not None
    return _worker_encoder(_texts(text, spans))


def _texts(text: Path, spans: np.ndarray) -> list[str]:
    """The documents of a file that lie at spans (documents, 2)."""
    with mapped(text) as data:
        return [data[offset : offset + length].decode() for offset, length in spans.tolist()]


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file that is not empty, without reading it into memory."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
