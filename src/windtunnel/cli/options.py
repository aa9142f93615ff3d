"""Options that several commands take, and lists as people type them."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from windtunnel.errors import InputError

Lab = Annotated[Path, typer.Option("--lab", help="The folder that holds corpora, runs, studies and the report.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Corpora = Annotated[str, typer.Option("--corpus", help="A corpus of the lab.")]
DEFAULT_LAB = Path("lab")


def numbers_of(option: str, text: str, different: bool = True) -> list[int]:
    """`32,64,128` -> whole numbers above zero, in the order given, each once where they must be `different`. Raises
    InputError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or (different and len(set(numbers)) < len(numbers)):
        kind = "different whole" if different else "whole"
        raise InputError(f"{option} {text}: expected {kind} numbers above zero, such as 32,64,128")
    return numbers


def words_of(option: str, text: str, known: Any) -> list[str]:
    """`a,b` -> words out of a Literal type. Raises InputError."""
    from windtunnel.recipe import did_you_mean

    words = text.split(",")
    for word in words:
        if word not in get_args(known):
            expected = ", ".join(get_args(known))
            raise InputError(f"{option} {word}: expected {expected}{did_you_mean(word, get_args(known))}")
    return words
