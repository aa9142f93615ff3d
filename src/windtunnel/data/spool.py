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

import numpy as np

from windtunnel.data.encoding import mapped
from windtunnel.data.readers import Documents, Progress, Tally, accepted
from windtunnel.data.shards import SplitName, array_bytes
from windtunnel.errors import InputError
from windtunnel.files import write_whole

ENOUGH_VALIDATION = 256 << 10  # bytes of text a source's validation split should have ...
MOST_VALIDATION = 0.1  # ... unless that were more than this share of the source
# Documents to expect in it, and the most of it that one may be the inverse of; a source with fewer
# is cut into pieces first.
FEWEST_VALIDATION = 8
PIECE = 16 << 10  # bytes of such a piece, at most
# Smaller ones, for a source of which those would hold out too little or too much.
_PIECES = (PIECE, PIECE >> 1, PIECE >> 2, PIECE >> 3)
# How far from its share the validation split may be, since hashes are chance ...
_UNDER, _OVER = 0.5, 1.5
_MOST_EVER = 0.5  # ... and how much of a source it may be at all
_LONGEST_SAMPLE = 1 << 20  # bytes of one document that a sample takes
_TOLD_EVERY = 256  # documents


@dataclass(frozen=True, kw_only=True)
class Spool:
    """The accepted documents of one source on disk, and where each goes."""

    text: Path
    spans: np.ndarray  # int64 (documents, 2): offset and length in bytes
    held_out: np.ndarray  # bool (documents,)
    order: np.ndarray  # the shuffled order, int64 (documents,)
    read: int  # documents that the source holds, the next two included
    malformed: int
    duplicates: int
    taken: dict[str, list[str]]  # names of files by what they were taken for
    cut: bool  # whether its few documents were cut into pieces, which then count as documents

    @property
    def bytes(self) -> int:
        """Of text, in all of its documents."""
        return int(self.spans[:, 1].sum())

    def chosen(self, split: SplitName) -> np.ndarray:
        """The spans (documents, 2) of one split, shuffled."""
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
    """Reads a source into `scratch`, or finds it read already. `seen`, the hashes of the documents
    of earlier sources, grows by its own. Raises InputError where too many documents are malformed,
    or none is new.
    """
    place = scratch / "spool" / name
    if not place.exists():
        part = scratch / "spool" / f"{name}.part"
        part.mkdir()
        _write(part, name, documents, seen, progress)
        os.rename(part, place)
    # From the disk even where it was just written, so that a build that goes on is the same.
    hashes, spans = np.load(place / "hashes.npy"), np.load(place / "spans.npy")
    seen.update(row.tobytes() for row in hashes)
    share = validation_share(validation, int(spans[:, 1].sum()))
    counts = {"taken": {}} | json.loads((place / "counts.json").read_bytes())
    cut = 0 < len(spans) * share < FEWEST_VALIDATION
    out = held_out(hashes[:, 0], share, spans[:, 1])
    if cut:
        whole = spans
        for longest in _PIECES:
            spans, hashes = _pieces(place / "text", whole, longest)
            out = held_out(hashes[:, 0], share, spans[:, 1])
            if spans[out, 1].sum() >= _UNDER * share * spans[:, 1].sum():
                break
    return Spool(
        text=place / "text",
        spans=spans,
        held_out=out,
        order=np.lexsort((spans[:, 0], hashes[:, 1])),  # by hash, then by place
        cut=cut,
        **counts,
    )


def validation_share(asked: float, size: int) -> float:
    """Share of `size` bytes of text that is held out: the one that was asked for, raised for
    little text; 0 stays 0.
    """
    if not asked:
        return 0.0
    enough = min(MOST_VALIDATION, ENOUGH_VALIDATION / max(1, size))
    return min(1.0, max(asked, enough))


def held_out(keys: np.ndarray, share: float, sizes: np.ndarray) -> np.ndarray:
    """Which documents are validation, bool (documents,): those whose hash, uint64 (documents,),
    is small, wherever they stand in the source, and at least one. `sizes`: bytes of each. Where
    they would be far more than the share of the bytes, which is chance in a small source, the
    smallest hashes that are not; none where every document alone is.

    A document that would be a large part of what is held out is trained on instead: a loss that
    hangs on one text says nothing of the others.
    """
    chosen = np.zeros(len(keys), bool)
    if not share:
        return chosen
    # A hash below the share: whatever is added to a source, what was held out stays so.
    below = keys < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    may_be = np.ones(len(keys), bool)
    if len(keys) * share >= FEWEST_VALIDATION:
        may_be = sizes <= share * sizes.sum() / FEWEST_VALIDATION
    below &= may_be
    room = min(_OVER * share, _MOST_EVER) * sizes.sum()
    if below.any() and sizes[below].sum() <= room:
        return below
    for index in np.argsort(keys, kind="stable"):
        if chosen.any() and not below[index]:
            break
        if may_be[index] and sizes[index] <= room:
            chosen[index] = True
            room -= sizes[index]
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
                # A document of gigabytes must not be the whole sample.
                taken = min(length, _LONGEST_SAMPLE)
                room -= taken
                yield data[offset : offset + taken].decode(errors="ignore")


def _write(
    part: Path, name: str, documents: Documents, seen: set[bytes], progress: Progress
) -> None:
    """Writes down the documents of a source that are new."""
    where = f"source {name} ({documents.origin})"
    tally, new = Tally(), set[bytes]()
    hashes, lengths, written = bytearray(), list[int](), 0
    with open(part / "text", "wb") as stream:
        for text in accepted(documents.read(), where, documents.max_bad, tally):
            data = text.encode()
            # 16 bytes a document are kept in memory, not its text.
            digest = _digest(data)
            if digest in seen or digest in new:
                continue
            new.add(digest)
            hashes += digest
            lengths.append(stream.write(data))
            written += len(data)
            if len(lengths) % _TOLD_EVERY == 1:
                progress(f"read {name}", written, None)
        stream.flush()
        os.fsync(stream.fileno())
    if not lengths:
        raise InputError(f"{where}: every document is in an earlier source already")
    sizes = np.array(lengths, np.int64)
    spans = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
    write_whole(part / "spans.npy", array_bytes(spans))
    write_whole(part / "hashes.npy", array_bytes(_as_pairs(hashes)))
    duplicates = tally.documents - tally.malformed - len(lengths)
    counts = {
        "read": tally.documents,
        "malformed": tally.malformed,
        "duplicates": duplicates,
        "taken": tally.taken,
    }
    write_whole(part / "counts.json", json.dumps(counts).encode())


def _digest(data: bytes) -> bytes:
    """16 bytes that name a text."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _as_pairs(digests: bytearray) -> np.ndarray:
    """uint64 (documents, 2): by the first half a document is held out or not, by the second it is
    shuffled.
    """
    return np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)


def _pieces(text: Path, spans: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Spans and hashes of the pieces, of at most `longest` bytes, that documents are cut into."""
    cut: list[tuple[int, int]] = []
    digests = bytearray()
    with mapped(text) as data:
        for offset, length in spans.tolist():
            end = offset + length
            while offset < end:
                stop = _piece_end(data, offset, end, longest)
                cut.append((offset, stop - offset))
                digests += _digest(data[offset:stop])
                offset = stop
    return np.array(cut, np.int64), _as_pairs(digests)


def _piece_end(data: mmap.mmap, offset: int, end: int, longest: int) -> int:
    """Where a piece that begins at `offset` ends: at a paragraph, a line or a word, and never
    within a character.
    """
    if end - offset <= longest:
        return end
    # In the second half of the piece, so that none is much shorter than the others.
    for mark in (b"\n\n", b"\n", b" "):
        at = data.rfind(mark, offset + longest // 2, offset + longest)
        if at >= 0:
            return at + len(mark)
    stop = offset + longest
    while data[stop] & 0xC0 == 0x80:  # within a character
        stop -= 1
    return stop
