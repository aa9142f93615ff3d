"""The section of runs that learnt from preferences: how each came to prefer the better answers, and
what it cost.
"""

from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go

from windtunnel.report.figures import styled
from windtunnel.results.run import PreferenceScore
from windtunnel.train.run import Run

_WHAT = (
    "On held-out questions. A reward is beta times what an answer's log-probability has gained "
    "over the reference; the accuracy is the share of questions whose chosen answer has the higher "
    "one. KL: of the next token from the reference's, nats. Bits/byte: of the chosen answers, "
    "which often become less likely, too."
)
_HEADS = (
    *("run", "loss", "beta", "lr", "accuracy", "margin", "chosen", "rejected", "KL"),
    *("bits/byte", "tokens, chosen / rejected", "held out"),
)


def preference_section(
    runs: Sequence[Run],
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], str],
    figure: Callable[[go.Figure], str],
) -> str:
    """The section, as HTML; nothing where no run has been scored. Raises InputError for a run whose
    metrics are damaged.
    """
    rows = []
    for run in runs:
        held = [line.validation for line in run.validations()]
        if held and held[-1].preference:
            rows.append(_row(run, held[-1].preference, held[-1].bits_per_byte))
    if not rows:
        return ""
    return (
        f'<h2>Preferences</h2><p class="what">{_WHAT}</p>{table(_HEADS, rows)}'
        f"{figure(preference_figure(runs))}"
        '<p class="what">Reward accuracy on held-out questions; the dotted line is a tie.</p>'
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
            name=f"{run.recipe.name} ({run.id[:6]})",
        )
    figure.add_hline(y=0.5, line={"dash": "dot", "color": "#999"})
    figure.update_yaxes(title="reward accuracy", range=[0, 1])
    return styled(figure)


def _row(run: Run, score: PreferenceScore, bits: float) -> list[str]:
    asked = run.recipe.preference
    return [
        f"{escape(run.recipe.name)} <code>{run.id}</code>",
        asked.loss if asked else "",
        f"{asked.beta:g}" if asked else "",
        f"{run.recipe.optimizer.lr:.1e}",
        f"{score.accuracy:.1%}",
        f"{score.margin:+.3f}",
        f"{score.chosen:+.3f}",
        f"{score.rejected:+.3f}",
        f"{score.divergence:.4f}",
        f"{bits:.4f}",
        f"{score.chosen_tokens:.0f} / {score.rejected_tokens:.0f}",
        f"{score.records:,}",
    ]
