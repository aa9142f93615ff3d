"""Every key of a recipe as a page: `python -m windtunnel.recipe > docs/recipe.md`."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from windtunnel.choices import Table
from windtunnel.recipe.ids import WITHOUT_EFFECT
from windtunnel.recipe.sections import Recipe, Section

_HEAD = """# The keys of a recipe

A recipe is the complete description of one training run, and a TOML file. `windtunnel train
RECIPE.toml` trains it; `--set KEY=VALUE` changes one of the keys below, such as
`--set schedule.tokens=20M`. An unknown key is refused, and so is a value that makes no sense.

Lengths are in tokens: `4096`, `20M` or `1.1T`. Where a share is allowed, it is written `10%`, of
`schedule.tokens` unless the key says otherwise. The paper is MiniCPM (arXiv 2404.06395).

This page is made from the code: `python -m windtunnel.recipe > docs/recipe.md`.
"""


def page() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *_section(Recipe, ""), *_choices(Recipe, ""), _ids()])


def _section(section: type[Section], path: str) -> Iterator[str]:
    """The keys of a section in a table, and after it the sections within it."""
    inner = {}
    yield from ("| key | default | what it is |", "|---|---|---|")
    for name, field in section.model_fields.items():
        if within := _section_in(field):
            inner[name] = within
        else:
            what = " ".join((field.description or "").split())
            yield f"| `{path}{name}` | {_default(section, name)} | {what}{_allowed(field)} |"
    yield ""
    for name, within in inner.items():
        yield f"## `{path}{name}`\n\n{' '.join((within.__doc__ or '').split())}\n"
        yield from _section(within, f"{path}{name}.")


def _choices(section: type[Section], path: str) -> Iterator[str]:
    """What each key may be that chooses by name, out of its table."""
    for name, field in section.model_fields.items():
        if within := _section_in(field):
            yield from _choices(within, f"{path}{name}.")
        for table in _tables(field):
            yield f"## What `{path}{name}` may be\n\n| {table.kind} | what it is |\n|---|---|"
            yield from (f"| `{choice.name}` | {choice.help} |" for choice in table.values())
            yield ""


def _ids() -> str:
    listed = ", ".join(f"`{key}`" for key in sorted(WITHOUT_EFFECT))
    return (
        "## Which keys make another run\n\nA run's id is a hash of what sets its recipe apart, so "
        f"every key that changes the result gives another run. These change nothing: {listed}. A "
        "stem's length does not count either: asking for more tokens of a stem extends it."
    )


def _section_in(field: FieldInfo) -> type[Section] | None:
    """The section that a key is, or may be."""
    of_several = get_args(field.annotation) if get_origin(field.annotation) is UnionType else ()
    for kind in (field.annotation, *of_several):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _tables(field: FieldInfo) -> list[Table[Any]]:
    return [one for one in field.metadata if isinstance(one, Table)]


def _allowed(field: FieldInfo) -> str:
    """The values of a key that takes one of a few words."""
    kind = field.annotation
    if get_origin(kind) is not Literal:
        return ""
    return f" One of {', '.join(f'`{word}`' for word in get_args(kind))}."


def _default(section: type[Section], name: str) -> str:
    if section.model_fields[name].is_required():
        return "must be given"
    value = section.default(name)
    if value in (None, [], {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    print(page())
