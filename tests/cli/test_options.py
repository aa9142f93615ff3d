"""Numbers that are none, or out of range, are refused by every option of every command."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer

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
