"""A corpus of conversations: rendered by the tokenizer's template, and packed whole into windows.

A model learns to say what the assistant says, and the token that closes it. A window is filled up
with end tokens, which are not learnt. Everything follows from what the files hold, the tokenizer
and the context, so a corpus has a hash of these in its name, and asking for it again finds it. A
build holds all tokens in memory, at about five bytes each.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from windtunnel.data.chat_format import ChatFormat, format_of
from windtunnel.data.conversations import (
    content_digest,
    conversation_files,
    conversations,
    messages_of,
)
from windtunnel.data.formats import FORMATS
from windtunnel.data.opened import COMPRESSED
from windtunnel.data.readers import Progress, Tally, accepted
from windtunnel.data.shards import (
    FORMAT,
    Corpus,
    Manifest,
    Packing,
    ShardWriter,
    SourceEntry,
    Split,
    taken_for,
)
from windtunnel.data.spool import held_out, validation_share
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import named, write_whole
from windtunnel.quantities import share_of

SOURCE = "chat"  # the one source of such a corpus
# The share of the conversations that is held out, by their hash; more of a small set, as in any
# corpus.
VALIDATION = 0.02
_SHARD = 128 << 20  # tokens
_OPEN = 256  # windows that may still be filled while a build goes on
_REPORT_EVERY = 256  # conversations
_ORDER = 2  # raised whenever other bytes come out of the same files


def build_chat(
    corpora: Path,
    data: Sequence[str | Path],
    tokenizer: Path,
    context: int,
    max_bad: float = 0.01,
    progress: Progress | None = None,
    format: str | None = None,
) -> Corpus:
    """The corpus, in the folder `corpora`, of the conversations in these files, folders or globs,
    in windows of `context` tokens; `format`: of the files, where it is not to be seen from what
    they hold.

    Raises InputError for files that are not there, for more malformed lines than the share
    `max_bad`, for a tokenizer without tokens for a conversation, and where nothing would be left
    to learn or to hold out.
    """
    share_of("max_bad", max_bad)
    if format:
        FORMATS.choose(format, f"--format {format}")
    found = conversation_files(data)
    loaded = Tokenizer.load(tokenizer)
    form = format_of(loaded)
    settings = [FORMAT, _ORDER, content_digest(found), loaded.identity, context, form.template]
    # A format that nobody asked for follows from the content.
    settings += [format] if format else []
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = corpora / f"{_plain(found[0])}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        rendered = _render(found, loaded, context, max_bad, progress, format)
        _write(folder, fingerprint, loaded, rendered, origin=", ".join(map(named, data)))
    return Corpus.open(folder)


def packed(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Conversations of these lengths packed into windows of `context` tokens: for each window the
    numbers of the conversations in it. Each goes into the first window that has room for it, of
    the last `_OPEN` that are not full.
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
class _Conversation:
    ids: np.ndarray
    learnt: np.ndarray
    """Which of its tokens a model learns to say, bool (n,)."""
    bytes: int
    """Of its text."""
    key: tuple[int, int]
    """Its hash: the first half says whether it is held out, the second where it stands."""


@dataclass(frozen=True)
class _Rendered:
    conversations: list[_Conversation]
    tally: Tally
    duplicates: int
    packing: Packing


def _render(
    found: list[Path],
    tokenizer: Tokenizer,
    context: int,
    max_bad: float,
    progress: Progress | None,
    format: str | None,
) -> _Rendered:
    """Every conversation once, in the order of the hashes."""
    form = format_of(tokenizer)
    tally = Tally()
    kept: dict[bytes, _Conversation | None] = {}
    seen = cut = 0
    names = ", ".join(map(named, found))
    for text in accepted(conversations(found, format), names, max_bad, tally):
        seen += 1
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in kept:
            kept[digest], longer = _one(text, digest, form, tokenizer, context)
            cut += longer
        if progress and seen % _REPORT_EVERY == 1:
            progress("read conversations", seen, None)
    # The hash decides the order, so that it does not depend on that of the files' lines.
    left = sorted((one for one in kept.values() if one), key=lambda one: one.key[1])
    if len(left) < 2:
        raise InputError(
            f"{named(found[0])}: {len(left)} different conversations with an answer in their first "
            f"{context} tokens; expected at least 2, one of which is held out"
        )
    dropped = len(kept) - len(left)
    packing = Packing(context=context, template=form.template, cut=cut - dropped, dropped=dropped)
    return _Rendered(left, tally, seen - len(kept), packing)


def _one(
    text: str, digest: bytes, form: ChatFormat, tokenizer: Tokenizer, context: int
) -> tuple[_Conversation | None, bool]:
    """A conversation, or None where its first `context` tokens hold nothing to learn; and whether
    it was longer than that.
    """
    messages = messages_of(text)
    ids, learnt = form.render(tokenizer, messages)
    longer = len(ids) > context
    if not learnt[:context].any():
        return None, longer
    first, second = np.frombuffer(digest, "<u8").tolist()
    made = _Conversation(
        ids=ids[:context].astype(tokenizer.dtype),
        learnt=learnt[:context],
        bytes=sum(len(message["content"].encode()) for message in messages),
        key=(first, second),
    )
    return made, longer


def _write(
    folder: Path, fingerprint: str, tokenizer: Tokenizer, rendered: _Rendered, origin: str
) -> None:
    """Write the corpus's folder, which appears whole. Raises InputError."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    ones = rendered.conversations
    # Held out by the hash, as documents of any corpus are.
    share = validation_share(VALIDATION, sum(one.bytes for one in ones))
    keys = np.array([one.key[0] for one in ones], np.uint64)
    out = held_out(keys, share, np.array([one.bytes for one in ones]))
    held = [one for one, is_out in zip(ones, out, strict=True) if is_out]
    trained = [one for one, is_out in zip(ones, out, strict=True) if not is_out]
    try:
        (part / SOURCE).mkdir(parents=True)
        tokenizer.keep(part)
        entry = SourceEntry(
            origin=origin,
            licence="unknown",
            synthetic=False,
            read=rendered.tally.documents,
            malformed=rendered.tally.malformed,
            duplicates=rendered.duplicates,
            cut=False,
            train=_split(part, "train", trained, tokenizer, rendered.packing),
            validation=_split(part, "validation", held, tokenizer, rendered.packing),
            taken=taken_for(rendered.tally.taken),
        )
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint,
            tokenizer_sha256=tokenizer.sha256,
            vocab=tokenizer.vocab,
            dtype=tokenizer.dtype.str,
            eos=tokenizer.eos,
            sources={SOURCE: entry},
            packing=rendered.packing,
        )
        write_whole(part / "manifest.json", manifest.to_json())
        part.rename(folder)
    except OSError as error:
        if not (folder / "manifest.json").exists():  # else another process built the same first
            raise InputError(f"{folder}: could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _split(
    folder: Path,
    name: Literal["train", "validation"],
    ones: list[_Conversation],
    tokenizer: Tokenizer,
    packing: Packing,
) -> Split:
    """Whole windows, and one more token, which is the last target of the last window."""
    context = packing.context
    windows = packed([len(one.ids) for one in ones], context)
    ids = np.full(len(windows) * context + 1, tokenizer.eos, tokenizer.dtype)
    learnt = np.zeros(len(ids), bool)
    starts: list[int] = []
    sizes: list[int] = []
    for number, window in enumerate(windows):
        start = number * context
        for one in (ones[index] for index in window):
            end = start + len(one.ids)
            ids[start:end] = one.ids
            learnt[start:end] = one.learnt
            starts.append(start)
            sizes.append(one.bytes)
            start = end
    # A document is a conversation and the tokens that fill up the window after it.
    lengths = np.diff([*starts, len(ids)])
    writer = ShardWriter(folder, SOURCE, name, tokenizer.dtype, _SHARD)
    try:
        writer.add(ids, lengths, np.array(sizes), learnt)
        return writer.finish()
    finally:
        writer.abandon()


def _plain(file: Path) -> str:
    """The file's name without its ending, as part of a folder's name."""
    name = file.name
    for ending in chain(COMPRESSED, *(one.endings for one in FORMATS.values())):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or SOURCE
