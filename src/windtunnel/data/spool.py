"""The documents of a source as a build keeps them: read once, in order, each text but once, and
parted for validation.

Malformed documents and those whose text was seen before, in this source or an earlier one, are
dropped. The rest is written down (`text`, `spans.npy`, `hashes.npy`, `counts.json`), so that a
build which goes on sees the same text even from a pipe.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from windtunnel.data.encoding import mapped
from windtunnel.data.readers import Documents, Progress, Tally, accepted
from windtunnel.data.shards import array_bytes
from windtunnel.errors import InputError
from windtunnel.files import write_whole

ENOUGH_VALIDATION = 256 << 10  # bytes of text a source's validation split should have ...
MOST_VALIDATION = 0.1  # ... unless that were more than this share of the source
FEWEST_VALIDATION = 8  # documents to expect in it; a source with fewer is cut into pieces first
PIECE = 16 << 10  # bytes of such a piece


@dataclass(frozen=True)
class Spool:
    """The accepted documents of one source on disk, and where each goes."""

    text: Path
    spans: np.ndarray  # int64 (documents, 2): offset and length in bytes
    held_out: np.ndarray  # bool (documents,)
    order: np.ndarray  # the shuffled order, int64 (documents,)
    read: int
    malformed: int
    duplicates: int
    cut: bool

    @property
    def bytes(self) -> int:
        return int(self.spans[:, 1].sum())

    def chosen(self, split: Literal["train", "validation"]) -> np.ndarray:
        """The spans of one split, shuffled."""
        held_out = self.held_out[self.order]
        return self.spans[self.order[held_out if split == "validation" else ~held_out]]


def read_source(
    scratch: Path,
    name: str,
    documents: Documents,
    seen: set[bytes],
    validation: float,
    progress: Progress,
) -> Spool:
    """Reads a source, or finds it read already; `seen` grows by the hashes of its documents."""
    place = scratch / "spool" / name
    if not place.exists():
        part = scratch / "spool" / f"{name}.part"
        part.mkdir()
        _write(part, name, documents, seen, progress)
        os.rename(part, place)
    hashes, spans = np.load(place / "hashes.npy"), np.load(place / "spans.npy")
    seen.update(row.tobytes() for row in hashes)
    share = validation_share(validation, int(spans[:, 1].sum()))
    counts = json.loads((place / "counts.json").read_bytes())
    cut = 0 < len(spans) * share < FEWEST_VALIDATION
    if cut:
        spans, hashes = _pieces(place / "text", spans)
    order = np.lexsort((spans[:, 0], hashes[:, 1]))
    return Spool(place / "text", spans, held_out(hashes[:, 0], share), order, **counts, cut=cut)


def validation_share(asked: float, size: int) -> float:
    """Share of `size` bytes of text that is held out: the one that was asked for, raised for
    little text; 0 stays 0.
    """
    return (
        min(1.0, max(asked, min(MOST_VALIDATION, ENOUGH_VALIDATION / max(1, size))))
        if asked
        else 0.0
    )


def held_out(keys: np.ndarray, share: float) -> np.ndarray:
    """Which documents are validation, bool (documents,): those whose hash, uint64 (documents,),
    is small, wherever they stand in the source. Of two or more, at least one and not all, unless
    the share is 0.
    """
    chosen = keys < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    if share and len(keys) >= 2 and chosen.all():
        chosen = keys != keys.max()
    if share and len(keys) >= 2 and not chosen.any():
        chosen = keys == keys.min()
    return chosen


def sample(spools: Sequence[Spool], size: int) -> Iterator[str]:
    """About `size` bytes of training documents, in shuffled order, each source for its share of
    the bytes.
    """
    total = sum(spool.bytes for spool in spools)
    for spool in spools:
        room = spool.bytes * min(1.0, size / total)
        with mapped(spool.text) as data:
            for offset, length in spool.chosen("train").tolist():
                if room <= 0:
                    break
                taken = min(length, 1 << 20)
                room -= taken
                yield data[offset : offset + taken].decode(errors="ignore")


def _write(
    part: Path, name: str, documents: Documents, seen: set[bytes], progress: Progress
) -> None:
    tally, new = Tally(), set()
    hashes, lengths, written = bytearray(), [], 0
    with open(part / "text", "wb") as stream:
        for text in accepted(
            documents.read(), f"source {name} ({documents.origin})", documents.max_bad, tally
        ):
            data = text.encode()
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if digest in seen or digest in new:
                continue
            new.add(digest)
            hashes += digest
            lengths.append(stream.write(data))
            written += len(data)
            if len(lengths) % 256 == 1:
                progress(f"read {name}", written, None)
        stream.flush()
        os.fsync(stream.fileno())
    if not lengths:
        raise InputError(
            f"source {name} ({documents.origin}): every document is in an earlier source already"
        )
    sizes = np.array(lengths, np.int64)
    write_whole(
        part / "spans.npy", array_bytes(np.stack([np.cumsum(sizes) - sizes, sizes], axis=1))
    )
    write_whole(
        part / "hashes.npy", array_bytes(np.frombuffer(bytes(hashes), "<u8").reshape(-1, 2))
    )
    duplicates = tally.documents - tally.malformed - len(lengths)
    counts = {"read": tally.documents, "malformed": tally.malformed, "duplicates": duplicates}
    write_whole(part / "counts.json", json.dumps(counts).encode())


def _pieces(text: Path, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spans and hashes of the pieces that documents are cut into."""
    cut: list[tuple[int, int]] = []
    digests = bytearray()
    with mapped(text) as data:
        for offset, length in spans.tolist():
            end = offset + length
            while offset < end:
                stop = _piece_end(data, offset, end)
                cut.append((offset, stop - offset))
                digests += hashlib.blake2b(data[offset:stop], digest_size=16).digest()
                offset = stop
    return np.array(cut, np.int64), np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)


def _piece_end(data: mmap.mmap, offset: int, end: int) -> int:
    if end - offset <= PIECE:
        return end
    for mark in (b"\n\n", b"\n", b" "):
        at = data.rfind(mark, offset + PIECE // 2, offset + PIECE)
        if at >= 0:
            return at + len(mark)
    stop = offset + PIECE
    while data[stop] & 0xC0 == 0x80:  # within a character
        stop -= 1
    return stop
