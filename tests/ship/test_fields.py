"""What anybody may have written as a number or a truth value is taken or refused by name."""

import math
from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.ship.fields import Fields


def test_numbers_and_defaults() -> None:
    fields = Fields({"size": 8, "base": 1e4, "none": None, "whole": 8.0, "small": 1e-9}, "x")
    assert (fields.number("size"), fields.number("base"), fields.whole("whole")) == (8.0, 1e4, 8)
    assert isinstance(fields.whole("whole"), int) and isinstance(fields.number("size"), float)
    assert fields.number("small") == 1e-9
    assert fields.number("none", 3.5) == 3.5 and fields.whole("missing", 7) == 7
    assert fields.number("missing", None) is None


@pytest.mark.parametrize("value", [0, -1, True, False, "8", math.inf, math.nan, [8]])
def test_what_is_no_number_above_zero_is_refused(value: Any) -> None:
    for asked in (Fields({"size": value}, "x").number, Fields({"size": value}, "x").whole):
        with pytest.raises(InputError, match=r"^x: size: expected a .*number above zero, got "):
            asked("size")


def test_a_number_that_is_not_whole_is_refused_where_it_has_to_be() -> None:
    assert Fields({"size": 8.5}, "x").number("size") == 8.5
    with pytest.raises(InputError, match=r"^x: size: expected a whole number above zero, got 8\.5"):
        Fields({"size": 8.5}, "x").whole("size")


@pytest.mark.parametrize("config", [{"sizes": 1}, {"sizes": 1, "size": None}])
def test_a_field_that_has_to_be_there_is_named_with_what_is_like_it(config: Any) -> None:
    with pytest.raises(InputError, match=r"^x: size: missing; did you mean 'size"):
        Fields(config, "x").number("size")


def test_truth_values() -> None:
    fields = Fields({"on": True, "off": False, "none": None, "one": 1}, "x")
    assert fields.yes("on", False) and not fields.yes("off", True)
    for default in (True, False):
        assert fields.yes("none", default) is default and fields.yes("missing", default) is default
    with pytest.raises(InputError, match="x: one: expected true or false, got 1"):
        fields.yes("one", True)
