"""The lab's plans on its page: what to train, what to expect, where each number came from, and
what came out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from windtunnel.errors import InputError
from windtunnel.plan.record import plans as folders
from windtunnel.plan.record import read_plan, recipe_path
from windtunnel.quantities import about, about_bytes, about_hours
from windtunnel.report.blocks import (
    Block,
    Cell,
    Chart,
    Commands,
    Fact,
    Facts,
    Fold,
    Item,
    Items,
    Runs,
    Section,
    Table,
    Text,
)
from windtunnel.report.figures import (
    BAND,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    WIDE_BAND,
    interval_bars,
    log_ticks,
    loss_figure,
    styled,
)
from windtunnel.report.view import LabView
from windtunnel.results.plan import PlanResult, expected_in_words
from windtunnel.train.run import Run, open_run


def sections(view: LabView) -> Iterator[Section]:
    """Of each plan that can be read."""
    for folder in folders(view.lab):
        found = view.attempt(lambda at=folder: _section(view, at))
        if found:
            yield found


def _section(view: LabView, folder: Path) -> Section:
    plan = read_plan(folder)
    blocks: list[Block] = [Facts(_facts(plan)), *map(Text, _sentences(plan))]
    blocks.append(Chart(_caption(plan), [sizes_figure(plan)]))
    run = _planned_run(view, plan)
    if run:
        blocks.append(
            Chart(
                "The planned run on its way, against what was forecast of its end: the dark band "
                "holds half of such runs, the pale one nine in ten.",
                [course_figure(run, plan)],
            )
        )
    if plan.flags:
        blocks.append(Text("What could be wrong:"))
        blocks.append(Items([Item(flag.text, flag.level) for flag in plan.flags]))
    else:
        blocks.append(Text("Nothing speaks against this plan."))
    blocks += _next(plan, folder, run)
    rows = [list(row) for row in _rows(plan)]
    sources: list[Block] = [Table(("number", "value", "from"), rows, words=True)]
    runs: dict[str, None] = {}
    for provenance in plan.provenance.values():
        runs |= dict.fromkeys(filter(None, provenance.runs))
    if runs:
        sources.append(Runs(list(runs)))
    blocks.append(Fold("Where the numbers come from", sources))
    return Section(
        anchor=f"plan-{folder.name}",
        title=f"Plan {folder.name}",
        blocks=blocks,
        verdict=plan.go,
        mark={"go": "pass", "no-go": "fail"}.get(plan.go, "care"),
    )


def sizes_figure(plan: PlanResult) -> go.Figure:
    """The loss of every size at the plan's cost, with the planned one, its interval and what was
    got.
    """
    figure, sizes = go.Figure(), plan.at_this_cost
    figure.add_vrect(*plan.range_params, fillcolor=WIDE_BAND, line_width=0, layer="below")
    figure.add_scatter(
        x=[size.params for size in sizes],
        y=[size.loss for size in sizes],
        mode="lines",
        name="sizes at this cost",
        line={"color": BLUE, "width": 2},
        text=[about(size.tokens) for size in sizes],
        hovertemplate="%{x:.3s} parameters, %{text} tokens<br>%{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[plan.params],
        y=[plan.loss],
        mode="markers",
        name="plan, 90% interval",
        marker={"color": BLUE, "size": 10},
        error_y=interval_bars([plan.loss], [plan.interval90]),
    )
    if plan.audit:
        figure.add_scatter(
            x=[plan.params],
            y=[plan.audit.loss],
            mode="markers",
            name="got",
            marker={"color": ORANGE, "size": 12, "symbol": "diamond"},
        )
    styled(figure, 360)
    ticks = log_ticks([size.params for size in sizes])
    figure.update_xaxes(type="log", title="parameters without embeddings", **ticks)
    return figure.update_yaxes(title="loss, nats/token")


def course_figure(run: Run, plan: PlanResult) -> go.Figure:
    """The curve of the planned run, and the intervals of its forecast over the decay."""
    figure = loss_figure([run])
    figure.update_traces(line={"color": GREEN}, selector={"mode": "lines"})
    figure.update_traces(
        marker={"color": GREEN}, name="held-out text", selector={"mode": "markers"}
    )
    begin = plan.tokens - max(plan.decay_tokens, plan.tokens // 12)
    for (low, high), colour in ((plan.interval90, WIDE_BAND), (plan.interval50, BAND)):
        figure.add_shape(
            type="rect",
            x0=begin,
            x1=plan.tokens,
            y0=low,
            y1=high,
            fillcolor=colour,
            line={"width": 0},
            layer="below",
        )
    figure.add_scatter(
        x=[begin, plan.tokens],
        y=[plan.loss, plan.loss],
        mode="lines",
        name="forecast",
        line={"color": INK, "dash": "dot", "width": 1.5},
        hovertemplate="forecast %{y:.4f}<extra></extra>",
    )
    figure.update_xaxes(range=[0, plan.tokens * 1.02])
    return figure.update_layout(height=340)


def _planned_run(view: LabView, plan: PlanResult) -> Run | None:
    """The run of the plan's recipe, once it has begun; else the audited one."""
    names = [plan.audit.run] if plan.audit else []
    wanted = [run.id for run in view.runs if run.recipe.name == plan.plan]
    for name in (*names, *wanted):
        try:
            run = open_run(view.lab / "runs" / name)
            if len(run.steps()) > 1:
                return run
        except (InputError, OSError):
            continue
    return None


def _facts(plan: PlanResult) -> list[Fact]:
    low, high = plan.interval90
    facts = [
        Fact("parameters", about(plan.params)),
        Fact("tokens", about(plan.tokens)),
        Fact("forecast, nats/token", f"{plan.loss:.4f}"),
        Fact("nine times in ten", f"{low:.4f} to {high:.4f}"),
    ]
    if plan.audit:
        facts.append(Fact("got", f"{plan.audit.loss:.4f}"))
    return facts


def _sentences(plan: PlanResult) -> Iterator[str]:
    """The plan in words: the recipe, the sizes that would do as well, the cost, the outcome."""
    shape, training = plan.shape, plan.training
    yield (
        f"Train {about(plan.params)} parameters ({about(plan.params_total)} with embeddings): "
        f"width {shape.width}, depth {shape.depth}, {shape.heads} heads, vocabulary {shape.vocab}. "
        f"Give it {about(plan.tokens)} tokens, {plan.tokens_per_param:.3g} for each parameter, in "
        f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens. The learning rate is {plan.lr:g}, "
        f"and decays over the last {about(plan.decay_tokens)} tokens."
    )
    for expected in plan.scores:
        yield f"It may score on {expected_in_words(expected, plan.loss)}."
    low, high = plan.range_params
    yield (
        f"At this cost, every size from {about(low)} to {about(high)} parameters comes within 0.5% "
        "of the best loss: within that range, choose what is convenient."
    )
    hours = "" if training.hours is None else f", about {about_hours(training.hours)}"
    where = f" on {training.devices} {training.device}" if training.device else ""
    each = " on each" if (training.devices or 1) > 1 else ""
    yield (
        f"It costs {plan.flops:.3g} FLOPs of training{hours}{where}, and about "
        f"{about_bytes(training.bytes.total)} of memory{each}."
    )
    reach = plan.extrapolation
    yield (
        f"It has {reach.params:.3g} times the parameters of the largest run in the fit, and "
        f"{reach.tokens:.3g} times the tokens of the longest."
    )
    if plan.audit:
        inside = "inside" if plan.audit.inside90 else "outside"
        yield (
            f"It reached {plan.audit.loss:.4f}: the forecast of {plan.audit.predicted:.4f} was "
            f"{plan.audit.error:+.2%} off, and the loss lies {inside} its 90% interval."
        )
        for remark in plan.audit.remarks:
            yield remark[:1].upper() + remark[1:] + "."


def _next(plan: PlanResult, folder: Path, run: Run | None) -> list[Block]:
    """What to type."""
    if plan.audit:
        return []
    if run and run.status().status == "done":
        return [Commands([f"windtunnel plan --audit {run.id}"])]
    return [Commands([f"windtunnel train {recipe_path(folder)}"])]


def _caption(plan: PlanResult) -> str:
    low, high = plan.range_params
    return (
        f"The expected loss of every size at {plan.flops:.3g} FLOPs. In the shaded range, from "
        f"{about(low)} to {about(high)} parameters, it is within 0.5% of the best."
    )


def _rows(plan: PlanResult) -> Iterator[Sequence[Cell]]:
    """A row a number of the plan: its value, and in which way it was found."""
    for name, provenance in plan.provenance.items():
        yield name.replace("_", " "), _value(plan, name), provenance.how


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
