"""The lab's page: one self-contained HTML file with every run and study; no network, no server."""

import functools
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from windtunnel.errors import InputError
from windtunnel.files import named, write_whole
from windtunnel.model.shape import count
from windtunnel.plan.record import plans
from windtunnel.quantities import about
from windtunnel.report.experiments import FIGURES
from windtunnel.report.figures import loss_figure, rate_figure
from windtunnel.report.plans import section
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.run import RunSummary
from windtunnel.results.study import StudyResult, find_study, read_table
from windtunnel.results.tour import TOUR
from windtunnel.train.run import Run, read_runs

_LEGEND = (
    "Lines: training loss, a running mean of 25 steps. Points: held-out text. "
    "Blue: stems; red: branches; grey: other runs."
)
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem;
       margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
p.what { color: #555; margin-top: .2rem; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap; }
th { color: #555; font-weight: 600; border-bottom: 1px solid #ccc; }
td.name, th.name { text-align: left; }
.verdict { font-size: .8rem; padding: .1rem .5rem; border-radius: .6rem; color: #fff;
           vertical-align: middle; }
.verdict.pass { background: #3a7d44; } .verdict.fail { background: #b00020; }
.verdict.care { background: #9a6b00; }
.sources th, .sources td { text-align: left; white-space: normal; vertical-align: top; }
.child { padding-left: 1.2rem; } .failed { color: #b00020; }
code { font-size: .85em; }
pre { background: #f5f5f3; padding: .9rem 1.1rem; white-space: pre-wrap; }
"""


def write_page(lab: Path) -> Path:
    """Write `LAB/report.html`. What is damaged stands on it as a line, and hides nothing else.
    Raises InputError when the lab holds no run and no plan.
    """
    found, planned = read_runs(lab), plans(lab)
    runs = found.runs
    if not runs and not found.unreadable and not planned:
        raise InputError(f"{lab}: no runs to report; `windtunnel tour --lab {lab}` makes some")
    faults = list(found.unreadable.values())
    studies = _studies(lab, faults)
    studied = {run for result in studies.values() for run in result.runs}
    alone = [run for run in runs if run.id not in studied]
    name = named(lab.resolve().name)
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="what">{_what(runs)}</p>',
        _or_fault(lambda: _tour(lab), faults),
    ]
    for folder in planned:
        body.append(_or_fault(lambda at=folder: section(at, _table, _figure), faults))
    for experiment, result in studies.items():
        section_of = functools.partial(_study, lab, experiment, result)
        body.append(_or_fault(section_of, faults))
    drawn = [run for run in alone if _has_curves(run, faults)]
    if drawn:
        body += [
            "<h2>Loss</h2>",
            f'<p class="what">{_LEGEND}</p>',
            _figure(loss_figure(drawn)),
            "<h2>Learning rate</h2>",
            _figure(rate_figure(drawn)),
        ]
    if alone:
        body += ["<h2>Runs</h2>", _run_table(alone)]
    rest = [run for run in runs if run.id in studied]
    if rest:
        summary = f"<summary>{len(rest)} runs of studies</summary>"
        body.append(f"<details>{summary}{_run_table(rest)}</details>")
    if faults:
        lines = [f"<li>{escape(named(fault))}</li>" for fault in dict.fromkeys(faults)]
        body.append(f"<h2>What cannot be read</h2><ul>{''.join(lines)}</ul>")
    page = lab / "report.html"
    write_whole(page, _document(name, "".join(body)))
    return page


def _or_fault(part: Callable[[], str], faults: list[str]) -> str:
    """A part of the page; nothing where a file is damaged, which joins the faults."""
    try:
        return part()
    except InputError as error:
        faults.append(str(error))
        return ""


def _has_curves(run: Run, faults: list[str]) -> bool:
    """Whether what it recorded can be read; what can't joins the faults."""
    try:
        run.steps()
        run.validations()
    except InputError as error:
        faults.append(str(error))
        return False
    return True


def _document(title: str, body: str) -> str:
    """The whole page. plotly's script is in it, so that it needs no network."""
    head = (
        f'<meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<script>{get_plotlyjs()}</script>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _what(runs: Sequence[Run]) -> str:
    tokens = sum(run.status().tokens - run.start for run in runs)
    return f"{len(runs)} runs, {about(tokens)} tokens trained"


def _studies(lab: Path, faults: list[str]) -> dict[str, StudyResult[Any]]:
    """The lab's studies that have figures, by name. Their runs are shown in those."""
    found = {}
    for name in FIGURES:
        try:
            result = find_study(lab, EXPERIMENTS[name])
        except InputError as error:
            faults.append(str(error))
            continue
        if result is not None:
            found[name] = result
    return found


def _tour(lab: Path) -> str:
    result = find_study(lab, TOUR)
    if result is None:
        return ""
    numbers = result.numbers
    rows = []
    for step in numbers.steps:
        link = f'<a href="#{step.study}">{step.study}</a>'
        rows.append([link, step.verdict or "–", f"{step.minutes:.1f}"])
    where = f"On corpus <b>{escape(numbers.corpus)}</b>, {escape(result.summary)}."
    table = _table(("study", "verdict", "minutes"), rows)
    sample = f"<h2>The best model writes</h2><pre>{escape(numbers.sample)}</pre>"
    return f"<h2>Tour</h2><p>{where}</p>{table}{sample}"


def _study(lab: Path, name: str, result: StudyResult[Any]) -> str:
    """The section of a study: its question's answer in one sentence, its verdict and its
    figures.
    """
    verdict = result.verdict
    mark = f' <span class="verdict {verdict}">{verdict}</span>' if verdict else ""
    title = f"{escape(name.capitalize())}{mark}"
    parts = [f'<h2 id="{name}">{title}</h2><p>{escape(result.summary)}.</p>']
    for caption, figure in FIGURES[name](result, read_table(lab, EXPERIMENTS[name])):
        parts.append(f'{_figure(figure)}<p class="what">{escape(caption)}</p>')
    return "".join(parts)


def _run_table(runs: Sequence[Run]) -> str:
    """The runs as a tree: each with its branches below it, in the order in which they leave."""
    summaries = {run.id: run.summary() for run in runs}
    params = {run.id: count(run.recipe.model).params_total for run in runs}
    children: dict[str | None, list[RunSummary]] = {}
    for one in sorted(summaries.values(), key=lambda one: one.at_tokens or 0):
        children.setdefault(one.parent, []).append(one)
    rows: list[list[str]] = []

    def add(one: RunSummary, depth: int) -> None:
        child = "child" if depth else ""
        rows.append(
            [
                f'<span class="{child}">{escape(one.name)}</span> <code>{one.id}</code>',
                one.kind,
                about(params[one.id]),
                about(one.tokens),
                _score(one.loss),
                _score(one.bits_per_byte),
                f'<span class="{one.status}">{one.status}</span>',
            ]
        )
        for branch in children.get(one.id, ()):
            add(branch, depth + 1)

    for one in summaries.values():
        if one.parent not in summaries:
            add(one, 0)
    return _table(("run", "kind", "parameters", "tokens", "loss", "bits/byte", "status"), rows)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_line(heads, "th"), *(_line(row, "td") for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _line(cells: Sequence[str], tag: str) -> str:
    first, *others = cells
    rest = "".join(f"<{tag}>{cell}</{tag}>" for cell in others)
    return f"<tr><{tag} class=name>{first}</{tag}>{rest}</tr>"


def _figure(figure: go.Figure) -> str:
    return figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
