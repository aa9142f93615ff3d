"""What a study costs: budgets as people type them, exact FLOPs, and a speed out of the lab's own
runs.
"""

import json
from pathlib import Path

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.train.run import create
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.dry_run.cost import (
    Budget,
    Cost,
    Speed,
    fit_cost,
    parse_budget,
    shape_of,
    speed_of,
)
from windtunnel.tunnel.scaling.scaling import LAPTOP_BATCH, Design, Size, lay_out

SPEED = Speed(1e-11, 2e-6, 0.01, "known")


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("1e14", 1e14, "FLOPs"),
        ("3.5e13", 3.5e13, "FLOPs"),
        ("2h", 2, "core-hours"),
        ("90min", 1.5, "core-hours"),
        ("20M", 2e7, "tokens"),
        ("1.5 B", 1.5e9, "tokens"),
    ],
)
def test_a_budget_is_flops_core_hours_or_tokens(text: str, amount: float, unit: str) -> None:
    assert (parse_budget(text).amount, parse_budget(text).unit) == (pytest.approx(amount), unit)


@pytest.mark.parametrize("text", ["", "much", "0", "-1e13", "1e13x", "1..2h", "h", "1e999", "10%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a budget"):
        parse_budget(text)


@pytest.mark.parametrize(("unit", "share"), [("FLOPs", 0.5), ("tokens", 2.0), ("core-hours", 1.0)])
def test_a_budget_covers_what_costs_no_more(unit: str, share: float) -> None:
    budget = Budget(100, unit)  # type: ignore[arg-type]
    assert budget.share(Cost(50, 200, 100)) == share
    assert budget.covers(Cost(50, 200, 100)) == (share <= 1)


def test_a_study_costs_its_stems_once_and_every_decay(corpus: Corpus) -> None:
    design = Design()
    chain, shapes = (
        lay_out(design, LAPTOP_BATCH),
        {size: shape_of(corpus, size) for size in design.sizes},
    )
    cost = fit_cost(design, chain, shapes, SPEED)
    assert cost.tokens == chain.trained * 7  # five sizes, two of them twice
    assert cost.flops == sum(shapes[size].flops * chain.trained for size, _ in design.stems)
    one = fit_cost(Design(sizes=(Size(16, 2),), seeds=1), chain, shapes, SPEED)
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
        lines = [
            {"tokens": (i + 1) * batch, "loss": 3.0, "lr": 0.01, "tokens_per_s": batch / seconds}
            for i in range(steps)
        ]
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(run.id)
    found = speed_of(tmp_path, {"runs": runs})
    assert (found.flop, found.token, found.step) == pytest.approx(
        (SPEED.flop, SPEED.token, SPEED.step), rel=1e-3
    )
    assert "lab" in found.origin
    assert speed_of(tmp_path, {"runs": runs[:5]}) == speed_of(tmp_path, None), "too few to tell"
