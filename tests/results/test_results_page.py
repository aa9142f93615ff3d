"""docs/results.md is what the types of the results say."""

from pathlib import Path
from typing import Annotated, Literal

import pytest

from windtunnel.results.__main__ import page, type_in_words
from windtunnel.results.record import Record

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


class Thing(Record):
    """A record of this test."""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "integer or null"),
        (tuple[float, float], "list of 2 numbers"),
        (
            tuple[Annotated[float, "ten digits"], Annotated[float, "ten digits"]],
            "list of 2 numbers",
        ),
        (tuple[str, ...], "list of texts"),
        (tuple[int, str], "list of integer, text"),
        (tuple[Thing, ...], "list of Thing"),
        (dict[str, tuple[float, float]], "list of 2 numbers, by text"),
        (Literal["pass", "fail"] | None, "`pass` or `fail` or null"),
        (dict[int, Thing], "Thing, by integer"),
    ],
)
def test_a_type_in_words(kind: object, words: str) -> None:
    assert type_in_words(kind) == words


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text() == page() + "\n"
