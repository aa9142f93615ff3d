"""The figures that a report draws of a study, whether one or several stand under a caption."""

from collections.abc import Sequence

import plotly.graph_objects as go


def each_of(drawn: Sequence[tuple[str, go.Figure | list[go.Figure]]]) -> list[go.Figure]:
    """Every figure, in order. All of them have a caption, and something to show."""
    found = []
    for caption, figures in drawn:
        assert caption
        found += figures if isinstance(figures, list) else [figures]
    assert all(figure.data for figure in found)
    return found
