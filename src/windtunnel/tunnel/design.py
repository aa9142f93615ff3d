"""What a study measures, said in one place: each field of an experiment's `Design` holds its
default, what it means, and how a person types it. The options of the experiment's command are made
of these, so this module and every `design.py` import in no time.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Generic, NamedTuple, TypeVar

from windtunnel.choices import Table
from windtunnel.errors import InputError
from windtunnel.quantities import Length, format_tokens, parse_length, parse_tokens

T = TypeVar("T")

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
            assert each.default is not MISSING
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


def whole(least: int = 1) -> Kind[int]:
    """A whole number, `least` or more."""

    def parse(flag: str, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= _MOST:
            raise InputError(f"{flag} {text}: expected a whole number, {least} or more")
        return number

    return Kind(parse=parse, metavar="N")


def _number(flag: str, text: str) -> float:
    number = _float(text)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{flag} {text}: expected a number above zero")
    return number


def _fraction(flag: str, text: str) -> float:
    number = _float(text)
    if not 0 <= number <= 1:
        raise InputError(f"{flag} {text}: expected a number from 0 to 1")
    return number


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _tokens_or_zero(flag: str, text: str) -> int:
    try:
        return parse_tokens(text)
    except InputError:
        raise InputError(
            f"{flag} {text}: expected a number of tokens such as 4096 or 20M"
        ) from None


def _tokens(flag: str, text: str) -> int:
    number = _tokens_or_zero(flag, text)
    if not 1 <= number <= _MOST:
        raise InputError(f"{flag} {text}: expected a number above zero, such as 16k or 20M")
    return number


def _length(flag: str, text: str) -> Length:
    try:
        return parse_length(text)
    except InputError:
        raise InputError(
            f"{flag} {text}: expected tokens such as 2M, or a share such as 10%"
        ) from None


def _share(flag: str, text: str) -> float:
    try:
        share = parse_length(text).share
    except InputError:
        share = 0.0
    if not 0 < share < 1:
        raise InputError(f"{flag} {text}: expected a share such as 10%")
    return share


def _wholes(flag: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{flag} {text}: expected whole numbers above zero, such as 32,64,128")
    return numbers


def _different(flag: str, text: str) -> tuple[int, ...]:
    try:
        numbers = _wholes(flag, text)
    except InputError:
        numbers = ()
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(
            f"{flag} {text}: expected different whole numbers above zero, such as 32,64,128"
        )
    return numbers


def _size(flag: str, text: str) -> Size:
    width, _, depth = text.strip().partition("x")
    if not (width.isdecimal() and depth.isdecimal() and int(width) and int(depth)):
        raise InputError(f"{flag} {text}: expected WIDTHxDEPTH such as 64x4")
    return Size(int(width), int(depth))


def _listed(one: Kind[T], metavar: str) -> Kind[tuple[T, ...]]:
    """Several of a kind, separated by commas."""
    return Kind(
        parse=lambda flag, text: tuple(one.parse(flag, part) for part in text.split(",")),
        show=lambda values: ",".join(one.show(value) for value in values),
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
    return Kind(
        parse=lambda flag, text: tuple(dict.fromkeys(several.parse(flag, text))) if text else (),
        show=several.show,
        metavar=several.metavar,
        known=known,
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


NUMBER = Kind(parse=_number, metavar="NUMBER")
FRACTION = Kind(parse=_fraction, metavar="NUMBER")
TOKENS = Kind(parse=_tokens, show=format_tokens, metavar="TOKENS")
TOKENS_OR_ZERO = Kind(parse=_tokens_or_zero, show=format_tokens, metavar="TOKENS")
LENGTH = Kind(parse=_length, metavar="TOKENS|SHARE")
SHARE = Kind(parse=_share, show=lambda share: f"{100 * share:.12g}%", metavar="SHARE")
SIZE = Kind(parse=_size, metavar="WIDTHxDEPTH")
WHOLES = Kind(parse=_wholes, show=_commas, metavar="N,...")
DIFFERENT_WHOLES = Kind(parse=_different, show=_commas, metavar="N,...")
TOKENS_LIST = _listed(TOKENS, "TOKENS,...")
SIZES = _listed(SIZE, "WIDTHxDEPTH,...")
# typed as a flag that takes no value: its `flag` is `--on/--off`, or `--on` alone
SWITCH: Kind[bool] = Kind(parse=lambda flag, text: bool(text), metavar="")
