"""The whole batch study upon a loss that is known: which batch it finds, and with which rates its
runs are trained.
"""

import math
from typing import Any

import pytest
from known_fleet import known

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.report.experiments.batch import figures
from windtunnel.results.batch import BATCH
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run, list_runs
from windtunnel.tunnel.batch import batch as study
from windtunnel.tunnel.batch.design import Design

BEST = 2000  # tokens a step, at every length


def loss(run: Run) -> float:
    """Each octave from the best batch wastes tokens as its square; a rate makes no difference."""
    recipe = run.recipe
    wasted = math.exp(-0.1 * math.log2(recipe.train.batch / BEST) ** 2)
    return 2 + 8 * count(recipe.model).params ** -0.2 + 60 * (recipe.total_tokens * wasted) ** -0.3


def test_the_best_batch_is_found_and_every_arm_has_its_rates(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, study, loss)
    study.batch(lab.path, corpus, Design(), Watch())
    result, rows = read_study(lab.path, BATCH), read_table(lab.path, BATCH)
    law = result.numbers.arms["fixed"].laws["tokens"]
    for tokens in Design().lengths:
        assert law.constants["c"] * tokens ** law.constants["p"] == pytest.approx(BEST, rel=0.03)
    assert law.constants["p"] == pytest.approx(0, abs=0.03)
    runs = {run.id: run.recipe for run in list_runs(lab.path)}
    for row in rows:
        wanted = 0.01 if row.arm == "fixed" else 0.01 * math.sqrt(row.batch / 2048)
        recipe = runs[row.run]
        assert (row.lr, row.batch) == (recipe.optimizer.lr, recipe.train.batch)
        assert row.lr == pytest.approx(wanted, rel=1e-5)
        # a tenth of the length, in whole steps of the largest batch
        assert recipe.decay_tokens == pytest.approx(0.1 * row.tokens, abs=8192)
    assert {row.arm for row in rows} == {"fixed", "sqrt"}
    drawn = figures(result, rows)
    sizes = len(result.numbers.sizes)
    # of both arms: contours and losses, a panel for each size; the best against loss and tokens
    assert [len(panels) for _, panels in drawn] == [sizes] * 4 + [2] * 2
    law_of = {trace.name: trace for trace in drawn[-2][1][1].data}["law"]
    assert list(law_of.y) == pytest.approx([BEST] * len(law_of.y), rel=0.03)
