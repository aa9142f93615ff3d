"""Corpora whose documents lie whole in windows: conversations, and pairs of answers.

What lies in one window together is an item: one conversation, or a question with two answers, each
of which is a document. A window is filled up with end tokens, which are not learnt. The order of
the items is that of their hashes, and does not depend on that of the files' lines.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from windtunnel.data.formats import FORMATS
from windtunnel.data.opened import COMPRESSED
from windtunnel.data.readers import Tally
from windtunnel.data.shards import (
    FORMAT,
    Manifest,
    Packing,
    ShardWriter,
    SourceEntry,
    Split,
    SplitName,
    appearing,
    taken_for,
)
from windtunnel.data.spool import held_out, validation_share
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.files import write_whole

# The share that is held out, by hash; more of a small set, as in any corpus.
VALIDATION = 0.02
_SHARD = 128 << 20  # tokens
_OPEN = 256  # windows that may still be filled while a build goes on


@dataclass(frozen=True, kw_only=True)
class Document:
    """A conversation as tokens."""

    ids: np.ndarray
    """Its tokens, (n,)."""
    learnt: np.ndarray
    """Of each token, 0 where it is read alone; else it is learnt, and 1, or what its answer is
    (`recipe.preference`). uint8 (n,)."""
    bytes: int
    """Of its text."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Documents that lie in one window, one behind the other."""

    documents: tuple[Document, ...]
    group: int
    """The hash by which it is held out, 64 bits: items of one group lie on the same side."""
    place: int
    """The hash by which it stands where it does."""

    @property
    def tokens(self) -> int:
        """Of all its documents."""
        return sum(len(document.ids) for document in self.documents)

    @property
    def bytes(self) -> int:
        """Of the text of all its documents."""
        return sum(document.bytes for document in self.documents)


def hashes(text: str) -> tuple[int, int]:
    """Two hashes of a text, 64 bits each."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    first, second = np.frombuffer(digest, "<u8").tolist()
    return first, second


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """What is trained on and what is held out, each in the order of the hashes."""
    ordered = sorted(items, key=lambda item: item.place)
    sizes: dict[int, int] = {}
    for item in ordered:
        sizes[item.group] = sizes.get(item.group, 0) + item.bytes
    share = validation_share(VALIDATION, sum(sizes.values()))
    keys = np.array(list(sizes), np.uint64)
    out = held_out(keys, share, np.array(list(sizes.values())))
    held = set(keys[out].tolist())
    trained = [item for item in ordered if item.group not in held]
    return trained, [item for item in ordered if item.group in held]


def packed(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Items of these lengths packed into windows of `context` tokens: for each window the numbers
    of the items in it. Each goes into the first window that has room for it, of the last `_OPEN`
    that are not full.
    """
    windows: list[list[int]] = []
    room: dict[int, int] = {}  # of the windows that may still be filled, oldest first
    for index, length in enumerate(lengths):
        # First fit: oldest window first, so that windows fill up and leave.
        window = next((w for w, left in room.items() if left >= length), None)
        if window is None:
            window = len(windows)
            windows.append([])
            room[window] = context
            if len(room) > _OPEN:
                del room[next(iter(room))]
        windows[window].append(index)
        room[window] -= length
        if not room[window]:
            del room[window]
    return windows


@dataclass(frozen=True, kw_only=True)
class Read:
    """What the files held, as the manifest tells it."""

    source: str
    """What the one source of the corpus is called."""
    origin: str
    tally: Tally
    duplicates: int
    packing: Packing


def write_packed(
    folder: Path,
    fingerprint: str,
    tokenizer: Tokenizer,
    read: Read,
    splits: Mapping[SplitName, Sequence[Item]],
) -> None:
    """Write the corpus's folder, which appears whole. Raises InputError."""
    with appearing(folder) as part:
        (part / read.source).mkdir()
        tokenizer.keep(part)
        written = {
            name: _write(part, name, items, tokenizer, read) for name, items in splits.items()
        }
        entry = SourceEntry(
            origin=read.origin,
            licence="unknown",
            synthetic=False,
            read=read.tally.documents,
            malformed=read.tally.malformed,
            duplicates=read.duplicates,
            cut=False,
            train=written["train"],
            validation=written["validation"],
            taken=taken_for(read.tally.taken),
        )
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint,
            tokenizer_sha256=tokenizer.sha256,
            vocab=tokenizer.vocab,
            dtype=tokenizer.dtype.str,
            eos=tokenizer.eos,
            sources={read.source: entry},
            packing=read.packing,
        )
        write_whole(part / "manifest.json", manifest.to_json())


def _write(
    folder: Path,
    name: SplitName,
    items: Sequence[Item],
    tokenizer: Tokenizer,
    read: Read,
) -> Split:
    """Whole windows, and one more token, which is the last target of the last window."""
    context = read.packing.context
    windows = packed([item.tokens for item in items], context)
    ids = np.full(len(windows) * context + 1, tokenizer.eos, tokenizer.dtype)
    learnt = np.zeros(len(ids), np.uint8)
    starts: list[int] = []
    sizes: list[int] = []
    for number, window in enumerate(windows):
        start = number * context
        for one in chain.from_iterable(items[index].documents for index in window):
            end = start + len(one.ids)
            ids[start:end] = one.ids
            learnt[start:end] = one.learnt
            starts.append(start)
            sizes.append(one.bytes)
            start = end
    # A document is a conversation and the tokens that fill up the window after it.
    lengths = np.diff([*starts, len(ids)])
    writer = ShardWriter(folder, read.source, name, tokenizer.dtype, _SHARD)
    try:
        writer.add(ids, lengths, np.array(sizes), learnt)
        return writer.finish()
    finally:
        writer.abandon()


def plain_name(file: Path, otherwise: str) -> str:
    """The file's name without its ending, as part of a folder's name; `otherwise` where nothing
    is left.
    """
    name = file.name
    for ending in chain(COMPRESSED, *(one.endings for one in FORMATS.values())):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or otherwise
