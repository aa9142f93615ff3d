"""What a section of the page is made of: text, facts, figures, tables, lists, commands. A section
is data; `html.py` alone makes tags of it, and shows every string as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Fact:
    """A number that stands out: what it is of, and the number."""

    name: str
    value: str


@dataclass(frozen=True)
class Facts:
    """Numbers that stand out, side by side."""

    facts: Sequence[Fact]


@dataclass(frozen=True)
class RunId:
    """A cell: the id of a run, which leads to its line in the table of runs."""

    run: str


@dataclass(frozen=True)
class Go:
    """A cell: words that lead to a section, by its anchor."""

    text: str
    anchor: str


@dataclass(frozen=True)
class Name:
    """A cell: the name of a run at a depth of the tree, and its id, to which others lead."""

    name: str
    run: str
    depth: int


@dataclass(frozen=True)
class Word:
    """A cell: a word that is marked by what it means: pass, fail, care."""

    text: str
    mark: str


@dataclass(frozen=True)
class Code:
    """A cell: what one types."""

    text: str


Cell = str | RunId | Go | Name | Word | Code


@dataclass(frozen=True)
class Table:
    """Rows of cells under their heads. `words`: columns of words, which are read from the left."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: bool = False


@dataclass(frozen=True)
class Item:
    """A line of a list, with a mark in front where it has one: stop, caution, note."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[Item]


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Quote:
    """What a model wrote, as it wrote it."""

    text: str


@dataclass(frozen=True)
class Chart:
    """A figure, or several small ones side by side, and a sentence on what it shows."""

    caption: str
    figures: Sequence[go.Figure]


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when they are asked for."""

    title: str
    blocks: "Sequence[Block]"


@dataclass(frozen=True)
class Runs:
    """The ids of the runs that something rests on, folded."""

    runs: Sequence[str]


Block = Text | Facts | Table | Items | Commands | Quote | Chart | Fold | Runs


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, with a heading and perhaps a verdict."""

    anchor: str
    """Its name in links, of letters, digits and dashes."""
    title: str
    blocks: Sequence[Block]
    verdict: str | None = None
    """A word; `mark` says how it is meant."""
    mark: str = "care"
    """pass, fail or care."""


def chart(drawn: "tuple[str, go.Figure | Sequence[go.Figure]]") -> Chart:
    """Of (caption, figure) or (caption, figures)."""
    caption, figures = drawn
    return Chart(caption, [figures] if isinstance(figures, go.Figure) else list(figures))
