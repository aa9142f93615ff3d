"""A Design says once what a study measures: how a person types it follows from its fields."""

import importlib
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
from winds import WINDS

from windtunnel.errors import InputError
from windtunnel.quantities import Length
from windtunnel.tunnel import design
from windtunnel.tunnel.design import Kind, Size, option, options_of, typed

# the modules that hold a Design
DESIGNS = ("check", "search", "transfer", "batch", "scaling", "dynamics", "ablate")


@dataclass(frozen=True, kw_only=True)
class Kite:
    """A design that only this test has."""

    sizes: tuple[Size, ...] = option((Size(64, 4),), "The sizes.", design.SIZES)
    tail_tokens: int = option(20_000_000, "Its length.", design.TOKENS, flag="--tail")
    wind: str = option("north", "One of {words}.", design.word(lambda: WINDS))
    colour: bool = option(False, "With colour.", design.SWITCH)
    flown: int = 0


def test_a_field_is_an_option_unless_it_is_a_plain_one() -> None:
    found = options_of(Kite)
    assert [each.flag for each in found] == ["--sizes", "--tail", "--wind", "--colour"]
    assert [each.name for each in found] == ["sizes", "tail_tokens", "wind", "colour"]
    assert found[1].default == Kite().tail_tokens == 20_000_000
    assert found[2].full_help == "One of north or south."


def test_a_design_says_how_it_is_typed() -> None:
    assert typed(Kite()) == []
    kite = Kite(sizes=(Size(32, 2), Size(64, 4)), tail_tokens=4096, colour=True, flown=3)
    assert typed(kite) == ["--sizes", "32x2,64x4", "--tail", "4096", "--colour"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (design.whole(), "3", 3),
        (design.whole(least=0), "0", 0),
        (design.NUMBER, "1e-08", 1e-8),
        (design.NUMBER, "40000", 4e4),
        (design.FRACTION, "0.1", 0.1),
        (design.TOKENS, "20M", 20_000_000),
        (design.TOKENS, "1", 1),
        (design.NUMBER, "0.5", 0.5),
        (design.AMOUNT, "0", 0.0),
        (design.FRACTION, "0.0", 0.0),
        (design.FRACTION, "1.0", 1.0),
        (design.SIZE, "1x1", Size(1, 1)),
        (design.WHOLES, "1", (1,)),
        (design.whole(), "1000000000000000000", 10**18),
        (design.TOKENS_OR_ZERO, "0", 0),
        (design.TOKENS_LIST, "163840,2M", (163_840, 2_000_000)),
        (design.LENGTH, "25%", Length(share=0.25)),
        (design.LENGTH, "2M", Length(tokens=2_000_000)),
        (design.SHARE, "10%", 0.1),
        (design.SHARE, "12.5%", 0.125),
        (design.SIZE, "64x4", Size(64, 4)),
        (design.SIZES, "64x4,32x2", (Size(64, 4), Size(32, 2))),
        (design.WHOLES, "3,3", (3, 3)),
        (design.DIFFERENT_WHOLES, "32,64", (32, 64)),
        (design.words(lambda: WINDS), "south,north", ("south", "north")),
        (design.optional(design.SIZE), "", None),
        (design.optional(design.SIZE), "64x4", Size(64, 4)),
    ],
)
def test_what_is_typed_is_read_and_shown_again(
    kind: Kind[object], text: str, value: object
) -> None:
    assert kind.parse("--flag", text) == value
    assert kind.show(value) == text


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (design.whole(), "0", "a whole number, 1 or more"),
        (design.whole(), "2.5", "a whole number"),
        (design.whole(), "1" * 30, "a whole number"),
        (design.whole(least=0), "-1", "a whole number, 0 or more"),
        (design.AMOUNT, "-0.1", "a number, zero or more"),
        (design.AMOUNT, "inf", "a number, zero or more"),
        (design.NUMBER, "inf", "a number above zero"),
        (design.FRACTION, "-0.1", "a number from 0 to 1"),
        (design.SHARE, "0%", "a share such as 10%"),
        (design.SIZE, "0x4", "WIDTHxDEPTH such as 64x4"),
        (design.SIZE, "4x0", "WIDTHxDEPTH such as 64x4"),
        (design.NUMBER, "0", "a number above zero"),
        (design.NUMBER, "nan", "a number above zero"),
        (design.FRACTION, "1.1", "a number from 0 to 1"),
        (design.TOKENS, "0", "a number above zero, such as 16k or 20M"),
        (design.TOKENS_OR_ZERO, "x", "a number of tokens, such as 16k or 20M, or 0"),
        (design.TOKENS_LIST, "2M,x", "a number above zero, such as"),
        (design.LENGTH, "x", "tokens such as 2M, or a share such as 10%"),
        (design.SHARE, "100%", "a share such as 10%"),
        (design.SHARE, "0.1", "a share such as 10%"),
        (design.SIZE, "64", "WIDTHxDEPTH such as 64x4"),
        (design.SIZES, "64x4,", "WIDTHxDEPTH such as 64x4"),
        (design.WHOLES, "3,0", "whole numbers above zero"),
        (design.DIFFERENT_WHOLES, "3,3", "different whole numbers"),
        (design.word(lambda: WINDS), "nort", "one of north, south; did you mean"),
    ],
)
def test_what_can_not_be_read_is_one_line_that_names_the_flag(
    kind: Kind[object], text: str, says: str
) -> None:
    with pytest.raises(InputError, match=rf"^--flag .*: expected {says}"):
        kind.parse("--flag", text)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_default_is_typed_exactly(name: str) -> None:
    made = importlib.import_module(f"windtunnel.tunnel.{name}.design").Design
    for each in options_of(made):
        if each.kind is not design.SWITCH:
            text = each.kind.show(each.default)
            assert each.kind.parse(each.flag, text) == each.default, each.flag
    assert typed(made()) == []
    assert all(field.kw_only for field in fields(made))


def test_designs_import_nothing_heavy() -> None:
    modules = "; ".join(f"import windtunnel.tunnel.{name}.design" for name in DESIGNS)
    heavy = "{'torch', 'numpy', 'pydantic', 'scipy'} & set(sys.modules)"
    code = f"import sys; {modules}; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)


LEAST = {
    "search": {
        "--width": 16,
        "--depth": 1,
        "--trials": 2,
        "--start": 2,
        "--batch-trials": 1,
        "--candidates": 1,
        "--fresh-seeds": 2,
        "--seed": 0,
    },
    "dynamics": {"--width": 16, "--depth": 1, "--seed": 0},
    "ablate": {"--width": 16, "--depth": 1, "--seeds": 1},
    "scaling": {"--points": 2, "--further": 0, "--seeds": 1, "--repeated": 0},
    "scaling.dry_run": {"--simulations": 2},
    "check": {"--seeds": 1},
    "batch": {"--seed": 0},
}


@pytest.mark.parametrize("name", LEAST)
def test_whole_numbers_begin_where_they_make_sense(name: str) -> None:
    module = importlib.import_module(f"windtunnel.tunnel.{name}.design")
    made = module.DryRun if name == "scaling.dry_run" else module.Design
    options = {each.flag: each for each in options_of(made) if each.kind.metavar == "N"}
    assert set(options) == set(LEAST[name])
    for flag, least in LEAST[name].items():
        parse = options[flag].kind.parse
        assert parse(flag, str(least)) == least
        with pytest.raises(
            InputError, match=f"{flag} {least - 1}: expected a whole number, {least}"
        ):
            parse(flag, str(least - 1))


def test_names_may_be_none_and_each_is_taken_once() -> None:
    kind = design.any_words(lambda: WINDS)
    assert kind.parse("--also", "") == ()
    assert kind.parse("--also", "south,north,south") == ("south", "north")
    with pytest.raises(InputError, match="--also east: expected one of north, south"):
        kind.parse("--also", "north,east")


def test_a_switch_that_is_on_by_default_is_typed_where_it_is_off() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Lamp:
        lit: bool = option(True, "Lit.", design.SWITCH, flag="--lit/--dark")
        cold: bool = option(False, "Cold.", design.SWITCH, flag="--cold/--warm")

    assert typed(Lamp(lit=False)) == ["--dark"]
    assert typed(Lamp(cold=True)) == ["--cold"]
    assert design.SWITCH.parse("--lit", "x") is True and design.SWITCH.parse("--lit", "") is False
