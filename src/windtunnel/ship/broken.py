"""Special tokens that people type, kept as text while an engine renders a chat template: they are
broken by a mark in what people wrote, so that those that are whole are the template's.
"""

import re
from collections.abc import Iterable, Mapping

# Characters that are none, and stand in no text.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Broken:
    """The special tokens of one rendering."""

    def __init__(self, special: Mapping[str, int], texts: Iterable[str]) -> None:
        """`special`: ids by name. `texts`: all that people wrote."""
        self._special = special
        written = "".join(texts)
        self._mark = next(mark for mark in _MARKS if mark not in written)
        # The longest first: one name may begin with another.
        names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def has(self, text: str) -> bool:
        """Whether a text holds the name of a special token."""
        return bool(self._names.search(text))

    def text(self, text: str) -> str:
        """What somebody wrote, with every special token in it broken."""
        # again, since the end of one may be the beginning of another
        while self._names.search(text):
            text = self._names.sub(lambda found: f"{found[0][0]}{self._mark}{found[0][1:]}", text)
        return text

    def parts(self, rendered: str) -> list[str | int]:
        """What a template made of it: texts, whole again, and the special tokens between them."""
        parts: list[str | int] = []
        start = 0
        for found in self._names.finditer(rendered):
            parts += [rendered[start : found.start()], self._special[found[0]]]
            start = found.end()
        parts.append(rendered[start:])
        return [
            part.replace(self._mark, "") if isinstance(part, str) else part
            for part in parts
            if part != ""
        ]
