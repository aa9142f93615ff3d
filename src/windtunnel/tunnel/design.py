"""What a study measures, said in one place: each field of an experiment's `Design` holds its
default, what it means, and how a person types it. The options of the experiment's command are made
of these, so this module and every `design.py` import in no time.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, NamedTuple, TypeVar

from windtunnel.choices import Table
from windtunnel.errors import InputError
from windtunnel.quantities import (
    format_context,
    format_tokens,
    parse_context,
    parse_length,
    parse_tokens,
)

T = TypeVar("T")

# At a length, for its best batch to be told: one more than a parabola has parameters.
LEAST_BATCHES = 4

_OPTION = "option"  # the key of a field's metadata
_MOST = 10**18  # of any whole number or length; further up floats and integers part


class Size(NamedTuple):
    """A model's size, typed as `64x4`."""

    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.width}x{self.depth}"


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """How a value is typed. `parse` takes the flag and the text, and raises InputError that names
    both; `show` gives the text back. `known` gives the table whose names stand for `{words}` in the
    help. It is asked for only when it is needed, since its module may be slow to import.
    """

    parse: Callable[[str, str], T]
    show: Callable[[T], str] = str
    metavar: str
    known: Callable[[], Table[Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a Design as a command's option."""

    name: str
    flag: str
    help: str
    kind: Kind[Any]
    default: Any

    @property
    def full_help(self) -> str:
        """The help with the known words in it."""
        known = self.kind.known
        return self.help.replace("{words}", known().listed) if known else self.help


def option(default: T, help: str, kind: Kind[T], flag: str = "") -> T:
    """A field of a Design. The flag is the field's name unless another one is given."""
    return field(default=default, metadata={_OPTION: (help, kind, flag)})


def options_of(design: type) -> list[Option]:
    """The options of a Design, in the order of its fields; a field that `option` did not make has
    none.
    """
    found = []
    for each in fields(design):
        if _OPTION in each.metadata:
            help, kind, flag = each.metadata[_OPTION]
            flag = flag or f"--{each.name.replace('_', '-')}"
            found.append(
                Option(name=each.name, flag=flag, help=help, kind=kind, default=each.default)
            )
    return found


def typed(design: Any) -> list[str]:
    """What a person would type for this design: flags and values, defaults left out."""
    words = []
    for each in options_of(type(design)):
        value = getattr(design, each.name)
        if value == each.default:
            continue
        if each.kind is SWITCH:
            on, _, off = each.flag.partition("/")
            words.append(on if value else off)
        else:
            words += [each.flag, each.kind.show(value)]
    return words


def _kind(
    read: Callable[[str], T], expected: str, metavar: str, show: Callable[[T], str] = str
) -> Kind[T]:
    """A kind whose `read` raises ValueError or InputError for text that is not what is expected."""

    def parse(flag: str, text: str) -> T:
        try:
            return read(text)
        except (ValueError, InputError):
            raise InputError(f"{flag} {text}: expected {expected}") from None

    return Kind(parse=parse, show=show, metavar=metavar)


def _held(value: T, holds: bool) -> T:
    if not holds:
        raise ValueError
    return value


def whole(least: int = 1) -> Kind[int]:
    """A whole number, `least` or more."""

    def read(text: str) -> int:
        number = int(text)
        return _held(number, least <= number <= _MOST)

    return _kind(read, f"a whole number, {least} or more", "N")


def _plain(number: float) -> str:
    return repr(number).removesuffix(".0")


def _number(text: str) -> float:
    number = float(text)
    return _held(number, 0 < number < math.inf)


def _amount(text: str) -> float:
    number = float(text)
    return _held(number, 0 <= number < math.inf)


def _fraction(text: str) -> float:
    number = float(text)
    return _held(number, 0 <= number <= 1)


def _tokens(text: str) -> int:
    number = parse_tokens(text)
    return _held(number, 1 <= number <= _MOST)


def _share(text: str) -> float:
    share = parse_length(text).share
    return _held(share, 0 < share < 1)


def _wholes(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(",")))
    return _held(numbers, min(numbers) >= 1)


def _different(text: str) -> tuple[int, ...]:
    numbers = _wholes(text)
    return _held(numbers, len(set(numbers)) == len(numbers))


def _size(text: str) -> Size:
    width, depth = map(int, text.split("x"))
    return _held(Size(width, depth), min(width, depth) >= 1)


def _listed(one: Kind[T], metavar: str) -> Kind[tuple[T, ...]]:
    """Several of a kind, separated by commas."""
    return Kind(
        parse=lambda flag, text: tuple(one.parse(flag, part) for part in text.split(",")),
        show=lambda values: ",".join(map(one.show, values)),
        metavar=metavar,
        known=one.known,
    )


def word(known: Callable[[], Table[Any]]) -> Kind[Any]:
    """One name of a table."""
    return Kind(
        parse=lambda flag, text: known().choose(text, f"{flag} {text}").name,
        metavar="WORD",
        known=known,
    )


def words(known: Callable[[], Table[Any]]) -> Kind[tuple[Any, ...]]:
    """Names of a table."""
    return _listed(word(known), "WORD,...")


def any_words(known: Callable[[], Table[Any]]) -> Kind[tuple[Any, ...]]:
    """Names of a table, each once, or none."""
    several = words(known)
    return replace(
        several,
        parse=lambda flag, text: tuple(dict.fromkeys(several.parse(flag, text))) if text else (),
    )


def optional(kind: Kind[T]) -> Kind[T | None]:
    """A value, or nothing where the text is empty."""
    return Kind(
        parse=lambda flag, text: kind.parse(flag, text) if text else None,
        show=lambda value: "" if value is None else kind.show(value),
        metavar=kind.metavar,
        known=kind.known,
    )


def _commas(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


_WHOLES = "whole numbers above zero, such as 32,64,128"

NUMBER = _kind(_number, "a number above zero", "NUMBER", _plain)
NUMBERS = _listed(NUMBER, "NUMBER,...")
AMOUNT = _kind(_amount, "a number, zero or more", "NUMBER", _plain)
FRACTION = _kind(_fraction, "a number from 0 to 1", "NUMBER")
TOKENS = _kind(_tokens, "a number above zero, such as 16k or 20M", "TOKENS", format_tokens)
TOKENS_OR_ZERO = _kind(
    parse_tokens, "a number of tokens, such as 16k or 20M, or 0", "TOKENS", format_tokens
)
CONTEXT = _kind(parse_context, "a number of tokens, such as 4096 or 32k", "LENGTH", format_context)
LENGTH = _kind(parse_length, "tokens such as 2M, or a share such as 10%", "TOKENS|SHARE")
SHARE = _kind(_share, "a share such as 10%", "SHARE", lambda share: f"{100 * share:.12g}%")
SIZE = _kind(_size, "WIDTHxDEPTH such as 64x4", "WIDTHxDEPTH")
WHOLES = _kind(_wholes, _WHOLES, "N,...", _commas)
DIFFERENT_WHOLES = _kind(_different, f"different {_WHOLES}", "N,...", _commas)
CONTEXTS = _listed(CONTEXT, "LENGTH,...")
TOKENS_LIST = _listed(TOKENS, "TOKENS,...")
SIZES = _listed(SIZE, "WIDTHxDEPTH,...")
# typed as a flag that takes no value: its `flag` is `--on/--off`, or `--on` alone
SWITCH: Kind[bool] = Kind(parse=lambda flag, text: bool(text), metavar="")
