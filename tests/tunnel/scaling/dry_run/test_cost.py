"""What a study costs: budgets as people type them, exact FLOPs, and a speed out of the lab's own
runs.
"""

from pathlib import Path

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import flops_per_token
from windtunnel.results.dry_run import Budget, Cost, Speed, Unit
from windtunnel.results.run import StepLine
from windtunnel.results.scaling import ScalingNumbers
from windtunnel.results.study import StudyResult
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.train.run import create
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.chain import lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.cost import cost_of, counts_of, fit_cost, speed_of

SPEED = Speed(flop=1e-11, token=2e-6, step=0.01, origin="known")


@pytest.mark.parametrize(("unit", "share"), [("FLOPs", 0.5), ("tokens", 2.0), ("core-hours", 1.0)])
def test_a_cost_is_a_share_of_a_budget(unit: Unit, share: float) -> None:
    cost = Cost(flops=50, tokens=200, core_hours=100)
    assert Budget(amount=100, unit=unit).share(cost) == share


def test_a_study_costs_its_stems_once_and_every_decay(corpus: Corpus) -> None:
    design = Design()
    chain = lay_out(design, LAPTOP_BATCH)
    counts = {size: counts_of(corpus, size) for size in design.sizes}
    cost = fit_cost(design, chain, counts, SPEED)
    assert cost.tokens == chain.trained * 7  # five sizes, two of them twice
    assert cost.flops == sum(counts[size].flops * chain.trained for size, _ in design.stems)
    one = fit_cost(Design(sizes=(Size(16, 2),), seeds=1), chain, counts, SPEED)
    steps = sum((s.end - s.begin) / s.batch for s in chain.segments)
    steps += sum(p.decay / chain.segments[p.segment].batch for p in chain.points)
    assert one.core_hours * 3600 == pytest.approx(
        1e-11 * one.flops + 2 * (2e-6 * one.tokens + 0.01 * steps)
    )


def test_the_speed_is_that_of_the_labs_runs(tmp_path: Path, corpus: Corpus) -> None:
    runs = []
    for width, depth, batch, steps in [
        (w, d, b, 10 + w // 8) for w in (16, 32, 64) for d in (1, 3) for b in (512, 2048)
    ]:
        recipe = proxy(corpus, width, depth, steps * batch, train={"batch": batch})
        run = create(tmp_path, recipe, corpus)
        flops = flops_per_token(recipe.model, recipe.data.context)
        seconds = SPEED.flop * flops * batch + depth * (SPEED.token * batch + SPEED.step)
        step = StepLine(
            tokens=batch,
            loss=3.0,
            lr=0.01,
            grad_norm=1.0,
            tokens_per_s=round(batch / seconds),
            peak_share=0.1,
        )
        (run.path / "metrics.jsonl").write_text(f"{step.to_json()}\n" * steps)
        runs.append(run.id)
    found = speed_of(tmp_path, study_of(runs))
    assert (found.flop, found.token, found.step) == pytest.approx(
        (SPEED.flop, SPEED.token, SPEED.step), rel=1e-3
    )
    assert "lab" in found.origin
    assert speed_of(tmp_path, study_of(runs[:5])) == speed_of(tmp_path, None), "too few to tell"


def study_of(runs: list[str]) -> StudyResult[ScalingNumbers]:
    """A study of these runs, of which only they matter."""
    return StudyResult[ScalingNumbers].model_construct(study="scaling", runs=tuple(runs))


def test_a_run_costs_its_flops_its_tokens_and_its_steps(corpus: Corpus) -> None:
    """The last two a layer."""
    size = counts_of(corpus, Size(32, 3))
    recipe = proxy(corpus, 32, 3)
    assert size.depth == 3 and size.flops == flops_per_token(recipe.model, recipe.data.context)
    assert size.params["params_total"] == size.counts.params_total
    cost = cost_of(SPEED, size, tokens=1000, steps=20)
    seconds = 1e-11 * 1000 * size.flops + 3 * (2e-6 * 1000 + 0.01 * 20)
    assert (cost.flops, cost.tokens) == (1000 * size.flops, 1000)
    assert cost.core_hours == pytest.approx(seconds / 3600)


@pytest.mark.parametrize(
    ("runs", "steps", "measured"), [(10, 10, True), (9, 10, False), (10, 9, False)]
)
def test_ten_runs_of_ten_steps_tell_a_speed(
    tmp_path: Path, corpus: Corpus, runs: int, steps: int, measured: bool
) -> None:
    ids = []
    for index in range(runs):
        recipe = proxy(corpus, 16, 1, 20 * 512, seed=index, train={"batch": 512})
        run = create(tmp_path, recipe, corpus)
        line = StepLine(
            tokens=512, loss=3.0, lr=0.01, grad_norm=1.0, tokens_per_s=50_000, peak_share=0.1
        )
        (run.path / "metrics.jsonl").write_text(f"{line.to_json()}\n" * steps)
        ids.append(run.id)
    found = speed_of(tmp_path, study_of([*ids, "gone"]))
    assert ("lab" in found.origin) is measured
    if measured:
        assert found.flop >= 0 and found.token >= 0 and found.step >= 0
