"""Blocks as HTML. Every string is shown as text, whatever it holds."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from windtunnel.files import named
from windtunnel.report.blocks import (
    Cell,
    Chart,
    Code,
    Commands,
    Facts,
    Fold,
    Go,
    Items,
    Name,
    Quote,
    RunId,
    Runs,
    Section,
    Table,
    Text,
    Word,
)

_DIGITS = 7  # of a number in a figure
_CODE = re.compile("`([^`<>]+)`")  # in a text that is escaped already


@dataclass
class Writer:
    """Writes blocks, and keeps the figures that they hold: the page draws those by their number.

    `runs`: ids that the page has a line for; others are shown, but lead nowhere.
    """

    runs: frozenset[str] = frozenset()
    prefix: str = ""  # of anchors, where two labs stand on one page
    figures: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # of tables, and how many have it

    def section(self, section: Section) -> str:
        """With its heading."""
        anchor = escape(self.prefix + section.anchor)
        mark = ""
        if section.verdict:
            word = Word(section.verdict, section.mark)
            mark = f" {self.cell(word)}"
        body = "".join(self.block(block) for block in section.blocks)
        heading = f'<h2 id="{anchor}">{_text(section.title)}{mark}</h2>'
        return f'<section aria-labelledby="{anchor}">{heading}{body}</section>'

    @singledispatchmethod
    def block(self, block: Any) -> str:
        """One block."""
        raise TypeError(f"no block of a page: {block!r}")

    @block.register
    def _(self, block: Text) -> str:
        return f"<p>{_prose(block.text)}</p>"

    @block.register
    def _(self, block: Facts) -> str:
        pairs = (
            f"<div><dt>{_text(fact.name)}</dt><dd>{_text(fact.value)}</dd></div>"
            for fact in block.facts
        )
        return f'<dl class="facts">{"".join(pairs)}</dl>'

    @block.register
    def _(self, block: Items) -> str:
        lines = []
        for item in block.items:
            mark = f"<b>{_text(item.mark)}</b> " if item.mark else ""
            lines.append(f"<li>{mark}{_prose(item.text)}</li>")
        return f"<ul>{''.join(lines)}</ul>"

    @block.register
    def _(self, block: Commands) -> str:
        lines = "\n".join(block.lines)
        return f'<pre class="commands" tabindex="0"><code>{_text(lines)}</code></pre>'

    @block.register
    def _(self, block: Quote) -> str:
        return f"<blockquote>{_text(block.text)}</blockquote>"

    @block.register
    def _(self, block: Fold) -> str:
        inside = "".join(self.block(one) for one in block.blocks)
        return f"<details><summary>{_text(block.title)}</summary>{inside}</details>"

    @block.register
    def _(self, block: Runs) -> str:
        links = ", ".join(self.cell(RunId(run)) for run in block.runs)
        what = "1 run" if len(block.runs) == 1 else f"{len(block.runs)} runs"
        return f'<details class="ids"><summary>{what} behind this</summary><p>{links}</p></details>'

    @block.register
    def _(self, block: Chart) -> str:
        places = []
        for figure in block.figures:
            drawn = as_json(figure)
            number, height = len(self.figures), drawn["layout"].get("height", 400)
            self.figures.append(drawn)
            places.append(
                f'<div class="plot" data-figure="{number}" style="height:{height}px" role="img" '
                f'aria-label="{escape(block.caption)}"></div>'
            )
        several = " panels" if len(places) > 1 else ""
        caption = (
            f"<figcaption>{_text(block.caption)} "
            '<button type="button" class="csv">CSV</button></figcaption>'
        )
        return f'<figure><div class="plots{several}">{"".join(places)}</div>{caption}</figure>'

    @block.register
    def _(self, block: Table) -> str:
        head = self._row(block.heads, "th")
        rows = "".join(self._row(row, "td") for row in block.rows)
        kind = ' class="words"' if block.words else ""
        label = f"table: {', '.join(block.heads)}"
        number = self.labels[label] = self.labels.get(label, 0) + 1
        if number > 1:  # no two regions of a page have one name
            label += f"; number {number}"
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
            f"<table{kind}><thead>{head}</thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )

    def cell(self, cell: Cell) -> str:
        """What stands in a cell of a table."""
        match cell:
            case RunId(run):
                shown = f"<code>{_text(run)}</code>"
                if run not in self.runs:
                    return shown
                return f'<a href="#{escape(self.prefix)}run-{escape(run)}">{shown}</a>'
            case Go(text, anchor):
                return f'<a href="#{escape(self.prefix + anchor)}">{_text(text)}</a>'
            case Name(name, run, depth):
                return f'<span style="padding-left:{depth * 1.2:.1f}em">{_text(name)}</span> ' + (
                    f"<code>{_text(run)}</code>"
                )
            case Code(text):
                return f"<code>{_text(text)}</code>"
            case Word(text, mark):
                return f'<span class="verdict {escape(mark)}">{_text(text)}</span>'
            case str():
                return _text(cell)

    def _row(self, cells: Sequence[Cell], tag: str) -> str:
        name = next((cell.run for cell in cells if isinstance(cell, Name)), None)
        anchor = f' id="{escape(self.prefix)}run-{escape(name)}"' if name else ""
        scope = ' scope="col"' if tag == "th" else ""
        inside = "".join(f"<{tag}{scope}>{self.cell(cell)}</{tag}>" for cell in cells)
        return f"<tr{anchor}>{inside}</tr>"


def as_json(figure: go.Figure) -> dict[str, Any]:
    """A figure as JSON can hold it, with numbers to as many digits as one can see: that makes the
    page smaller by a good part.
    """
    return _short(figure.to_plotly_json())


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _short(value.tolist())
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def items(lines: Iterable[str]) -> str:
    """A list of lines."""
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _prose(text: str) -> str:
    """Text in which what stands between backticks is code."""
    return _CODE.sub(_as_code, _text(text))


def _as_code(found: re.Match[str]) -> str:
    return f"<code>{found[1]}</code>"


def _text(text: str) -> str:
    return escape(named(text))
