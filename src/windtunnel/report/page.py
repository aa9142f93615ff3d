"""The lab's page: one self-contained HTML file with every run and study; no network, no server."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.shape import count
from windtunnel.plan.record import plans
from windtunnel.quantities import about
from windtunnel.report.experiments import FIGURES
from windtunnel.report.figures import loss_figure, rate_figure
from windtunnel.report.plans import sections
from windtunnel.results.experiments import EXPERIMENTS, outcomes
from windtunnel.results.run import RunSummary
from windtunnel.results.study import find_study, read_table
from windtunnel.results.tour import TOUR
from windtunnel.train.run import Run, list_runs

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
    """Write `LAB/report.html`. Raises InputError when the lab holds no run and no plan."""
    runs = list_runs(lab)
    if not runs and not plans(lab):
        raise InputError(f"{lab}: no runs to report; `windtunnel tour --lab {lab}` makes some")
    studied = _runs_of_studies(lab)
    alone = [run for run in runs if run.id not in studied]
    body = [
        f"<h1>{escape(lab.resolve().name)}</h1>",
        f'<p class="what">{_what(runs)}</p>',
        _tour(lab),
        *sections(lab, _table, _figure),
        *_studies(lab),
    ]
    if alone:
        body += [
            "<h2>Loss</h2>",
            f'<p class="what">{_LEGEND}</p>',
            _figure(loss_figure(alone)),
            "<h2>Learning rate</h2>",
            _figure(rate_figure(alone)),
            "<h2>Runs</h2>",
            _run_table(alone),
        ]
    rest = [run for run in runs if run.id in studied]
    if rest:
        summary = f"<summary>{len(rest)} runs of studies</summary>"
        body.append(f"<details>{summary}{_run_table(rest)}</details>")
    page = lab / "report.html"
    write_whole(page, _document(lab.resolve().name, "".join(body)))
    return page


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


def _runs_of_studies(lab: Path) -> set[str]:
    """Ids of the runs that a study shows in its own figures."""
    found: set[str] = set()
    for name, result in outcomes(lab).items():
        if name in FIGURES:
            found.update(result.runs)
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


def _studies(lab: Path) -> Iterator[str]:
    """A section a study: its question's answer in one sentence, its verdict and its figures."""
    for name, figures in FIGURES.items():
        experiment = EXPERIMENTS[name]
        result = find_study(lab, experiment)
        if result is None:
            continue
        verdict = result.verdict
        mark = f' <span class="verdict {verdict}">{verdict}</span>' if verdict else ""
        title = f"{escape(name.capitalize())}{mark}"
        yield f'<h2 id="{name}">{title}</h2><p>{escape(result.summary)}.</p>'
        for caption, figure in figures(result, read_table(lab, experiment)):
            yield f'{_figure(figure)}<p class="what">{escape(caption)}</p>'


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
