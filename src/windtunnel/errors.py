"""The errors that a person meets, and how one suggests a word that was meant."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something that a person typed or pointed to is wrong. One line: what, where, what was
    expected.

    The command line prints it on stderr and exits with 2; nothing half-written is left behind.
    """


class Lost(Exception):
    """Something outside of this process that it can't go on without is gone, such as another
    process of the same run. One line, which the command line prints; it exits with 1.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'decay'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
