"""The options of a study's command are the fields of its Design, with nothing said twice."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from winds import WINDS, Wind

from windtunnel.cli import app, study
from windtunnel.cli.options import DEFAULT_LAB, Lab
from windtunnel.errors import InputError
from windtunnel.tunnel.ablate.longer_design import LongerDesign
from windtunnel.tunnel.design import NUMBER, SIZES, SWITCH, Size, option, options_of, word
from windtunnel.tunnel.scaling.dry_run.design import DryRun

STUDIES = ("check", "search", "transfer", "batch", "scaling", "dynamics", "ablate")
# what a command may be asked beside its Design: where to work, and how to print
BESIDE = {"--on", "--corpus", "--lab", "--json", "--help", "--storage", "--dry-run", "--longer"}
REPEATED = {"--arm"}  # an option that can be given several times is no field


@dataclass(frozen=True, kw_only=True)
class Kite:
    """A design that only this test has."""

    sizes: tuple[Size, ...] = option((Size(64, 4),), "Sizes of the kites.", SIZES)
    lr: float = option(0.01, "How high it flies.", NUMBER)
    wind: str = option("north", "Where the wind comes from: {words}.", word(lambda: WINDS))
    colour: bool = option(True, "In colour.", SWITCH, flag="--colour/--grey")


@dataclass(frozen=True, kw_only=True)
class Higher(Kite):
    """The same with another default."""

    lr: float = option(0.5, "How high it flies.", NUMBER)


@dataclass(frozen=True, kw_only=True)
class String:
    """A second design of the same command."""

    length: float = option(10.0, "How long the string is.", NUMBER)


def made(design: type, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """An app with one command `kite` of this Design, and the Designs that it was called with."""
    own, called = typer.Typer(rich_markup_mode=None), list[Any]()
    monkeypatch.setattr(study, "app", own)

    @study.study_command(design)
    def kite(design: Any, lab: Lab = DEFAULT_LAB) -> None:
        """Fly."""
        called.append((design, lab))

    return own, called


def test_help_says_what_the_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = made(Kite, monkeypatch)
    shown = " ".join(CliRunner().invoke(own, ["--help"]).output.split())
    assert "--sizes WIDTHxDEPTH,... Sizes of the kites. [default: 64x4]" in shown
    assert "--lr NUMBER How high it flies. [default: 0.01]" in shown
    assert "Where the wind comes from: north or south. [default: north]" in shown
    assert "--colour / --grey" in shown and "Fly." in shown


def test_what_is_typed_is_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    own, called = made(Kite, monkeypatch)
    assert CliRunner().invoke(own, []).exit_code == 0
    typed = ["--sizes", "32x2,16x1", "--wind", "south", "--grey", "--lab", "there"]
    assert CliRunner().invoke(own, typed).exit_code == 0
    (first, _), (second, lab) = called
    assert first == Kite()
    assert second == Kite(sizes=(Size(32, 2), Size(16, 1)), wind="south", colour=False)
    assert str(lab) == "there"


def test_a_mistake_names_the_flag_and_a_new_word_is_known_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, called = made(Kite, monkeypatch)
    refused = CliRunner().invoke(own, ["--wind", "west"])
    assert isinstance(refused.exception, InputError)
    assert str(refused.exception) == "--wind west: expected one of north, south"
    monkeypatch.setitem(WINDS, "west", Wind("west", "wet"))
    assert "north, south or west." in CliRunner().invoke(own, ["--help"]).output
    CliRunner().invoke(own, ["--wind", "west"])
    assert called[-1][0].wind == "west"


def test_a_second_design_stands_for_its_own_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    own, called = typer.Typer(rich_markup_mode=None), list[Any]()
    monkeypatch.setattr(study, "app", own)

    @study.study_command(Kite, string=String)
    def kite(string: Any, design: Any) -> None:
        """Fly."""
        called.append((design, string))

    assert CliRunner().invoke(own, ["--length", "30", "--lr", "0.2"]).exit_code == 0
    assert called == [(Kite(lr=0.2), String(length=30.0))]


def test_a_changed_default_shows_in_the_help_and_in_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, called = made(Higher, monkeypatch)
    assert "[default: 0.5]" in CliRunner().invoke(own, ["--help"]).output
    CliRunner().invoke(own, [])
    assert called[0][0].lr == 0.5


@pytest.fixture
def commands() -> Iterator[dict[str, Any]]:
    for name in STUDIES:
        importlib.import_module(f"windtunnel.cli.{name}")
    yield {
        info.callback.__name__: info.callback for info in app.registered_commands if info.callback
    }


@pytest.mark.parametrize("name", STUDIES)
def test_every_flag_of_a_study_is_a_field_of_its_design(
    name: str, commands: dict[str, Any]
) -> None:
    design = importlib.import_module(f"windtunnel.tunnel.{name}.design").Design
    command = typer.main.get_command_from_info(
        next(i for i in app.registered_commands if i.callback is commands[name]),
        pretty_exceptions_short=False,
        rich_markup_mode=None,
    )
    flags = {flag for each in command.params for flag in each.opts}
    of_design = {option.flag.partition("/")[0] for option in options_of(design)}
    of_others = {option.flag for made in (DryRun, LongerDesign) for option in options_of(made)}
    assert of_design <= flags <= of_design | BESIDE | REPEATED | of_others
    assert inspect.signature(commands[name]).parameters.keys() >= {
        o.name for o in options_of(design)
    }


def test_designs_can_be_replaced_field_by_field() -> None:
    assert replace(Kite(), lr=0.1) == Kite(lr=0.1)
