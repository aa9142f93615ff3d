"""A corpus of conversations: rendered by the tokenizer's template, and packed whole into windows.

A model learns to say what the assistant says, and the token that closes it. Everything follows from
what the files hold, the tokenizer and the context, so a corpus has a hash of these in its name, and
asking for it again finds it. A build holds all tokens in memory, at about five bytes each.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from windtunnel.data.chat_format import Format, format_of
from windtunnel.data.conversations import (
    content_digest,
    conversation_files,
    conversations,
    messages_of,
)
from windtunnel.data.formats import FORMATS
from windtunnel.data.packed import Document, Item, Read, plain_name, split, write_packed
from windtunnel.data.readers import Progress
from windtunnel.data.rendered import Rendered, rendered, writable
from windtunnel.data.shards import FORMAT, Corpus, Packing
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import named
from windtunnel.quantities import share_of

SOURCE = "chat"  # the one source of such a corpus
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
    folder = corpora / f"{plain_name(found[0], SOURCE)}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        made = _render(found, loaded, context, max_bad, progress, format)
        trained, held = split(made.items)
        read = Read(
            source=SOURCE,
            origin=", ".join(map(named, data)),
            tally=made.tally,
            duplicates=made.duplicates,
            packing=Packing(
                context=context, template=form.template, cut=made.cut, dropped=made.dropped
            ),
        )
        write_packed(folder, fingerprint, loaded, read, {"train": trained, "validation": held})
    return Corpus.open(folder)


def _render(
    found: list[Path],
    tokenizer: Tokenizer,
    context: int,
    max_bad: float,
    progress: Progress | None,
    format: str | None,
) -> Rendered:
    """Every conversation once."""
    form = format_of(tokenizer)
    names = ", ".join(map(named, found))
    there = writable(
        conversations(found, format), lambda text: [messages_of(text)], form, tokenizer
    )

    def item_of(text: str, key: tuple[int, int]) -> tuple[Item | None, bool]:
        return _one(text, key, form, tokenizer, context)

    made = rendered(there, item_of, "conversations", names, max_bad, progress)
    if len(made.items) < 2:
        raise InputError(
            f"{named(found[0])}: {len(made.items)} different conversations with an answer in their "
            f"first {context} tokens; expected at least 2, one of which is held out"
        )
    return made


def _one(
    text: str, key: tuple[int, int], form: Format, tokenizer: Tokenizer, context: int
) -> tuple[Item | None, bool]:
    """A conversation, or None where its first `context` tokens hold nothing to learn; and whether
    it was longer than that.
    """
    messages = messages_of(text)
    ids, learnt = form.render(tokenizer, messages)
    longer = len(ids) > context
    if not learnt[:context].any():
        return None, longer
    document = Document(
        ids=ids[:context].astype(tokenizer.dtype),
        learnt=learnt[:context].astype(np.uint8),
        bytes=sum(len(message["content"].encode()) for message in messages),
    )
    return Item(documents=(document,), group=key[0], place=key[1]), longer
