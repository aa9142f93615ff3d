"""The lab's page: one self-contained HTML file with every run and study; no network, no server."""

import base64
import json
import zlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from windtunnel.errors import InputError
from windtunnel.files import named, write_whole
from windtunnel.plan.record import plans
from windtunnel.quantities import about
from windtunnel.report.blocks import Code, Fact, Facts, Section, Table, Text, Word
from windtunnel.report.html import Writer, items
from windtunnel.report.sections import sections_of
from windtunnel.report.standing import standing
from windtunnel.report.view import LabView

_REPORT = "windtunnel report"
# `<` may begin a tag, and base 85 does not use the comma.
_NO_TAG = str.maketrans("<", ",")


def write_page(lab: Path) -> Path:
    """Write `LAB/report.html`. What is damaged stands on it as a line, and hides nothing else.
    Raises InputError when the lab holds no run and no plan.
    """
    view = _opened(lab)
    page = lab / "report.html"
    write_whole(page, document(view))
    return page


def write_comparison(lab: Path, other: Path) -> Path:
    """Write `LAB/report-against-OTHER.html`, which shows both labs side by side. Raises InputError
    where either has nothing to show.
    """
    views = _opened(lab), _opened(other)
    page = lab / f"report-against-{named(other.resolve().name)}.html"
    write_whole(page, _pair(*views))
    return page


def document(view: LabView, live: str = "") -> str:
    """The page of a lab. `live`: HTML that the app puts in front of the sections."""
    sections = sections_of(view)
    writer = Writer(frozenset(run.id for run in view.runs))
    name = _name(view)
    body = [
        _header(f"{name}", _what(view)),
        writer.block(_next(view)) if view.runs or sections else "",
        _contents(writer, sections),
        live,
        *map(writer.section, sections),
        _faults(view),
    ]
    return whole(name, "".join(body), writer, inline=not live)


def whole(title: str, body: str, writer: Writer, inline: bool = True) -> str:
    """An HTML document around what it shows. `inline`: plotly's script is in it, so that it needs
    no network; else the page asks for it where it came from.
    """
    script = _packed(get_plotlyjs()) if inline else ""
    code = _resource("page.js") + ("" if inline else _resource("live.js"))
    figures = _packed(json.dumps(writer.figures, separators=(",", ":")))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{_resource('page.css')}</style></head>"
        '<body><a class="skip" href="#main">Skip to the content</a>'
        f'<main id="main">{body}</main>'
        f'<script type="text/plain" id="figures">{figures}</script>'
        f'<script type="text/plain" id="plotly">{script}</script>'
        f"<script>{code}</script></body></html>"
    )


def _opened(lab: Path) -> LabView:
    view = LabView(lab)
    if not view.runs and not view.faults and not plans(lab) and not view.studies:
        raise InputError(f"{lab}: no runs to report; `windtunnel tour --lab {lab}` makes some")
    return view


def _name(view: LabView) -> str:
    return named(view.lab.resolve().name)


def _header(title: str, what: str) -> str:
    return (
        f"<header><div><h1>{escape(title)}</h1><p>{escape(what)}</p></div>"
        '<button type="button" id="theme">Dark or light</button></header>'
        "<noscript><p>The figures need JavaScript; everything else can be read without it."
        "</p></noscript>"
    )


def _what(view: LabView) -> str:
    tokens = sum(view.summaries[run.id].tokens - run.start for run in view.runs)
    done = sum(one.status == "done" for one in view.summaries.values())
    rest = "" if done == len(view.runs) else f", {done} of them finished"
    runs = "1 run" if len(view.runs) == 1 else f"{len(view.runs)} runs"
    return f"{runs}{rest}; {about(tokens)} tokens trained"


def _next(view: LabView) -> Table:
    # who reads the page has it
    steps = [one for one in standing(view.lab).next if not one.command.startswith(_REPORT)]
    rows = [(Code(one.command), one.why) for one in steps[:3]]
    return Table(("what to do next", "why"), rows, words=True)


def _contents(writer: Writer, sections: Sequence[Section]) -> str:
    """Links to the sections, each with its verdict."""
    links = []
    for section in sections:
        mark = f" {writer.cell(Word(section.verdict, section.mark))}" if section.verdict else ""
        anchor = escape(writer.prefix + section.anchor)
        links.append(f'<li><a href="#{anchor}">{escape(named(section.title))}</a>{mark}</li>')
    return f'<nav aria-label="Sections"><ol>{"".join(links)}</ol></nav>' if links else ""


def _faults(view: LabView) -> str:
    if not view.faults:
        return ""
    lines = items(dict.fromkeys(view.faults))
    return f'<section><h2 id="faults">What cannot be read</h2>{lines}</section>'


def _pair(one: LabView, other: LabView) -> str:
    """Both labs: their numbers in a table, and then section beside section."""
    names = [_name(one), _name(other)]
    if names[0] == names[1]:
        names = [named(one.lab.resolve()), named(other.lab.resolve())]
    columns = [sections_of(one), sections_of(other)]
    ids = [frozenset(run.id for run in view.runs) for view in (one, other)]
    figures: list[dict[str, Any]] = []
    labels: dict[str, int] = {}
    writers = [
        Writer(runs, prefix, figures, labels)
        for runs, prefix in zip(ids, ("a-", "b-"), strict=True)
    ]
    rows = [["what was trained", _what(one), _what(other)]]
    anchors: dict[str, list[Section | None]] = {}
    for place, sections in enumerate(columns):
        for section in sections:
            anchors.setdefault(section.anchor, [None, None])[place] = section
    for both in anchors.values():
        title = next(section.title for section in both if section)
        rows.append([title, *(_headline(section) for section in both)])
    table = Table(("of each", *names), rows, words=True)
    title = f"{names[0]} against {names[1]}"
    body = [_header(title, "Two labs side by side."), writers[0].block(table)]
    for both in anchors.values():
        halves = []
        for writer, name, section in zip(writers, names, both, strict=True):
            label = f'<p class="lab">{escape(name)}</p>'
            inside = writer.section(section) if section else "<p>Nothing of this here.</p>"
            halves.append(f"<div>{label}{inside}</div>")
        body.append(f'<div class="pair">{"".join(halves)}</div>')
    body += [_faults(one), _faults(other)]
    return whole(title, "".join(body), writers[0])


def _headline(section: Section | None) -> str:
    """A section in a line: its verdict, and the first thing that it says beyond its question."""
    if section is None:
        return "–"
    said = ""
    for block in section.blocks:
        if isinstance(block, Facts):
            said = _told(block.facts)
            break
        if isinstance(block, Text) and not block.text.endswith("?"):
            said = block.text
            break
    return f"{section.verdict}: {said}" if section.verdict and said else said or "–"


def _told(facts: Sequence[Fact]) -> str:
    return "; ".join(f"{fact.name} {fact.value}" for fact in facts)


def _resource(name: str) -> str:
    return (files("windtunnel.report") / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    """Deflated, in base 85 without `<`; `page.js` reads it."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode().translate(_NO_TAG)
