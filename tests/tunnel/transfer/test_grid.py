"""The grid of a transfer study at its bounds: what is measured next, what a size needs for a best
rate, and what a study needs for a verdict.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_fleet import known

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.recipe import load
from windtunnel.results.study import read_study, read_table
from windtunnel.results.transfer import (
    TRANSFER,
    DriftFound,
    Drifts,
    ParametrizationRates,
    TransferNumbers,
)
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.transfer import grid
from windtunnel.tunnel.transfer import transfer as study
from windtunnel.tunnel.transfer.bowl import Bowl
from windtunnel.tunnel.transfer.design import Design
from windtunnel.tunnel.transfer.grid import around_best
from windtunnel.tunnel.transfer.transfer import drift_over, judge, within


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ({0: 1.0}, {-2, -1, 0, 1, 2}),
        ({0: 1.0, 1: 1.0}, {-2, -1, 0, 1, 2}),  # the first of equals
        ({0: None, 1: 1.0}, {-1, 0, 1, 2, 3}),
        ({13: 1.0}, {11, 12, 13, 14}),
        ({-14: 1.0}, {-14, -13, -12}),
    ],
)
def test_two_neighbours_on_either_side_and_no_further_than_seven_octaves(
    losses: dict[int, float | None], steps: set[int]
) -> None:
    assert around_best(losses) == steps


@pytest.mark.parametrize(
    ("interval", "inside"),
    [((-0.15, 0.15), True), ((-0.151, 0.0), False), ((0.0, 0.151), False)],
)
def test_a_drift_may_be_fifteen_hundredths_and_no_more(
    interval: tuple[float, float], inside: bool
) -> None:
    assert within(DriftFound(slope=0.0, interval=interval)) is inside


def bowl_at(vertex: float) -> Bowl:
    return Bowl(
        vertex=vertex,
        interval=(vertex, vertex),
        loss=4.0,
        curvature=0.03,
        noise=0.001,
        vertices=np.full(4000, vertex),
    )


def test_a_drift_is_over_octaves_of_the_size() -> None:
    found = drift_over({32: bowl_at(0.0), 64: bowl_at(0.3), 256: bowl_at(0.9)})
    assert found and found.slope == pytest.approx(0.3)
    two = drift_over({2: bowl_at(0.0), 8: bowl_at(-0.4)})
    assert two and two.slope == pytest.approx(-0.2)
    assert drift_over({32: bowl_at(0.0)}) is None


def rates(passes: bool = True) -> dict[str, ParametrizationRates]:
    slope = DriftFound(slope=0.1, interval=(0.0, 0.2))
    drift = Drifts(width=slope, depth=slope)
    return {"minicpm": ParametrizationRates(sizes=(), drift=drift, passes=passes)}


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, None),
        ({"widths": (32, 256)}, "3 widths"),
        ({"widths": (32, 64, 255)}, "a span of 8x in width"),
        ({"widths": (32, 64, 256)}, None),
        ({"lengths": (2048, 400 * 2048)}, None),
        ({"lengths": (400 * 2048 - 1,)}, "400 steps"),
        ({"widths": (32, 64), "lengths": (2048,)}, "3 widths, a span of 8x in width, 400 steps"),
    ],
)
def test_a_verdict_needs_widths_a_span_and_steps(
    changes: dict[str, Any], needs: str | None
) -> None:
    verdict, said = judge(Design(**{"parametrizations": ("minicpm",)} | changes), rates())
    assert verdict == (None if needs else "pass")
    assert "with minicpm the best rate moves by +0.10 [+0.00, +0.20] octaves for an octave" in said
    assert "and by +0.10 [+0.00, +0.20] octaves for an octave of depth (90% interval)" in said
    assert said.endswith(f"too small for a verdict, which needs {needs}") is bool(needs)


DESIGN = Design(
    parametrizations=("minicpm",),
    widths=(32, 64),
    depths=(2, 4),
    lengths=(4096,),
    batches=(512,),
    seeds=(2,),
)


def studied(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, loss: Any, design: Design = DESIGN
) -> TransferNumbers:
    known(monkeypatch, grid, loss)
    study.transfer(lab.path, corpus, design, Watch())
    return read_study(lab.path, TRANSFER).numbers


def octaves(run: Run) -> float:
    return math.log2(run.recipe.optimizer.lr / 0.01)


def test_a_grid_begins_at_the_neighbours_best_rate(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first width's best is 3 octaves up. The second's is 1 further, and is found from there;
    the further depth's is the first's.
    """

    def loss(run: Run) -> float:
        wide = run.recipe.model.width == 64
        return 4 + 0.03 * (octaves(run) - (4.0 if wide else 3.0)) ** 2

    numbers = studied(lab, corpus, monkeypatch, loss)
    steps: dict[tuple[int, int], set[int]] = {}
    seeds: dict[tuple[int, int, int], set[int]] = {}
    for row in read_table(lab.path, TRANSFER):
        step = round(2 * math.log2(row.lr / 0.01))
        steps.setdefault((row.width, row.depth), set()).add(step)
        seeds.setdefault((row.width, row.depth, step), set()).add(row.seed)
    assert steps[32, 2] == set(range(-2, 9)), "from the first rate to two beyond the best"
    assert steps[64, 2] == set(range(4, 11)), "about 6, and then about 8"
    assert steps[32, 4] == set(range(4, 9))
    for (width, depth, step), found in seeds.items():
        best = 8 if width == 64 else 6
        assert found == ({0, 1} if abs(step - best) <= 2 else {0}), (width, depth, step)
    drift = numbers.parametrizations["minicpm"].drift
    assert drift.width and drift.width.slope == pytest.approx(1.0, abs=0.01)
    assert drift.depth and drift.depth.slope == pytest.approx(0.0, abs=0.01)
    assert not numbers.parametrizations["minicpm"].passes


def test_the_table_has_its_runs_in_order(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = studied(lab, corpus, monkeypatch, lambda run: 4 + 0.03 * octaves(run) ** 2)
    rows = read_table(lab.path, TRANSFER)
    placed = [(row.depth, row.width, row.lr, row.seed) for row in rows]
    assert placed == sorted(placed) and len(placed) == 3 * 5 * 2
    assert {row.batch for row in rows} == {512} and {row.kind for row in rows} == {"branch"}
    assert (numbers.tokens, numbers.batch, numbers.seeds) == (4096, 512, (2,))
    for row in rows:
        recipe = load(Path(lab.path) / "runs" / row.run / "recipe.toml")
        assert (recipe.model.width, recipe.model.depth, recipe.seed) == (
            row.width,
            row.depth,
            row.seed,
        )
        assert recipe.total_tokens == 4096 and row.params == count(recipe.model).params
    assert numbers.parametrizations["minicpm"].passes
    assert [size.params for size in numbers.parametrizations["minicpm"].sizes] == [
        next(row.params for row in rows if (row.width, row.depth) == size)
        for size in ((32, 2), (64, 2), (32, 4))
    ]


def test_a_size_without_a_bowl_has_no_best_rate_and_passes_nothing(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wider size diverges at most rates: five points of ten are as many as are needed, and four
    are too few.
    """

    def with_ends(limit: float) -> ParametrizationRates:
        def loss(run: Run) -> float | None:
            if run.recipe.model.width == 64 and (octaves(run) > limit or run.recipe.seed):
                return None
            return 4 + 0.03 * octaves(run) ** 2

        return studied(lab, corpus, monkeypatch, loss).parametrizations["minicpm"]

    few = with_ends(0.6)  # four rates of one seed
    first, wide, _ = few.sizes
    assert (wide.lr, wide.interval, wide.noise, wide.regret) == (None,) * 4
    assert wide.best_loss == pytest.approx(4.0) and first.regret == 0
    assert few.drift.width is None and few.drift.depth and not few.passes


def test_five_points_of_two_seeds_are_enough(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(run: Run) -> float | None:
        if run.recipe.model.width == 64 and run.recipe.seed:
            return None
        return 4 + 0.03 * octaves(run) ** 2

    found = studied(lab, corpus, monkeypatch, loss).parametrizations["minicpm"]
    assert found.sizes[1].lr == pytest.approx(0.01, rel=0.01)
    assert found.drift.width is not None and found.passes


def test_the_usual_grid() -> None:
    design = Design()
    assert (design.widths, design.depths) == ((32, 64, 128, 256), (2, 8))
    assert [design.seeds_of(name) for name in design.parametrizations] == [3, 2]
    assert design.longest // design.batches[0] == 400, "the fewest steps for a verdict"
    assert max(design.widths) == 8 * min(design.widths) and design.lr == 0.01
