"""How many times faster than Hugging Face's tokenizers are documents encoded, on one core, and
are the ids the same?

    .venv/bin/python bench/encode.py [--lab DIR] [--tokenizer FILE]

Every document of the core corpus (fetched if it is not in DIR), in batches of half a megabyte as
the build encodes them, one thread, in turns: tokenizers as fast as it goes (`encode_batch_fast`,
ids as Python lists), and the build's encoder (ids as an array, end tokens and lengths with them).
Seconds are of this thread alone. All ids are compared. The tokenizer is the corpus' own or FILE.
Prints a table and, last, one JSON list.
"""

import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from claims import Claim, arguments, claim, end, header, last_line, row
from tokenizers import Tokenizer as HuggingFace
from wsd_cosine import core

from windtunnel.data.build import BATCH
from windtunnel.data.encoding import engine
from windtunnel.data.fast_bpe import FastBpe
from windtunnel.data.sources import fetch
from windtunnel.data.tokenizer import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers first encodes
TARGET = 4.0
SAMPLE = 5000  # documents on which the build would prove its encoder
T = TypeVar("T")


def main() -> None:
    """Encode the core corpus twice over."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--tokenizer", type=Path, default=None)
    given = parser.parse_args()
    tokenizer = Tokenizer.load(given.tokenizer) if given.tokenizer else core(given.lab).tokenizer
    texts: list[str] = []
    for fetched in fetch(["core"], given.lab / "downloads"):
        texts += [text for text in fetched.documents().read() if isinstance(text, str)]
    random.Random(0).shuffle(texts)
    begin = time.thread_time()
    chosen = engine(tokenizer, texts[:SAMPLE])
    proof = time.thread_time() - begin
    print(
        f"vocabulary of {tokenizer.vocab}; the build encodes by {chosen}, proven in {proof:.1f} s\n"
    )
    if chosen.startswith("tokenizers"):
        last_line([])
        return
    end(report(*measure(tokenizer, texts)))


def measure(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, int]:
    """Megabytes and both seconds of each batch, (batches, 3), and how many documents have other
    ids.
    """
    slow = HuggingFace.from_str(tokenizer.definition.decode())
    slow.no_truncation()
    slow.encode_special_tokens = True
    fast, rows, different = FastBpe(tokenizer), [], 0
    for batch in batches(texts):
        encodings, slow_time = timed(lambda batch=batch: ids_of(slow, batch))
        (ids, lengths), fast_time = timed(lambda batch=batch: fast.encode(batch))
        rows.append([sum(len(text.encode()) for text in batch) / 1e6, slow_time, fast_time])
        found = np.split(ids, np.cumsum(lengths)[:-1])
        for one, expected in zip(found, encodings, strict=True):
            different += not np.array_equal(one, [*expected, tokenizer.eos])
    return np.array(rows), different


def ids_of(slow: HuggingFace, batch: list[str]) -> list[list[int]]:
    """As fast as tokenizers gives them."""
    return [encoding.ids for encoding in slow.encode_batch_fast(batch, add_special_tokens=False)]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What came of it, and the seconds of this thread."""
    begin = time.thread_time()
    done = work()
    return done, time.thread_time() - begin


def batches(texts: list[str]) -> Iterator[list[str]]:
    """As large as the build's."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def report(rows: np.ndarray, different: int) -> list[Claim]:
    """One row over all batches, and what is claimed."""
    size, slow, fast = rows.sum(axis=0)
    low, _, high = np.quantile(rows[:, 1] / rows[:, 2], [0.25, 0.5, 0.75])
    times = "times faster, of all (quartiles of batches)"
    print(header("text", "tokenizers", "the build's encoder", times, "other ids"))
    speeds = (f"{size / slow:.2f} MB/s", f"{size / fast:.2f} MB/s")
    gain = f"{slow / fast:.2f} ({low:.2f} to {high:.2f})"
    print(row(f"{size:.1f} MB", *speeds, gain, f"{different} documents"))
    return [
        claim(
            "encoding, times the speed of tokenizers on one core",
            round(slow / fast, 2),
            "x",
            TARGET,
            slow / fast >= TARGET,
            platform.machine(),
        ),
        claim(
            "documents of the core corpus with other ids", different, "documents", 0, different == 0
        ),
    ]


if __name__ == "__main__":
    main()
