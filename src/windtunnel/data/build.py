"""Builds a corpus: documents of several sources in, shards of tokens out.

Everything is made in `.NAME.building` beside the corpus, whose folder appears by one rename when
it is whole:

1. spool: each source is read once, and the documents that are kept of it are written down
(`spool.py`).
2. the tokenizer is trained on training documents of all sources, or copied.
3. encode: each source's documents are shuffled, split, encoded by worker processes and written as
shards; by tiktoken where it gives the same ids.

Each part appears by a rename of its own, so a build that was stopped anywhere goes on from its
last whole part and ends in the same bytes. On disk it takes about the size of the text and of the
tokens; in memory, about 150 bytes a document and the largest document a few times over.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from windtunnel.data.encoding import Encode, encoders, engine
from windtunnel.data.readers import Documents, Progress
from windtunnel.data.shards import (
    FORMAT,
    Corpus,
    Manifest,
    ShardWriter,
    SourceEntry,
    Split,
    SplitName,
    source_entry,
    taken_for,
)
from windtunnel.data.spool import Spool, read_source, sample
from windtunnel.data.tokenizer import SMALLEST_VOCAB, Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.quantities import share_of

SAMPLE = 32 << 20  # bytes of text that a tokenizer is trained on
PROOF = 2 << 20  # bytes of text on which the faster engine must give the same ids
WORTH_A_WORKER = 4 << 20  # bytes of text that pay for starting one more process
BATCH = 512 << 10  # bytes of text that a worker encodes at a time
_MOST_HELD_OUT = 0.5  # share of the documents
# What stands beside the sources of a build: no source may be called so.
_TAKEN, _ENDINGS = ("spool", "lock", "fingerprint"), (".json", ".part")


def build(
    folder: Path,
    sources: Mapping[str, Documents],
    vocab: int | None = None,
    tokenizer: Path | None = None,
    *,
    validation: float = 0.02,
    shard_tokens: int = 128 << 20,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The corpus at `folder`: opened if these very settings built it before, otherwise built or
    built on.

    `vocab` trains a tokenizer, `tokenizer` takes one. `validation` is the share of each source's
    documents held out by their hash, raised for a small source towards 256 kB of text, at most
    10% of it, and met to within a half of it; nothing is held out of a source that is too small.
    A source of so few documents that fewer than 8 would be held out is cut at paragraph or line
    ends into pieces of at most 16 kB beforehand. Raises InputError for settings that can't be, for
    what can't be read, where another corpus is at `folder`, and where the disk is full.
    """
    settings = _Settings(
        sources=dict(sources),
        vocab=vocab,
        tokenizer=tokenizer,
        validation=validation,
        shard_tokens=shard_tokens,
    )
    settings.check()
    fingerprint = settings.fingerprint()
    if (folder / "manifest.json").exists():
        corpus = Corpus.open(folder)
        if corpus.manifest.fingerprint == fingerprint:
            return corpus
        raise InputError(
            f"{folder}: a corpus of other sources or settings is here: "
            f"{settings.apart(corpus.manifest)}; choose another name or remove it"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not a corpus; choose another name")
    # Beside the corpus, so that the last rename stays on one disk.
    scratch = folder.with_name(f".{folder.name}.building")
    try:
        with _claimed(scratch, fingerprint):
            if not (scratch / "manifest.json").exists():
                manifest = _build(scratch, settings, fingerprint, workers, progress or _silent)
                write_whole(scratch / "manifest.json", manifest.to_json())
            # Nothing but the corpus itself is renamed into place.
            _remove_tools(scratch)
            os.rename(scratch, folder)
    except OSError as error:
        raise InputError(_disk_trouble(scratch, error)) from error
    return Corpus.open(folder)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Everything that decides the bytes of a corpus."""

    sources: dict[str, Documents]
    vocab: int | None
    tokenizer: Path | None
    validation: float
    shard_tokens: int

    def check(self) -> None:
        """Raises InputError for settings that can't be."""
        if not self.sources:
            raise InputError("no source given; expected at least one SOURCE=PATH or a known source")
        for name in self.sources:
            spelled = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)
            if not spelled or name in _TAKEN or name.endswith(_ENDINGS):
                raise InputError(
                    f"source {name!r}: expected another name, of letters, digits, '-', '_' and '.'"
                )
        if (self.vocab is None) == (self.tokenizer is None):
            raise InputError("expected either a vocabulary size or a tokenizer.json, and not both")
        if self.vocab is not None and self.vocab < SMALLEST_VOCAB:
            raise InputError(
                f"vocab {self.vocab}: expected at least {SMALLEST_VOCAB}: all bytes and special "
                "tokens"
            )
        share_of("validation", self.validation, _MOST_HELD_OUT)
        for documents in self.sources.values():
            share_of("max_bad", documents.max_bad)
        if self.shard_tokens < 1:
            raise InputError(f"shard_tokens {self.shard_tokens}: expected at least 1")

    def apart(self, manifest: Manifest) -> str:
        """What a corpus that is there was made of, where that is not what is asked for."""
        origins = {name: source.origin for name, source in self.sources.items()}
        there = {name: source.origin for name, source in manifest.sources.items()}
        if there != origins:
            return "of " + ", ".join(f"{name} from {origin}" for name, origin in there.items())
        if self.vocab and manifest.vocab != self.vocab:
            return f"its vocabulary has {manifest.vocab:,} tokens"
        return "its files, its tokenizer or what is held out were others"

    def fingerprint(self) -> str:
        """Names what the corpus is made of and how: the same settings give the same bytes."""
        taken = Tokenizer.load(self.tokenizer).identity if self.tokenizer else None
        sources = [
            [name, d.identity or d.origin, d.origin, d.licence, d.synthetic, d.max_bad]
            for name, d in self.sources.items()
        ]
        # What the text is (or stands for it), and all that decides the bytes made of it.
        settings = [FORMAT, sources, self.vocab, taken, self.validation, self.shard_tokens]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _silent(what: str, done: float, total: float | None) -> None:
    pass


@contextlib.contextmanager
def _claimed(scratch: Path, fingerprint: str) -> Iterator[None]:
    """This process alone works in `scratch`, which holds nothing but whole parts of a build with
    this fingerprint.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    lock = scratch / "lock"
    with open(lock, "wb") as stream:
        try:
            import fcntl  # not on Windows

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError:
            raise InputError(
                f"{scratch}: another process is building this corpus; wait for it"
            ) from None
        # Parts of other settings would end up in this corpus.
        marker = scratch / "fingerprint"
        if not marker.exists() or marker.read_bytes() != fingerprint.encode():
            _empty(scratch, keep=lock)
            write_whole(marker, fingerprint.encode())
        _remove_parts(scratch)
        try:
            yield
        except BaseException as error:
            _remove_parts(scratch)
            refused = isinstance(error, InputError) and not (scratch / "tokenizer.json").exists()
            spooled = any((scratch / "spool").glob("*"))
            if refused or not spooled:  # nothing here that the next build could use
                shutil.rmtree(scratch, ignore_errors=True)
            raise


def _build(
    scratch: Path, settings: _Settings, fingerprint: str, workers: int | None, progress: Progress
) -> Manifest:
    """Every part that is missing, one after the other."""
    seen: set[bytes] = set()
    (scratch / "spool").mkdir(exist_ok=True)
    spools = {
        name: read_source(scratch, name, documents, seen, settings.validation, progress)
        for name, documents in settings.sources.items()
    }
    # 150 bytes a document, which the encoders can use better.
    seen.clear()
    tokenizer = _tokenizer(scratch, list(spools.values()), settings, progress)
    if workers is None:
        paid = 1 + sum(spool.bytes for spool in spools.values()) // WORTH_A_WORKER
        workers = min(os.cpu_count() or 1, paid)
    progress("engine", 0, None)
    encoded_by = engine(tokenizer, list(sample(list(spools.values()), PROOF)))
    entries = {}
    with encoders(scratch / "tokenizer.json", encoded_by, workers) as encode:
        for name, spool in spools.items():
            if not (scratch / name).exists():
                _write_source(scratch, name, settings, spool, tokenizer.dtype, encode, progress)
            entries[name] = source_entry(json.loads((scratch / name / "entry.json").read_bytes()))
    return Manifest(
        format=FORMAT,
        fingerprint=fingerprint,
        tokenizer_sha256=tokenizer.sha256,
        vocab=tokenizer.vocab,
        dtype=tokenizer.dtype.str,
        eos=tokenizer.eos,
        sources=entries,
        encoded_by=encoded_by,
    )


def _remove_tools(scratch: Path) -> None:
    """Leaves what a corpus consists of; the fingerprint goes last, so that this can be stopped
    anywhere as well.
    """
    if (scratch / "spool").exists():
        shutil.rmtree(scratch / "spool")
    for path in [*scratch.glob("*/entry.json"), scratch / "lock", scratch / "fingerprint"]:
        path.unlink(missing_ok=True)


def _tokenizer(
    scratch: Path, spools: list[Spool], settings: _Settings, progress: Progress
) -> Tokenizer:
    """The tokenizer of the build, trained or taken where it is not there yet."""
    place = scratch / "tokenizer.json"
    if not place.exists():
        progress("tokenizer", 0, None)
        if settings.tokenizer:
            made = Tokenizer.load(settings.tokenizer)
        else:
            made = Tokenizer.train(sample(spools, SAMPLE), settings.vocab or SMALLEST_VOCAB)
        made.keep(scratch)
    return Tokenizer.load(place)


def _write_source(
    scratch: Path,
    name: str,
    settings: _Settings,
    spool: Spool,
    dtype: np.dtype,
    encode: Encode,
    progress: Progress,
) -> None:
    """Encodes a source and puts its folder in place, its entry of the manifest inside."""
    part = scratch / f"{name}.part"
    (part / name).mkdir(parents=True)  # the shards' names begin with the source's
    splits: dict[str, Split] = {}
    done = 0
    for split in get_args(SplitName):
        writer = ShardWriter(part, name, split, dtype, settings.shard_tokens)
        batches = list(_batches(spool.chosen(split)))
        # A generator: no more batches are under way than the workers can hold.
        encoded = encode((spool.text, batch) for batch in batches)
        try:
            for batch, (ids, lengths) in zip(batches, encoded, strict=True):
                sizes = batch[:, 1]
                writer.add(ids, lengths, sizes)
                done += int(sizes.sum())
                progress(f"encode {name}", done, spool.bytes)
            splits[split] = writer.finish()
        finally:
            writer.abandon()
    documents = settings.sources[name]
    entry = SourceEntry(
        origin=documents.origin,
        licence=documents.licence,
        synthetic=documents.synthetic,
        read=spool.read,
        malformed=spool.malformed,
        duplicates=spool.duplicates,
        cut=spool.cut,
        train=splits["train"],
        validation=splits["validation"],
        taken=taken_for(spool.taken),
    )
    write_whole(part / name / "entry.json", json.dumps(dataclasses.asdict(entry)).encode())
    os.rename(part / name, scratch / name)
    part.rmdir()


def _batches(spans: np.ndarray) -> Iterator[np.ndarray]:
    """Spans (documents, 2) in parts of about BATCH bytes."""
    begin = size = 0
    for i, length in enumerate(spans[:, 1].tolist()):
        size += length
        if size >= BATCH:
            yield spans[begin : i + 1]
            begin, size = i + 1, 0
    if begin < len(spans):
        yield spans[begin:]


def _empty(folder: Path, keep: Path) -> None:
    for path in folder.iterdir():
        if path != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_parts(scratch: Path) -> None:
    for path in [*scratch.glob("*.part"), *scratch.glob("spool/*.part")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _disk_trouble(scratch: Path, error: OSError) -> str:
    """What to say of an error of the disk: on a full one, how much is kept for the next try."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or scratch}: {error.strerror or error}"
    place = scratch if scratch.exists() else scratch.parent
    # Counted, since it says what will not have to be made again.
    used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    free = shutil.disk_usage(place).free
    return (
        f"{place}: the disk is full ({free / 1e6:,.1f} MB free, {used / 1e6:,.1f} MB of this build "
        "kept); make room and run the same command again: it goes on from there"
    )
