"""Figures of the scaling study: the loss against tokens and against FLOPs, and what the study
cost; and its numbers in tables.
"""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from windtunnel.laws.copying import learns
from windtunnel.laws.loss import LossLaw
from windtunnel.quantities import about
from windtunnel.report.blocks import Block, Cell, Table, Text
from windtunnel.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SYMBOLS,
    interval_bars,
    log_ticks,
    ramp,
    styled,
)
from windtunnel.results.scaling import (
    AuditForecast,
    FormFound,
    LawInterval,
    PaperLaw,
    PaperRefusal,
    ScalingNumbers,
    ScalingRow,
    SizeLosses,
)
from windtunnel.results.study import StudyResult

_AUDIT, _ENVELOPE, _COST, _COSINE = INK, GREY, BLUE, GREY
_FORM, _AROUND = 36, 110  # pixels: a form of the law, and what is around them all
_FEW = 2  # ticks: beside the names of forms a phone has room for few
# which parameters a form counts as N
_COUNTS = {
    "params": "N without embeddings",
    "params_with_head": "N with the head",
    "params_total": "N of all",
}
# how a form was tried, by the axis along which points were held out
_TRIED = {
    "params": ("larger", ORANGE),
    "tokens": ("longer", _COST),
    "flops": ("dearer", GREEN),
}


def figures(
    result: StudyResult[ScalingNumbers], table: Sequence[ScalingRow]
) -> list[tuple[str, go.Figure | list[go.Figure]]]:
    """(caption, figure) each."""
    points = [row for row in table if row.source == "all" and row.loss]
    numbers = result.numbers
    forecast = numbers.law.audit
    star = ""
    if any(row.kind == "audit" for row in points):
        star = " The star is the audit run, which no fit sees"
        star += "; the bar is the 90% interval that the law predicted for it." if forecast else "."
    found: list[tuple[str, go.Figure | list[go.Figure]]] = [
        (
            "What a FLOP buys: loss after the decay against training FLOPs, a line for each size. "
            "Dashed: the frontier, the lowest loss that any branch reaches at that cost or below."
            f"{star}",
            _with_envelope(_losses(points, "flops", "FLOPs of the run", forecast), points),
        ),
        (
            "Loss after the decay against tokens, a line for each size (parameters, embedding "
            f"included) and seed.{star}",
            _losses(points, "tokens", "tokens", forecast),
        ),
        (
            "FLOPs of the study beside those of a cosine run from scratch for each of its points: "
            f"the study took {numbers.cost.ratio:.3f} of them.",
            _costs(numbers.sizes),
        ),
    ]
    if numbers.law.forms:
        form = max(numbers.law.forms, key=lambda form: form.weight)
        caption = (
            "What the weightiest law leaves over: measured loss over the law's, in percent, by "
            "size. Where the points of a size lie on one side, the law misses that size."
        )
        found.append((caption, _residuals(points, form)))
    if any(form.record for form in numbers.law.forms):
        caption = (
            "How far each form of the law was off on the larger, the longer and the dearer runs "
            "when it was fitted to the others: a dot for each cut. Below its name stands what it "
            "counts as parameters, and its weight in a prediction."
        )
        found.append((caption, _records(numbers.law.forms)))
    return found


def details(result: StudyResult[ScalingNumbers]) -> list[Block]:
    """Every size and every form of the law in numbers, and how the runs were trained."""
    numbers = result.numbers
    blocks: list[Block] = [Text(line) for line in _trained(numbers)]
    heads = (
        "size",
        "seeds",
        "parameters",
        "all of them",
        "first loss",
        "longest",
        "loss",
        "a doubling",
    )
    blocks.append(Table((*heads, "FLOPs"), [_size(size, numbers) for size in numbers.sizes]))
    law = numbers.law
    if law.refused:
        blocks.append(Text(f"There is no law: {law.refused}."))
    if law.forms:
        heads = ("form", "weight", "error ahead", "misfit", "N counted as")
        forms = sorted(law.forms, key=lambda form: -form.weight)
        names: dict[str, None] = {}  # each once, in the order in which they come
        for form in forms:
            names |= dict.fromkeys(form.intervals)
        blocks.append(Table((*heads, *names), [_form(form, list(names)) for form in forms]))
        blocks.append(
            Text(
                "Error ahead: root mean square of the errors on the larger and longer runs when a "
                "form was fitted to the others. In brackets: 90% intervals. Where a number is not "
                "alone, the points fit about as well with quite another one."
            )
        )
    if law.paper:
        blocks.append(Text(_as_the_paper(law.paper)))
    return blocks


def _trained(numbers: ScalingNumbers) -> Iterator[str]:
    along = ", ".join(f"{part.batch} from {about(part.begin)}" for part in numbers.batch.segments)
    yield f"Batch, in tokens a step: {along} ({numbers.batch.origin})."
    if numbers.rate:
        law = numbers.rate.law
        yield (
            f"Learning rate: {law.lr:.3g} at {about(law.params)} parameters, {about(law.tokens)} "
            f"tokens and a batch of {about(law.batch)}, by {law.powers} ({numbers.rate.origin})."
        )
    found = []
    for fields in numbers.settings.values():
        found += [f"{name} {value:g}" for name, value in fields.items()]
    if found:
        yield f"Settings, by the lab's search: {', '.join(found)}."
    if numbers.copying:
        saved, copyable = numbers.copying.saved, numbers.copying.copyable
        yield (
            f"A text of random tokens costs the largest model {max(saved, 0.0):.1%} less when it "
            "is read for the second time: "
            + ("it copies. " if learns(saved) else "it has not learnt to copy. ")
            + f"Of its held-out loss, {copyable:.0%} lies on tokens that copying may tell."
        )
    cost, audit = numbers.cost, numbers.audit
    yield (
        f"Cost: {cost.flops:.3e} FLOPs with stems and branches, {cost.flops_cosine:.3e} as cosine "
        f"runs from scratch; {cost.core_minutes} minutes of a core."
    )
    if audit:
        yield (
            f"The audit run has {audit.params_total:,} parameters "
            f"({audit.beyond.params_total:.1f} times the largest in the fit) and "
            f"{about(audit.tokens)} tokens ({audit.beyond.tokens:.1f} times the longest): "
            f"{audit.flops:.3e} FLOPs, {audit.core_minutes} minutes of a core."
        )


def _size(size: SizeLosses, numbers: ScalingNumbers) -> list[Cell]:
    return [
        size.size,
        str(size.seeds),
        about(size.params),
        about(size.params_total),
        _number(size.first_loss),
        about(size.longest or numbers.lengths[-1]),
        _number(size.last_loss),
        _number(size.gain_per_doubling),
        f"{size.flops:.2e}",
    ]


def _form(form: FormFound, names: Sequence[str]) -> list[Cell]:
    error = form.extrapolation_error
    return [
        form.form if form.converged else f"{form.form}, not converged",
        f"{form.weight:.2f}",
        "–" if error is None else f"{error:.2%}",
        f"{form.misfit:.2%}",
        _COUNTS.get(form.count, form.count),
        *(_pinned(form.intervals.get(name)) for name in names),
    ]


def _pinned(found: LawInterval | None) -> str:
    if found is None:
        return "–"
    low, high = ("open" if end is None else f"{end:.3g}" for end in found.interval90)
    value = f"{found.value:.3g}" if found.identified else "not alone"
    return f"{value} [{low}, {high}]"


def _as_the_paper(paper: PaperLaw | PaperRefusal) -> str:
    how = "The law as the paper fits it (curve_fit, additive)"
    if isinstance(paper, PaperRefusal):
        return f"{how}: {paper.refused}."
    error = paper.audit_error
    off = "" if error is None else f"on the audit run it was {error:+.2%} off; "
    warning = f"; {paper.warning}" if paper.warning else ""
    return (
        f"{how}: E {paper.E:.3g}, alpha {paper.alpha:.3g}, beta {paper.beta:.3g}; {off}best at "
        f"{paper.flops:.1e} FLOPs: {paper.tokens_per_param:.3g} tokens a parameter{warning}."
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _losses(
    points: Sequence[ScalingRow], axis: str, title: str, forecast: AuditForecast | None
) -> go.Figure:
    """The losses against a column of the table, on logarithmic axes."""
    figure = go.Figure()
    branches = [row for row in points if row.kind == "branch"]
    # by all parameters, size and seed, in the order of the legend
    lines: dict[tuple[int, str, int], list[ScalingRow]] = {}
    for row in branches:
        key = (row.params_total, f"{row.width}x{row.depth}", row.seed)
        lines.setdefault(key, []).append(row)
    totals = sorted({row.params_total for row in branches})
    shades = ramp(len(totals))
    first = {size: seed for (_, size, seed) in sorted(lines, reverse=True)}
    for (total, size, seed), rows in sorted(lines.items()):
        figure.add_scatter(
            x=[float(getattr(row, axis)) for row in rows],
            y=[row.loss for row in rows],
            mode="lines+markers",
            name=f"{size}: {about(total)}",
            legendgroup=size,
            showlegend=seed == first[size],
            marker={"size": 7, "symbol": SYMBOLS[totals.index(total) % len(SYMBOLS)]},
            line={"color": shades[totals.index(total)], "width": 1.8},
            opacity=1 if seed == first[size] else 0.5,
            customdata=[row.run for row in rows],
            hovertemplate=f"{size}, seed {seed}<br>%{{x:.3s}}: %{{y:.4f}}<br>%{{customdata}}"
            "<extra></extra>",
        )
    for row in points:
        if row.kind == "audit":
            _add_audit(figure, row, float(getattr(row, axis)), forecast)
    styled(figure)
    at = [float(getattr(row, axis)) for row in points]
    figure.update_xaxes(type="log", title=title)
    if axis == "flops":
        figure.update_xaxes(exponentformat="power", dtick=1)
    else:
        figure.update_xaxes(**log_ticks(at))
    return figure.update_yaxes(type="log", title="loss, nats/token", nticks=8)


def _add_audit(
    figure: go.Figure, row: ScalingRow, at: float, forecast: AuditForecast | None
) -> None:
    """The audit run as a star, and what was predicted of it as a bar."""
    figure.add_scatter(
        x=[at],
        y=[row.loss],
        mode="markers",
        marker={"color": _AUDIT, "size": 13, "symbol": "star"},
        name=f"audit {row.width}x{row.depth}: {about(row.params_total)}",
        customdata=[row.run],
    )
    if forecast is None:
        return
    interval = interval_bars([forecast.predicted], [forecast.interval90])
    figure.add_scatter(
        x=[at],
        y=[forecast.predicted],
        mode="markers",
        name="predicted, 90%",
        marker={"color": _ENVELOPE, "size": 8, "symbol": "line-ew-open"},
        error_y=interval | {"color": _ENVELOPE, "width": 6},
    )


def _residuals(points: Sequence[ScalingRow], form: FormFound) -> go.Figure:
    """In percent of the law's loss, against tokens."""
    law = _law(form)
    figure = go.Figure()
    by_size: dict[tuple[int, str], list[ScalingRow]] = {}
    for row in points:
        if row.kind == "branch":
            by_size.setdefault((row.params_total, f"{row.width}x{row.depth}"), []).append(row)
    shades = ramp(len(by_size))
    for place, ((_, size), rows) in enumerate(sorted(by_size.items())):
        expected = [float(law.at(getattr(row, form.count), row.tokens)) for row in rows]
        figure.add_scatter(
            x=[row.tokens for row in rows],
            y=[
                100 * ((row.loss or 0.0) / each - 1)
                for row, each in zip(rows, expected, strict=True)
            ],
            mode="markers",
            name=size,
            marker={"color": shades[place], "size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            customdata=[row.run for row in rows],
            hovertemplate=f"{size}<br>%{{x:.3s}} tokens: %{{y:+.2f}}%<extra></extra>",
        )
    styled(figure, 320)
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(type="log", **log_ticks([row.tokens for row in points]))
    return figure.update_yaxes(title="loss over the law's, %")


def _law(form: FormFound) -> LossLaw:
    if form.log_A is not None and form.log_B is not None:
        return LossLaw(
            E=form.E,
            log_A=form.log_A,
            alpha=form.alpha,
            log_B=form.log_B,
            beta=form.beta,
            c=form.c,
            gamma=form.gamma,
        )
    return LossLaw.of(
        E=form.E,
        A=form.A or 0.0,
        alpha=form.alpha,
        B=form.B or 0.0,
        beta=form.beta,
        c=form.c,
        gamma=form.gamma,
    )


def _records(forms: Sequence[FormFound]) -> go.Figure:
    """A dot for each cut at which a form was tried."""
    figure = go.Figure()
    named = {}
    for form in sorted(forms, key=lambda form: form.weight):
        named[f"{form.form}<br>{_COUNTS.get(form.count, form.count)}, {form.weight:.0%}"] = form
    for axis, (title, color) in _TRIED.items():
        errors, names = [], []
        for name, form in named.items():
            for tried in form.record:
                if tried.axis == axis:
                    errors.append(100 * tried.error)
                    names.append(name)
        figure.add_scatter(
            x=errors,
            y=names,
            mode="markers",
            name=title,
            marker={"color": color, "size": 8, "opacity": 0.8},
            hovertemplate="%{x:.2f}%<extra>%{y}</extra>",
        )
    styled(figure, _FORM * len(named) + _AROUND)
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=list(named),
        automargin=True,
        tickfont={"size": 11},
    )
    errors = [100 * tried.error for form in forms for tried in form.record]
    ticks = log_ticks([error for error in errors if error] or [1.0], _FEW)
    return figure.update_xaxes(type="log", title="mean error, %", **ticks)


def _with_envelope(figure: go.Figure, points: Sequence[ScalingRow]) -> go.Figure:
    """With the lowest losses so far, in the order of the cost."""
    branches = [row for row in points if row.kind == "branch"]
    costs: list[float] = []
    losses: list[float] = []
    for flops, loss in sorted((row.flops or 0, row.loss or 0.0) for row in branches):
        if not losses or loss <= losses[-1]:
            costs.append(float(flops))
            losses.append(loss)
    figure.add_scatter(
        x=costs,
        y=losses,
        mode="lines",
        name="frontier",
        line={"color": _ENVELOPE, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    return figure


def _costs(sizes: Sequence[SizeLosses]) -> go.Figure:
    figure = go.Figure()
    names = [size.size for size in sizes]
    ours = [size.flops * size.seeds for size in sizes]
    cosine = [size.flops_cosine * size.seeds for size in sizes]
    for name, flops, colour in (
        ("stem and branches", ours, _COST),
        ("cosine runs", cosine, _COSINE),
    ):
        figure.add_bar(x=names, y=flops, name=name, marker={"color": colour})
    styled(figure)
    figure.update_xaxes(title="size", type="category")
    return figure.update_yaxes(title="training FLOPs", exponentformat="power", automargin=True)
