"""A corpus of preferences: each record is two documents, a question with two answers, which lie
behind each other in one window. So what a loss compares is always read together, whatever the
batch, and where each answer lies is a pure function of the window.

A window is twice as long as the longest document may be, so that any pair fits: attention stays
within a document, and the model sees no more than it has learnt to. Of pairs, the first document
ends in the chosen answer and the second in the rejected one. Of judged answers, the second is the
question with another question's answer, by which the divergence from the reference is estimated.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from windtunnel.data.chat_format import Format, Message, format_of
from windtunnel.data.conversations import content_digest, conversation_files
from windtunnel.data.formats import FORMATS
from windtunnel.data.packed import Document, Item, Read, hashes, plain_name, split, write_packed
from windtunnel.data.pairs import Judged, judged_of, judgements
from windtunnel.data.readers import Progress
from windtunnel.data.rendered import Rendered, rendered, writable
from windtunnel.data.shards import FORMAT, Corpus, Packing
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import named
from windtunnel.quantities import share_of
from windtunnel.recipe import Answers
from windtunnel.recipe.preference import CHOSEN, MISMATCHED, REJECTED

SOURCE = "preferences"  # the one source of such a corpus
_ORDER = 1  # raised whenever other bytes come out of the same files


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a corpus of preferences is built from, and for."""

    data: Sequence[str | Path]
    """Files, folders or globs."""
    tokenizer: Path
    longest: int
    """Tokens of a question with an answer; more are cut off."""
    needs: Answers
    """What the loss learns from."""
    max_bad: float = 0.01
    """The share of the records that may be malformed."""
    format: str | None = None
    """What the files are; seen from what each of them holds."""


def build_preferences(corpora: Path, wanted: Wanted, progress: Progress | None = None) -> Corpus:
    """The corpus, in the folder `corpora`; what is held out is held out by question. Raises
    InputError for files that are not there, for more malformed records than the share `max_bad`,
    for a tokenizer without tokens for a conversation, and where nothing would be left to learn or
    to hold out.
    """
    share_of("max_bad", wanted.max_bad)
    if wanted.format:
        FORMATS.choose(wanted.format, f"--format {wanted.format}")
    found = conversation_files(wanted.data)
    tokenizer = Tokenizer.load(wanted.tokenizer)
    form = format_of(tokenizer)
    content = [FORMAT, _ORDER, content_digest(found), tokenizer.identity, form.template]
    settings = [*content, wanted.longest, wanted.needs, wanted.format]
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = corpora / f"{plain_name(found[0], SOURCE)}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        made = _render(found, tokenizer, form, wanted, progress)
        trained, held = split(made.items)
        if not trained or not held:
            raise InputError(
                f"{named(found[0])}: {len(made.items)} records of {_WHAT[wanted.needs]} with "
                f"something to learn in their first {wanted.longest} tokens, of one question; "
                "expected at least 2 questions, one of which is held out"
            )
        if wanted.needs == "judged":
            trained = _with_mismatched(trained, wanted.longest)
            held = _with_mismatched(held, wanted.longest)
        read = Read(
            source=SOURCE,
            origin=", ".join(map(named, wanted.data)),
            tally=made.tally,
            duplicates=made.duplicates,
            packing=Packing(
                context=2 * wanted.longest,
                template=form.template,
                cut=made.cut,
                dropped=made.dropped,
                answers=wanted.needs,
            ),
        )
        write_packed(folder, fingerprint, tokenizer, read, {"train": trained, "validation": held})
    return Corpus.open(folder)


_WHAT: dict[Answers, str] = {"pairs": "pairs", "judged": "judged answers"}


def _render(
    found: list[Path],
    tokenizer: Tokenizer,
    form: Format,
    wanted: Wanted,
    progress: Progress | None,
) -> Rendered:
    """Every record once."""
    names = ", ".join(map(named, found))
    there = judgements(found, wanted.needs, wanted.format)
    there = writable(there, _conversations_in, form, tokenizer)

    def item_of(text: str, key: tuple[int, int]) -> tuple[Item | None, bool]:
        return _one(judged_of(text), key, form, tokenizer, wanted.longest)

    return rendered(there, item_of, "preferences", names, wanted.max_bad, progress)


def _conversations_in(text: str) -> list[list[Message]]:
    judged = judged_of(text)
    return [[*judged.prompt, *answer] for answer in judged.answers]


def _one(
    judged: Judged,
    key: tuple[int, int],
    form: Format,
    tokenizer: Tokenizer,
    longest: int,
) -> tuple[Item | None, bool]:
    """A record, or None where nothing is left to learn in the first `longest` tokens; and whether
    an answer went beyond them.
    """
    asked = len(form.render(tokenizer, judged.prompt)[0])
    roles = (CHOSEN, REJECTED) if judged.good else (REJECTED,)
    documents, longer = [], False
    for answer, role in zip(judged.answers, roles, strict=False):
        ids, said = form.render(tokenizer, [*judged.prompt, *answer])
        longer |= len(ids) > longest
        said[:asked] = False  # what the assistant said before is no part of the answer
        document = Document(
            ids=ids[:longest].astype(tokenizer.dtype),
            learnt=np.where(said[:longest], role, 0).astype(np.uint8),
            bytes=_size([*judged.prompt, *answer]),
        )
        documents.append(document)
    if not all(document.learnt.any() for document in documents):
        return None, longer
    # two answers that part beyond the last token that is read are the same
    if len(documents) == 2 and np.array_equal(documents[0].ids, documents[1].ids):
        return None, longer
    question = hashes(json.dumps(judged.prompt))[0]
    return Item(documents=tuple(documents), group=question, place=key[1]), longer


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].encode()) for message in messages)


def _with_mismatched(items: Sequence[Item], longest: int) -> list[Item]:
    """Judged answers in this order, each with the last one before it that answers another
    question; with itself where there is only one question.
    """
    found = []
    for number, item in enumerate(items):
        # counted backwards, and from the first on to the last
        before = (items[number - step] for step in range(1, len(items)))
        other = next((one for one in before if one.group != item.group), item)
        mismatched = _mismatched(item.documents[0], other.documents[0], longest)
        found.append(replace(item, documents=(*item.documents, mismatched)))
    return found


def _mismatched(asked: Document, other: Document, longest: int) -> Document:
    """The question of one document with the answer of another."""
    opening = asked.ids[: int(np.flatnonzero(asked.learnt)[0])]
    begins = int(np.flatnonzero(other.learnt)[0])
    ids = np.concatenate([opening, other.ids[begins:]])[:longest]
    said = np.concatenate([np.zeros(len(opening), bool), other.learnt[begins:] > 0])[:longest]
    return Document(ids=ids, learnt=np.where(said, MISMATCHED, 0).astype(np.uint8), bytes=0)
