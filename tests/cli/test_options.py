"""Numbers that are none, or out of range, are refused by every option of every command."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from windtunnel import cli
from windtunnel.errors import InputError


def options() -> Iterator[tuple[str, type, Any, Any]]:
    """Of every command: its name and the option's, its type, what typer knows of it, its
    default.
    """
    for module in cli._COMMANDS:
        importlib.import_module(f"windtunnel.cli.{module}")

    def below(app: typer.Typer) -> Iterator[tuple[str, type, Any, Any]]:
        for group in app.registered_groups:
            assert group.typer_instance
            yield from below(group.typer_instance)
        for command in app.registered_commands:
            function = command.callback
            assert function
            hints = get_type_hints(function, include_extras=True)
            for name, parameter in inspect.signature(function).parameters.items():
                kind, *about = get_args(hints[name]) or (hints[name],)
                yield f"{function.__name__} {name}", kind, about, parameter.default

    yield from below(cli.app)


NUMBERS = [one for one in options() if one[1] is float or float in get_args(one[1])]


def test_every_command_is_looked_at() -> None:
    names = {name for name, *_ in NUMBERS}
    assert {"sft epochs", "plan price", "build max_bad", "tour minutes", "branch lr"} <= names


@pytest.mark.parametrize(
    ("name", "kind", "about", "default"), NUMBERS, ids=[one[0] for one in NUMBERS]
)
def test_what_is_no_number_is_refused_by_its_flag(
    name: str, kind: type, about: list[Any], default: Any
) -> None:
    """typer's own type would take nan and inf, which no range keeps out."""
    (option,) = about
    # where typer keeps the first name of an option in an annotation
    flag = option.default
    assert flag == f"--{name.split()[-1].replace('_', '-')}"
    for given in ("nan", "inf", "-inf", "-0.1", "x", ""):
        with pytest.raises(InputError, match=rf"^{flag} {given}: expected a number"):
            option.parser(given)
    if default is not None:
        assert option.parser(default) == default


# What a help may say that is to be typed: WORD is a name that the help lists.
SAID = {
    *("ADDRESS", "BYTES", "DEPTH", "DIR", "FILE", "FLOPS", "FUNCTION", "HOURS", "KEY", "LENGTH"),
    *("MODEL", "MODULE", "N", "NAME", "NUMBER", "OPTION", "PARAMETERS", "PATH", "PORT", "RECIPE"),
    *("RUN", "SHARE", "SOURCE", "STUDY", "TASK", "TEXT", "TIME", "TOKENS", "URL", "VALUE"),
    *("WEIGHT", "WIDTH", "WORD"),
}


def values() -> Iterator[tuple[str, str | None]]:
    """Of every command: its arguments and those of its options that take a value, and what its
    help says that is to be typed for them.
    """

    def below(command: Any, name: str) -> Iterator[tuple[str, str | None]]:
        for word, one in getattr(command, "commands", {}).items():
            yield from below(one, f"{name} {word}")
        for each in command.params:
            if not getattr(each, "is_flag", False):
                yield f"{name} {each.opts[-1]}", each.metavar

    yield from below(typer.main.get_command(cli.app), "windtunnel")


def test_what_is_to_be_typed_is_said_in_one_kind_of_words() -> None:
    found = dict(values())
    assert {"windtunnel plan --flops", "windtunnel corpus build sources"} <= set(found)
    for name, said in found.items():
        assert said, f"{name}: help would name a type of Python"
        words = set(re.split(r"\.toml|\.gguf|x|[^A-Za-z]+", said)) - {""}
        assert words and words <= SAID, f"{name}: {said}"


@pytest.mark.parametrize("command", [["chat"], ["evaluate"], ["corpus", "build"], ["plan"]])
def test_help_names_no_type_of_python(command: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, [*command, "--help"]).output
    assert "Options:" in shown and "--lab DIR" in shown
    assert not re.findall(r"<\w[\w \[\]]*>", shown)
