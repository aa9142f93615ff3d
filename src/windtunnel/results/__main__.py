"""Print docs/results.md, the page of every file that a lab holds, from the types in this folder:

python -m windtunnel.results > docs/results.md
"""

import importlib
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import windtunnel.results
from windtunnel.results.record import Record

_HEAD = """# What the files of a lab say

Every JSON file of a lab, and every row of a study's table, is a typed record in
`src/windtunnel/results/`. This page is made from those types, by this command:

    .venv/bin/python -m windtunnel.results > docs/results.md

`--json` prints the same records. A file that is damaged, or too old to be read, is refused in one
line that names the field.
"""
_WORDS: dict[Any, str] = {
    type(None): "null",
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Any: "anything",
}


def page() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for module in modules():
        parts += _section(module)
    return "\n".join(parts)


def modules() -> Iterator[types.ModuleType]:
    """The modules of this folder that define results."""
    for module in pkgutil.iter_modules(windtunnel.results.__path__):
        if module.name not in ("__main__", "record"):
            yield importlib.import_module(f"windtunnel.results.{module.name}")


def records_of(module: types.ModuleType) -> list[type[Record]]:
    """The records that a module defines, in its order."""
    return [found for found in vars(module).values() if _is_record_of(module, found)]


def own_fields(record: type[Record]) -> dict[str, FieldInfo]:
    """A record's fields by name, without those that it has from its bases."""
    return {name: f for name, f in record.model_fields.items() if name in record.__annotations__}


def _section(module: types.ModuleType) -> Iterator[str]:
    records = records_of(module)
    if not records:
        return
    yield f"## `{module.__name__.rpartition('.')[2]}`\n\n{(module.__doc__ or '').strip()}\n"
    for record in records:
        yield _table(record)


def _is_record_of(module: types.ModuleType, found: object) -> TypeGuard[type[Record]]:
    return (
        isinstance(found, type)
        and issubclass(found, Record)
        and found.__module__ == module.__name__
        and not found.__name__.startswith("_")
        and "[" not in found.__name__  # a generic record with its numbers filled in
    )


def _table(record: type[Record]) -> str:
    """A record's own fields; those that it inherits stand with the record that it has them from."""
    bases = [b.__name__ for b in record.__bases__ if issubclass(b, Record) and b.model_fields]
    more = f" It also has the fields of {' and '.join(bases)}." if bases else ""
    said = " ".join((record.__doc__ or "").split())
    lines = [f"### {record.__name__}", "", f"{said}{more}", ""]
    own = own_fields(record)
    if own:
        lines += ["| field | type | what it is |", "|---|---|---|"]
    for name, field in own.items():
        # what is None here is null in a file
        meaning = re.sub(r"\bNone\b", "null", " ".join((field.description or "").split()))
        row = (f"`{name}`", type_in_words(field.annotation), meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join([*lines, ""] if own else lines)


def type_in_words(kind: Any) -> str:
    """A type as it looks in JSON: `tuple[float, float]` is "list of 2 numbers"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_in_words(inner[0])
    if kind in _WORDS:
        return _WORDS[kind]
    if isinstance(kind, TypeVar):
        return type_in_words(kind.__bound__)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_in_words(one) for one in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        same = len(set(inner)) == 1
        return f"list of {len(inner)} {_plural(inner[0])}" if same else f"list of {_listed(inner)}"
    if origin in (tuple, list):
        return f"list of {_plural(inner[0])}"
    if origin is dict:
        return f"{type_in_words(inner[1])}, by {type_in_words(inner[0])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.__name__
    return str(kind).rpartition(".")[2]


def _plural(kind: Any) -> str:
    words = type_in_words(kind)
    return f"{words}s" if words in ("integer", "number", "text") else words


def _listed(kinds: tuple[Any, ...]) -> str:
    return ", ".join(type_in_words(kind) for kind in kinds)


if __name__ == "__main__":
    print(page())
