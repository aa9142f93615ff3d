"""The lab's plans on its page: what to train, what to expect, where each number came from, and
what came out.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from windtunnel.plan.record import read_plan
from windtunnel.quantities import about
from windtunnel.report.figures import interval_bars, styled
from windtunnel.results.plan import PlanResult, Provenance

_LAW, _RANGE, _CHOSEN, _GOT = "#33658a", "#dfe8f0", "#33658a", "#d1495b"
_RUNS_SHOWN = 3

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
Figure = Callable[[go.Figure], str]


def section(folder: Path, table: Table, figure: Figure) -> str:
    """Of the plan in this folder, as HTML; `table` and `figure` are the page's. Raises InputError
    for a plan that is damaged.
    """
    plan, name = read_plan(folder), escape(folder.name)
    mark = {"go": "pass", "no-go": "fail"}.get(plan.go, "care")
    verdict = f'<span class="verdict {mark}">{escape(plan.go)}</span>'
    parts = [f'<h2 id="plan-{name}">Plan {name} {verdict}</h2><p>{_summary(plan)}</p>']
    if plan.flags:
        items = [f"<li><b>{flag.level}</b> {escape(flag.text)}</li>" for flag in plan.flags]
        parts.append(f"<ul>{''.join(items)}</ul>")
    parts.append(f'{figure(sizes_figure(plan))}<p class="what">{_caption(plan)}</p>')
    rows = table(("number", "value", "from", "runs"), list(_rows(plan)))
    what = "<summary>Where the numbers come from</summary>"
    parts.append(f'<details class="sources">{what}{rows}</details>')
    return "".join(parts)


def sizes_figure(plan: PlanResult) -> go.Figure:
    """The loss of every size at the plan's cost, with the planned one, its interval and what was
    got.
    """
    figure, sizes = go.Figure(), plan.at_this_cost
    figure.add_vrect(*plan.range_params, fillcolor=_RANGE, line_width=0, layer="below")
    figure.add_scatter(
        x=[size.params for size in sizes],
        y=[size.loss for size in sizes],
        mode="lines",
        name="sizes at this cost",
        line={"color": _LAW, "width": 2},
        customdata=[about(size.tokens) for size in sizes],
        hovertemplate="%{x:.3s} parameters, %{customdata} tokens<br>%{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[plan.params],
        y=[plan.loss],
        mode="markers",
        name="plan, 90%",
        marker={"color": _CHOSEN, "size": 10},
        error_y=interval_bars([plan.loss], [plan.interval90]),
    )
    if plan.audit:
        figure.add_scatter(
            x=[plan.params],
            y=[plan.audit.loss],
            mode="markers",
            name="got",
            marker={"color": _GOT, "size": 13, "symbol": "star"},
        )
    styled(figure)
    figure.update_xaxes(type="log", title="parameters without embeddings")
    return figure.update_yaxes(title="loss, nats/token")


def _summary(plan: PlanResult) -> str:
    low, high = plan.interval90
    text = (
        f"{about(plan.params)} parameters (width {plan.shape.width}, depth {plan.shape.depth}) on "
        f"{about(plan.tokens)} tokens: the expected loss is <b>{plan.loss:.4f}</b> nats/token, "
        f"90% between {low:.4f} and {high:.4f}."
    )
    if plan.audit:
        inside = "inside" if plan.audit.inside90 else "outside"
        text += (
            f" It reached <b>{plan.audit.loss:.4f}</b>: the forecast of {plan.audit.predicted:.4f} "
            f"was {plan.audit.error:+.2%} off, {inside} the 90% interval."
        )
        text += "".join(f" {escape(remark.capitalize())}." for remark in plan.audit.remarks)
    return text


def _caption(plan: PlanResult) -> str:
    low, high = plan.range_params
    return (
        f"The expected loss of every size at {plan.flops:.3g} FLOPs. In the shaded range, from "
        f"{about(low)} to {about(high)} parameters, it is within 0.5% of the best."
    )


def _rows(plan: PlanResult) -> Iterator[list[str]]:
    """A row a number of the plan: value, in which way it was found, and the runs behind it."""
    for name, provenance in plan.provenance.items():
        how = escape(provenance.how)
        if provenance.study:
            how = f'<a href="#{escape(provenance.study)}">{how}</a>'
        yield [escape(name.replace("_", " ")), _value(plan, name), how, _runs(provenance)]


def _runs(provenance: Provenance) -> str:
    """The first few ids, and how many more there are."""
    shown = [f"<code>{escape(run)}</code>" for run in provenance.runs[:_RUNS_SHOWN]]
    left = len(provenance.runs) - _RUNS_SHOWN
    return ", ".join(shown) + (f" and {left} more" if left > 0 else "")


def _value(plan: PlanResult, name: str) -> str:
    """A number of the plan that has a provenance, as text."""
    if name == "shape":
        return f"{plan.shape.width}x{plan.shape.depth}"
    if name == "extrapolation":
        reach = plan.extrapolation
        return f"{reach.params:.2g} times larger, {reach.tokens:.2g} times longer"
    if name == "over_trained":
        return ", ".join(f"{smaller.width}x{smaller.depth}" for smaller in plan.over_trained)
    if name == "range_params":
        return " to ".join(about(params) for params in plan.range_params)
    value: Any = plan.training.hours if name == "hours" else getattr(plan, name)
    return about(value) if value >= 1000 else f"{value:.4g}"
