"""The section of runs that learnt from preferences: how each came to prefer the better answers, and
what it cost.
"""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from windtunnel.report.blocks import Cell, Chart, RunId, Section, Table, Text
from windtunnel.report.figures import plain, styled
from windtunnel.report.view import LabView
from windtunnel.results.run import Validation
from windtunnel.train.run import Run

_WHAT = (
    "On held-out questions. A reward is beta times what an answer's log-probability has gained "
    "over the reference; the accuracy is the share of questions whose chosen answer has the higher "
    "one. KL: of the next token from the reference's, nats. Bits/byte: of the chosen answers, "
    "which often become less likely, too."
)
_HEADS = (
    *("name", "run", "loss", "beta", "lr", "accuracy", "margin", "chosen", "rejected", "KL"),
    *("bits/byte", "tokens, chosen", "rejected", "held out"),
)


def sections(view: LabView) -> Iterator[Section]:
    """One, where a run that learnt from preferences has been scored."""
    learning = [run for run in view.runs if run.recipe.preference]
    held = {run.id: view.attempt(run.validations) or [] for run in learning}
    scored = [run for run in learning if any(line.validation.preference for line in held[run.id])]
    if not scored:
        return
    rows = [_row(run, held[run.id][-1].validation) for run in scored]
    caption = "Reward accuracy on held-out questions; the dotted line is a tie."
    yield Section(
        anchor="preferences",
        title="Preferences",
        blocks=[Text(_WHAT), Table(_HEADS, rows), Chart(caption, [preference_figure(scored)])],
    )


def preference_figure(runs: Sequence[Run]) -> go.Figure:
    """Reward accuracy of each run against tokens, from the tie with which it began."""
    figure = go.Figure()
    for run in runs:
        points = [(0, 0.5)]
        for line in run.validations():
            if line.validation.preference:
                points.append((line.tokens, line.validation.preference.accuracy))
        figure.add_scatter(
            x=[tokens for tokens, _ in points],
            y=[round(accuracy, 4) for _, accuracy in points],
            mode="lines+markers",
            name=f"{plain(run.recipe.name)} ({run.id[:6]})",
        )
    figure.add_hline(y=0.5, line={"dash": "dot", "color": "#999"})
    figure.update_yaxes(title="reward accuracy", range=[0, 1])
    return styled(figure)


def _row(run: Run, held: Validation) -> list[Cell]:
    asked, score = run.recipe.preference, held.preference
    if asked is None or score is None:
        return [run.recipe.name, RunId(run.id), *["–"] * (len(_HEADS) - 2)]
    return [
        run.recipe.name,
        RunId(run.id),
        asked.loss,
        f"{asked.beta:g}",
        f"{run.recipe.optimizer.lr:.1e}",
        f"{score.accuracy:.1%}",
        f"{score.margin:+.3f}",
        f"{score.chosen:+.3f}",
        f"{score.rejected:+.3f}",
        f"{score.divergence:.4f}",
        f"{held.bits_per_byte:.4f}",
        f"{score.chosen_tokens:.0f}",
        f"{score.rejected_tokens:.0f}",
        f"{score.records:,}",
    ]
