"""A corpus of conversations: rendered by the tokenizer's template and packed whole into windows.

Learnt is what the assistant says, and the token that closes it. A window is filled up with end
tokens, which are not. All follows from what the files hold, the tokenizer and the context, so a
corpus bears a hash of these in its name, and asking for it again finds it. A build holds all
tokens in memory: about five bytes each.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from windtunnel.data.chat_format import ChatFormat, format_of
from windtunnel.data.conversations import (
    ENDINGS,
    content_digest,
    conversation_files,
    conversations,
    messages_of,
)
from windtunnel.data.readers import Progress, Tally, accepted
from windtunnel.data.shards import (
    FORMAT,
    Corpus,
    Manifest,
    Packing,
    ShardWriter,
    SourceEntry,
    Split,
)
from windtunnel.data.spool import held_out, validation_share
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import write_whole

SOURCE = "chat"  # the one source of such a corpus
# share of the conversations held out by their hash, raised for little text as in any corpus
VALIDATION = 0.02
_SHARD = 128 << 20  # tokens
_OPEN = 256  # windows that may still be filled while a build goes on
_ORDER = 1  # raised whenever other bytes come out of the same files


def build_chat(
    corpora: Path,
    data: Sequence[str | Path],
    tokenizer: Path,
    context: int,
    max_bad: float = 0.01,
    progress: Progress | None = None,
) -> Corpus:
    """The corpus below `corpora` of the conversations in these files, folders or globs, in
    windows of `context` tokens.

    Raises InputError for files that are not there, for more malformed lines than the share
    `max_bad`, for a tokenizer without tokens for a conversation, and where nothing would be left
    to learn or to hold out.
    """
    found = conversation_files(data)
    told = Tokenizer.load(tokenizer)
    settings = [
        FORMAT,
        _ORDER,
        content_digest(found),
        told.sha256,
        context,
        format_of(told).template,
    ]
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = corpora / f"{_plain(found[0])}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        rendered = _render(found, told, context, max_bad, progress)
        _write(folder, fingerprint, told, rendered, ", ".join(map(str, data)))
    return Corpus.open(folder)


def packed(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Windows as lists of what lies in them: each in the first of the windows begun last that has
    room for it.
    """
    windows: list[list[int]] = []
    room: dict[int, int] = {}  # of the windows that may still be filled, oldest first
    for index, length in enumerate(lengths):
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


@dataclass(frozen=True)
class _Conversation:
    ids: np.ndarray
    learnt: np.ndarray  # bool, like ids
    bytes: int  # of its text
    key: tuple[
        int, int
    ]  # its hash: the first half says whether it is held out, the second where it stands


@dataclass(frozen=True)
class _Rendered:
    conversations: list[_Conversation]
    tally: Tally
    duplicates: int
    packing: Packing


def _render(
    found: list[Path], tokenizer: Tokenizer, context: int, max_bad: float, progress: Progress | None
) -> _Rendered:
    """Every conversation once, in the order of the hashes."""
    form, tally, kept = format_of(tokenizer), Tally(), dict[bytes, _Conversation | None]()
    accepted_ones = cut = 0
    for text in accepted(conversations(found), ", ".join(map(str, found)), max_bad, tally):
        accepted_ones += 1
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in kept:
            kept[digest], longer = _one(text, digest, form, tokenizer, context)
            cut += longer
        if progress and accepted_ones % 256 == 1:
            progress("read conversations", accepted_ones, None)
    left = sorted((one for one in kept.values() if one), key=lambda one: one.key[1])
    if len(left) < 2:
        raise InputError(
            f"{found[0]}: {len(left)} different conversations with something to learn in their first {context} tokens; "
            f"expected at least 2, one of which is held out"
        )
    dropped = len(kept) - len(left)
    packing = Packing(context, form.template, cut - dropped, dropped)
    return _Rendered(left, tally, accepted_ones - len(kept), packing)


def _one(
    text: str, digest: bytes, form: ChatFormat, tokenizer: Tokenizer, context: int
) -> tuple[_Conversation | None, bool]:
    """A conversation, or None where its first `context` tokens hold nothing to learn; and whether
    it was longer.
    """
    messages = messages_of(text)
    ids, learnt = form.render(tokenizer, messages)
    longer, ids, learnt = (
        len(ids) > context,
        ids[:context].astype(tokenizer.dtype),
        learnt[:context],
    )
    if not learnt.any():
        return None, longer
    first, second = np.frombuffer(digest, "<u8").tolist()
    size = sum(len(message["content"].encode()) for message in messages)
    return _Conversation(ids, learnt, size, (first, second)), longer


def _write(
    folder: Path, fingerprint: str, tokenizer: Tokenizer, rendered: _Rendered, origin: str
) -> None:
    """The corpus's folder, which appears whole."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    ones = rendered.conversations
    share = validation_share(VALIDATION, sum(one.bytes for one in ones))
    held = held_out(np.array([one.key[0] for one in ones], np.uint64), share)
    splits = {
        "validation": [one for one, out in zip(ones, held, strict=True) if out],
        "train": [one for one, out in zip(ones, held, strict=True) if not out],
    }
    try:
        (part / SOURCE).mkdir(parents=True)
        tokenizer.save(part / "tokenizer.json")
        written = {
            name: _split(part, name, ones, tokenizer, rendered.packing)
            for name, ones in splits.items()
        }
        tally = rendered.tally
        entry = SourceEntry(
            origin,
            "unknown",
            False,
            tally.documents,
            tally.malformed,
            rendered.duplicates,
            False,
            written["train"],
            written["validation"],
        )
        facts = (tokenizer.sha256, tokenizer.vocab, tokenizer.dtype.str, tokenizer.eos)
        manifest = Manifest(FORMAT, fingerprint, *facts, {SOURCE: entry}, packing=rendered.packing)
        write_whole(part / "manifest.json", manifest.to_json())
        part.rename(folder)
    except OSError as error:
        if not (folder / "manifest.json").exists():  # else another process built the same first
            raise InputError(f"{folder}: could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _split(
    folder: Path, name: str, ones: list[_Conversation], tokenizer: Tokenizer, packing: Packing
) -> Split:
    """Whole windows, and one more token: the last target of the last window."""
    windows = packed([len(one.ids) for one in ones], packing.context)
    ids = np.full(len(windows) * packing.context + 1, tokenizer.eos, tokenizer.dtype)
    learnt, starts = np.zeros(len(ids), bool), []
    for number, window in enumerate(windows):
        at = number * packing.context
        for one in (ones[index] for index in window):
            ids[at : at + len(one.ids)], learnt[at : at + len(one.ids)] = one.ids, one.learnt
            starts.append(at)
            at += len(one.ids)
    order = [index for window in windows for index in window]
    writer = ShardWriter(
        folder, SOURCE, "train" if name == "train" else "validation", tokenizer.dtype, _SHARD
    )
    try:
        writer.add(
            ids,
            np.diff([*starts, len(ids)]),
            np.array([ones[index].bytes for index in order]),
            learnt,
        )
        return writer.finish()
    finally:
        writer.abandon()


def _plain(file: Path) -> str:
    """The file's name without its ending, as part of a folder's name."""
    name = file.name
    for ending in ENDINGS:
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or SOURCE
