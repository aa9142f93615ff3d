"""Lengths as people type them: tokens (`20M`, `1.1T`, `4096`) or a share (`10%`)."""

import math
import re
from dataclasses import dataclass

from windtunnel.errors import InputError

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_BINARY = {"k": 1 << 10, "m": 1 << 20}
_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-z]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Length:
    """A length in tokens: either fixed, or a share of another length."""

    tokens: int = 0
    """The length; 0 where it is a share."""
    share: float = 0.0
    """The share, from 0 to 1; 0 where it is fixed."""

    def of(self, whole: int) -> int:
        """The length in tokens, where a share is taken of `whole` tokens."""
        return self.tokens or round(self.share * whole)

    def __str__(self) -> str:
        return f"{self.share * 100:.12g}%" if self.share else format_tokens(self.tokens)


def parse_tokens(value: object) -> int:
    """`20M`, `1.1T`, `4_096` or a number -> a whole number of tokens >= 0. Raises InputError."""
    given = value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _no_tokens(given)
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        if not match or match[2].lower() not in _SUFFIXES:
            raise _no_tokens(given)
        value = float(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()]
    # 1.1T as a floating-point number is not quite whole
    whole = math.isfinite(value) and abs(value - round(value)) <= 1e-6 * max(1.0, value)
    if not whole or value < 0:
        raise _no_tokens(given)
    return round(value)


def _no_tokens(value: object) -> InputError:
    return InputError(
        f"{value!r} is not a number of tokens; expected something like 4096, 20M or 1.1T, "
        "zero or more"
    )


def parse_length(value: object) -> Length:
    """Tokens as in `parse_tokens`, or a share such as `10%`. Raises InputError."""
    if isinstance(value, Length):
        return value
    if not (isinstance(value, str) and value.strip().endswith("%")):
        return Length(tokens=parse_tokens(value))
    try:
        share = float(value.strip()[:-1]) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{value!r} is not a share; expected something between 0% and 100%")
    return Length(share=share)


def share_of(what: str, share: float, most: float = 1.0) -> float:
    """The share, which is between 0 and `most`. Raises InputError that begins with `what`."""
    if not 0 <= share <= most:  # nor is what is no number
        raise InputError(f"{what} {share:g}: expected a share between 0 and {most:g}")
    return share


def parse_context(text: str) -> int:
    """`32k` -> 32,768: lengths of a context are powers of two. Raises InputError."""
    plain = text.strip().lower()
    unit = _BINARY.get(plain[-1:], 1)
    digits = plain[:-1] if unit > 1 else plain
    tokens = int(digits) * unit if digits.isdecimal() else 0
    if tokens < 2:  # of one token there is no next
        raise InputError(f"{text}: expected a number of tokens, such as 4096 or 32k")
    return tokens


def format_context(tokens: int) -> str:
    """32,768 -> `32k`."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def format_tokens(tokens: int) -> str:
    """The shortest exact text for a number of tokens: 20_000_000 -> `20M`, 2048 -> `2048`."""
    for suffix, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= unit and (tokens * 10) % unit == 0:
            whole, tenth = divmod(tokens * 10 // unit, 10)
            return f"{whole}.{tenth}{suffix}" if tenth else f"{whole}{suffix}"
    return str(tokens)


def about(number: float) -> str:
    """A number for reading, with three digits and a suffix: 1234567 -> `1.23M`."""
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return f"{number:.3g}"


def about_bytes(size: float) -> str:
    """`1.67 MB`, `2.1 GB`."""
    number = about(size).replace("B", "G")
    if number[-1].isalpha():
        return f"{number[:-1]} {number[-1]}B"
    return f"{number} B"


def about_hours(hours: float) -> str:
    """`12.5 minutes`, `3.4 hours`."""
    if hours < 1:
        return f"{hours * 60:.3g} minutes"
    return f"{hours:,.3g} hours" if hours < 1000 else f"{hours:,.0f} hours"
