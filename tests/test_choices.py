"""A table of named choices: one record a name, and an unknown name is refused."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from windtunnel.choices import Table
from windtunnel.errors import InputError


@dataclass(frozen=True)
class Colour:
    name: str
    help: str
    red: int


@pytest.fixture
def colours() -> Table[Colour]:
    return Table("colour", [Colour("crimson", "a red", 220), Colour("teal", "a green", 0)])


def test_records_are_found_by_name_in_their_order(colours: Table[Colour]) -> None:
    assert colours["teal"].red == 0
    assert list(colours) == ["crimson", "teal"]
    assert colours.listed == "crimson or teal"
    assert colours.choose("teal", "--colour teal") is colours["teal"]


def test_a_table_of_one_or_three_is_listed(colours: Table[Colour]) -> None:
    assert Table("colour", [colours["teal"]]).listed == "teal"
    colours.add(Colour("ochre", "a yellow", 204))
    assert colours.listed == "crimson, teal or ochre"


def test_an_unknown_name_is_refused_with_the_known_ones(colours: Table[Colour]) -> None:
    with pytest.raises(InputError) as refused:
        colours["teel"]
    said = "expected one of crimson, teal; did you mean 'teal'?"
    assert str(refused.value) == f"colour 'teel': {said}"
    with pytest.raises(InputError) as refused:
        colours.choose("teel", "--colour teel")
    assert str(refused.value) == f"--colour teel: {said}"


def test_a_name_is_given_once(colours: Table[Colour]) -> None:
    with pytest.raises(ValueError, match="a colour 'teal' already"):
        colours.add(Colour("teal", "another", 1))


def test_pydantic_takes_the_names_that_the_table_has_when_it_validates(
    colours: Table[Colour],
) -> None:
    class Wall(BaseModel):
        colour: Annotated[str, colours]

    assert Wall(colour="teal").colour == "teal"
    with pytest.raises(ValidationError, match="'ochre': expected one of crimson, teal"):
        Wall(colour="ochre")
    with pytest.raises(ValidationError, match="valid string"):
        Wall.model_validate({"colour": 3})
    colours.add(Colour("ochre", "a yellow", 204))
    assert Wall(colour="ochre").colour == "ochre"
