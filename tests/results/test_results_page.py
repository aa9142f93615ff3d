"""docs/results.md is what the types of the results say."""

from pathlib import Path
from typing import Annotated, Literal

import pytest

from windtunnel.results.__main__ import modules, own_fields, page, records_of, type_in_words
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


RECORDS = [record for module in modules() for record in records_of(module)]


def test_every_record_is_on_the_page() -> None:
    assert {"RunStatus", "PlanResult", "ScalingNumbers"} <= {record.__name__ for record in RECORDS}
    text = page()
    assert [r.__name__ for r in RECORDS if f"### {r.__name__}\n" not in text] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_says_what_it_is(record: type[Record]) -> None:
    silent = [name for name, field in own_fields(record).items() if not field.description]
    assert silent == []
