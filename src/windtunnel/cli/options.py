"""Options that several commands take, and lists as people type them."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from windtunnel.choices import Table
from windtunnel.errors import InputError, did_you_mean
from windtunnel.quantities import parse_length, parse_tokens
from windtunnel.recipe import DECAY_SHAPES, PARAMETRIZATIONS

Lab = Annotated[
    Path,
    typer.Option(
        "--lab", help="The folder that holds corpora, runs, studies and plans.", metavar="DIR"
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="The run: its id, the start of it, its name, or path.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Corpora = Annotated[str, typer.Option("--corpus", help="A corpus of the lab.", metavar="NAME")]
Shape = Annotated[str, typer.Option("--shape", help=f"Shape of the decay: {DECAY_SHAPES.listed}.")]
Parametrization = Annotated[
    str,
    typer.Option(
        help=f"By which table inits, rates and multipliers follow from the shape of a model: "
        f"{PARAMETRIZATIONS.listed}."
    ),
]
DEFAULT_LAB = Path("lab")


def number_of(option: str, text: str | None) -> int | None:
    """`20M` -> a whole number above zero; None where the option was not given. Raises
    InputError.
    """
    if text is None:
        return None
    number = parse_tokens(text)
    if not 1 <= number <= 1e18:
        raise InputError(f"{option} {text}: expected a number above zero, such as 16k or 20M")
    return number


def numbers_of(option: str, text: str, different: bool = True) -> list[int]:
    """`32,64,128` -> whole numbers above zero, in the order given, each once where they must be
    `different`. Raises InputError.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or (different and len(set(numbers)) < len(numbers)):
        kind = "different whole" if different else "whole"
        raise InputError(f"{option} {text}: expected {kind} numbers above zero, such as 32,64,128")
    return numbers


def words_of(option: str, text: str, known: Any) -> list[str]:
    """`a,b` -> words out of a table or a Literal type. Raises InputError."""
    return [word_of(option, word, known) for word in text.split(",")]


def word_of(option: str, word: str, known: Any) -> Any:
    """One word out of a table of named choices or a Literal type. Raises InputError."""
    where = f"{option} {word}"
    if isinstance(known, Table):
        return known.choose(word, where).name
    names = get_args(known)
    if word not in names:
        expected = ", ".join(names)
        raise InputError(f"{where}: expected one of {expected}{did_you_mean(word, names)}")
    return word


def size_of(option: str, text: str) -> tuple[int, int]:
    """`64x4` -> (width, depth). Raises InputError."""
    width, _, depth = text.strip().partition("x")
    if not (width.isdecimal() and depth.isdecimal() and int(width) and int(depth)):
        raise InputError(f"{option} {text}: expected WIDTHxDEPTH such as 64x4")
    return int(width), int(depth)


def share_of(option: str, text: str) -> float:
    """`10%` -> 0.1, above 0% and below 100%. Raises InputError."""
    share = parse_length(text).share
    if not 0 < share < 1:
        raise InputError(f"{option} {text}: expected a share such as 10%")
    return share
