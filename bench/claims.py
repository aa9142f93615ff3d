"""What every script here has in common: its arguments, the tables that it prints, and the claims
of its last line.

A claim is `{claim, value, unit, target, ok, machine}`; `ok` is null where nothing was claimed.
Nothing is measured here: run as a script, it does nothing.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

Claim = dict[str, Any]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose `--help` begins with the script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def claim(
    what: str,
    value: float,
    unit: str,
    target: float | str | None = None,
    ok: bool | None = None,
    machine: str = "any",
    **more: Any,
) -> Claim:
    """One claim; `more` are further keys of its own."""
    ok = None if ok is None else bool(ok)
    found = {"claim": what, "value": value, "unit": unit, "target": target, "ok": ok}
    return {**found, **more, "machine": machine}


def row(*cells: object) -> str:
    """One row of a table in Markdown."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def header(*names: str) -> str:
    """The first two rows of a table."""
    return row(*names) + "\n|" + "---|" * len(names)


def last_line(claims: Iterable[Claim]) -> None:
    """Print the claims as one JSON list."""
    print(json.dumps(list(claims)))


def end(claims: Iterable[Claim]) -> None:
    """Print the last line, and exit with 1 where a claim fails."""
    every = list(claims)
    last_line(every)
    sys.exit(0 if all(one["ok"] is not False for one in every) else 1)
