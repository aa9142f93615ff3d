"""How many times faster than Hugging Face's tokenizers are documents encoded, on one core, and
are the ids the same?

    .venv/bin/python bench/encode.py [--lab DIR] [--tokenizer FILE]

Every document of the core corpus (fetched if it is not in DIR), in batches of half a megabyte as
the build encodes them, one thread, in turns: tokenizers as fast as it goes (`encode_batch_fast`,
ids as Python lists), and the build's encoder (ids as an array, end tokens and lengths with them).
Seconds are of this thread alone. All ids are compared. The tokenizer is the corpus' own or FILE.
Prints a table and, last, one JSON list.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer as HuggingFace
from wsd_cosine import core

from windtunnel.data.build import BATCH
from windtunnel.data.encoding import engine
from windtunnel.data.fast_bpe import FastBpe
from windtunnel.data.sources import fetch
from windtunnel.data.tokenizer import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers first encodes
T = TypeVar("T")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--lab", type=Path, default=Path("lab"))
    arguments.add_argument("--tokenizer", type=Path, default=None)
    given = arguments.parse_args()
    tokenizer = Tokenizer.load(given.tokenizer) if given.tokenizer else core(given.lab).tokenizer
    documents = [
        text for f in fetch(["core"], given.lab / "downloads") for text in f.documents().read()
    ]
    texts = [text for text in documents if isinstance(text, str)]
    random.Random(0).shuffle(texts)
    begin = time.thread_time()
    chosen = engine(tokenizer, texts[:5000])
    proof = time.thread_time() - begin
    print(
        f"vocabulary of {tokenizer.vocab}; the build encodes by {chosen}, proven in {proof:.1f} s\n"
    )
    if chosen.startswith("tokenizers"):
        print(json.dumps([]))
        return
    report(*measure(tokenizer, texts))


def measure(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, int]:
    """Megabytes and both seconds of each batch, and how many documents have other ids."""
    slow = HuggingFace.from_str(tokenizer.definition.decode())
    slow.no_truncation()
    slow.encode_special_tokens = True
    fast, rows, different = FastBpe(tokenizer), [], 0
    for batch in batches(texts):
        encodings, slow_time = timed(lambda batch=batch: ids_of(slow, batch))
        (ids, lengths), fast_time = timed(lambda batch=batch: fast.encode(batch))
        rows.append([sum(len(text.encode()) for text in batch) / 1e6, slow_time, fast_time])
        ends = np.cumsum(lengths)
        different += sum(
            not np.array_equal(ids[end - length : end], [*expected, tokenizer.eos])
            for expected, end, length in zip(encodings, ends, lengths, strict=True)
        )
    return np.array(rows), different


def ids_of(slow: HuggingFace, batch: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in slow.encode_batch_fast(batch, add_special_tokens=False)]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    begin = time.thread_time()
    done = work()
    return done, time.thread_time() - begin


def batches(texts: list[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def report(rows: np.ndarray, different: int) -> None:
    size, slow, fast = rows.sum(axis=0)
    ratios = np.quantile(rows[:, 1] / rows[:, 2], [0.25, 0.5, 0.75])
    print(
        "| text | tokenizers | the build's encoder | times faster, of all (quartiles of batches) | other ids |"
    )
    print("|---|---|---|---|---|")
    print(
        f"| {size:.1f} MB | {size / slow:.2f} MB/s | {size / fast:.2f} MB/s | {slow / fast:.2f} "
        f"({ratios[0]:.2f} to {ratios[2]:.2f}) | {different} documents |"
    )
    claims = [
        {
            "claim": "encoding, times the speed of tokenizers on one core",
            "value": round(slow / fast, 2),
            "unit": "x",
            "target": 4,
            "ok": bool(slow / fast >= 4),
            "machine": platform.machine(),
        },
        {
            "claim": "documents of the core corpus with other ids",
            "value": different,
            "unit": "documents",
            "target": 0,
            "ok": different == 0,
            "machine": "any",
        },
    ]
    print(json.dumps(claims))
    sys.exit(0 if all(claim["ok"] for claim in claims) else 1)


if __name__ == "__main__":
    main()
