"""The lab's plans on its page: what to train, what to expect, where each number came from, and
what came out.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from windtunnel.plan.plan import plans, read_plan
from windtunnel.quantities import about
from windtunnel.report.figures import styled

_LAW, _RANGE, _CHOSEN, _GOT = "#33658a", "#dfe8f0", "#33658a", "#d1495b"
_RUNS_SHOWN = 3

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
Figure = Callable[[go.Figure], str]


def sections(lab: Path, table: Table, figure: Figure) -> Iterator[str]:
    """One a plan, as HTML; `table` and `figure` are the page's."""
    for folder in plans(lab):
        plan = read_plan(folder)
        mark = {"go": "pass", "no-go": "fail"}.get(plan["go"], "care")
        yield f'<h2 id="plan-{escape(folder.name)}">Plan {escape(folder.name)} <span class="verdict {mark}">'
        yield f"{escape(plan['go'])}</span></h2><p>{_summary(plan)}</p>"
        if plan["flags"]:
            items = (
                f"<li><b>{flag['level']}</b> {escape(flag['text'])}</li>" for flag in plan["flags"]
            )
            yield f"<ul>{''.join(items)}</ul>"
        yield f'{figure(sizes_figure(plan))}<p class="what">{_caption(plan)}</p>'
        rows = table(("number", "value", "from", "runs"), list(_rows(plan)))
        yield f'<details class="sources"><summary>Where the numbers come from</summary>{rows}</details>'


def sizes_figure(plan: dict[str, Any]) -> go.Figure:
    """The loss of every size at the plan's cost, with the planned one, its interval and what was
    got.
    """
    figure, sizes = go.Figure(), plan["at_this_cost"]
    low, high = plan["interval90"]
    figure.add_vrect(*plan["range_params"], fillcolor=_RANGE, line_width=0, layer="below")
    figure.add_scatter(
        x=[one["params"] for one in sizes],
        y=[one["loss"] for one in sizes],
        mode="lines",
        name="sizes at this cost",
        line={"color": _LAW, "width": 2},
        customdata=[about(one["tokens"]) for one in sizes],
        hovertemplate="%{x:.3s} parameters, %{customdata} tokens<br>%{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[plan["params"]],
        y=[plan["loss"]],
        mode="markers",
        name="plan, 90%",
        marker={"color": _CHOSEN, "size": 10},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - plan["loss"]],
            "arrayminus": [plan["loss"] - low],
        },
    )
    if audit := plan.get("audit"):
        figure.add_scatter(
            x=[plan["params"]],
            y=[audit["loss"]],
            mode="markers",
            name="got",
            marker={"color": _GOT, "size": 13, "symbol": "star"},
        )
    styled(figure)
    figure.update_xaxes(type="log", title="parameters without embeddings")
    return figure.update_yaxes(title="loss, nats/token")


def _summary(plan: dict[str, Any]) -> str:
    shape, (low, high) = plan["shape"], plan["interval90"]
    text = (
        f"{about(plan['params'])} parameters ({shape['width']} wide, {shape['depth']} deep) on {about(plan['tokens'])} "
        f"tokens: expected loss <b>{plan['loss']:.4f}</b> nats/token, 90% between {low:.4f} and {high:.4f}."
    )
    if audit := plan.get("audit"):
        inside = "inside" if audit["inside90"] else "outside"
        text += f" Got <b>{audit['loss']:.4f}</b>: {audit['error']:+.2%} off, {inside} the 90% interval."
    return text


def _caption(plan: dict[str, Any]) -> str:
    low, high = plan["range_params"]
    return (
        f"Expected loss of every size at {plan['flops']:.3g} FLOPs. Shaded: from {about(low)} to {about(high)} "
        "parameters the loss is within 0.5% of the best."
    )


def _rows(plan: dict[str, Any]) -> Iterator[list[str]]:
    """A row a number of the plan: value, in which way it was found, and the runs behind it."""
    for key, source in plan["provenance"].items():
        runs = source["runs"]
        shown = ", ".join(f"<code>{escape(run)}</code>" for run in runs[:_RUNS_SHOWN])
        more = f" and {len(runs) - _RUNS_SHOWN} more" if len(runs) > _RUNS_SHOWN else ""
        how = escape(source["how"])
        if source["study"]:
            how = f'<a href="#{escape(source["study"])}">{how}</a>'
        yield [escape(key.replace("_", " ")), _value(plan, key), how, shown + more]


def _value(plan: dict[str, Any], key: str) -> str:
    value = plan["training"]["hours"] if key == "hours" else plan[key]
    if key == "shape":
        return f"{value['width']}x{value['depth']}"
    if key == "extrapolation":
        return f"{value['params']:.2g} times larger, {value['tokens']:.2g} times longer"
    if key == "over_trained":
        return ", ".join(f"{one['width']}x{one['depth']}" for one in value)
    if key == "range_params":
        return " to ".join(map(about, value))
    return about(value) if value >= 1000 else f"{value:.4g}"
