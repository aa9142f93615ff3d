"""A recipe as a TOML file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rtoml
import tomlkit

from windtunnel.errors import InputError, did_you_mean
from windtunnel.recipe.sections import Recipe, parse


def load(path: Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a TOML file and apply `a.b=c` settings. Raises InputError that names the file, the key
    and what was expected.
    """
    try:
        # a lab of thousands of runs is listed by their recipes: Python's own reader takes ten times
        # as long
        values = rtoml.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such recipe{_suggest_file(path)}") from None
    except (rtoml.TomlParsingError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from None
    for setting in settings:
        _apply(values, setting)
    return parse(values, str(path))


def dump(recipe: Recipe) -> str:
    """The recipe as TOML; `load` gives it back equal."""
    return tomlkit.dumps(_without_empty(recipe.model_dump(mode="json")))


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {setting}: expected KEY=VALUE such as schedule.tokens=20M")
    try:
        value = rtoml.loads(f"value = {text}")["value"]
    except rtoml.TomlParsingError:
        value = text  # words need no quotes on a command line
    *sections, field = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {setting}: '{section}' is not a section")
    values[field] = value


def _suggest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, (p.name for p in path.parent.glob("*.toml")))


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    kept = {k: _without_empty(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: v for k, v in kept.items() if v not in ({}, [], (), None)}
