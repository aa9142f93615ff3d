"""From what files hold, conversations or answers to compare, to the items of a corpus: each once,
and none that the tokenizer's chat template refuses.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from windtunnel.data.chat_format import Format, Message
from windtunnel.data.formats import Malformed
from windtunnel.data.packed import Item, hashes
from windtunnel.data.readers import Found, Progress, Tally, accepted
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError

_REPORT_EVERY = 256  # records

# A record and its two hashes -> its item, or None where what is read of it holds nothing to learn;
# and whether it was longer than what is read.
ItemOf = Callable[[str, tuple[int, int]], tuple[Item | None, bool]]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The items of all files, before they are parted for validation."""

    items: list[Item]
    tally: Tally
    duplicates: int
    cut: int
    """Items of which the beginning is here."""
    dropped: int
    """Records whose beginning held nothing to learn."""


def rendered(
    found: Iterable[Found],
    item_of: ItemOf,
    what: str,
    names: str,
    max_bad: float,
    progress: Progress | None,
) -> Rendered:
    """Every record once. `what` they are and the `names` of their files are for people. Raises
    InputError where more than the share `max_bad` is malformed.
    """
    tally = Tally()
    kept: dict[tuple[int, int], Item | None] = {}
    seen = longer = 0
    for text in accepted(found, names, max_bad, tally):
        seen += 1
        key = hashes(text)
        if key not in kept:
            kept[key], is_longer = item_of(text, key)
            longer += is_longer
        if progress and seen % _REPORT_EVERY == 1:
            progress(f"read {what}", seen, None)
    items = [one for one in kept.values() if one]
    dropped = len(kept) - len(items)
    return Rendered(
        items=items,
        tally=tally,
        duplicates=seen - len(kept),
        cut=longer - dropped,
        dropped=dropped,
    )


def writable(
    found: Iterable[Found],
    conversations_in: Callable[[str], list[list[Message]]],
    form: Format,
    tokenizer: Tokenizer,
) -> Iterator[Found]:
    """What is found, where what a chat template refuses is malformed: a role that it does not know,
    or turns that it does not want.
    """
    number = 0
    for one in found:
        if not isinstance(one, str):
            yield one
            continue
        number += 1
        try:
            for messages in conversations_in(one):
                form.render(tokenizer, messages)
        except InputError as error:
            yield Malformed(f"conversation {number}", str(error))
        else:
            yield one
