"""The batch and the rate of a plan, from studies, tables and published runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plan_labs import (
    CHINCHILLA,
    table_of,
)

from windtunnel.laws import laptop
from windtunnel.laws.rate import constant_rate
from windtunnel.plan.evidence import Evidence, StudiedRateLaw, from_table
from windtunnel.plan.settings import PlannedRun, batch_for, rate_for
from windtunnel.scaling_recipe import PAPER_RATE, BatchRule, RateRule


def rate_of(evidence: Evidence, params: float) -> float:
    """For a run of a million tokens."""
    return rate_for(evidence, PlannedRun(4.5, 1e6, params), 512).lr


def test_of_many_runs_of_a_cell_the_best_counts(tmp_path: Path) -> None:
    rows = ["params,tokens,loss,lr,batch"]
    for n in (1e6, 4e6, 16e6):
        for d in (1e8, 4e8, 16e8):
            for off in (0, 1, 2):
                loss = CHINCHILLA.at(n, d) + 0.01 * off
                rows.append(f"{n},{d},{loss},{1.0 / n**0.3 * 2**off},{int(d**0.6) * 2**off}")
    (tmp_path / "grid.csv").write_text("\n".join(rows))
    found = from_table(tmp_path / "grid.csv")
    assert len(found.points) == 9
    assert rate_of(found, 64e6) == pytest.approx(64e6**-0.3, rel=0.01)
    batch = batch_for(found, PlannedRun(3.0, 64e8, 64e6))
    assert batch.batch == pytest.approx(64e8**0.6, rel=0.02) and batch.inside
    assert batch.interval and batch.interval[0] < batch.batch < batch.interval[1]


def test_without_a_batch_study_the_law_that_the_runs_kept_to_says_the_batch(
    evidence: Evidence,
) -> None:
    found = batch_for(evidence, PlannedRun(4.5, 1.6e6, 5e4))
    assert found.batch == pytest.approx(2 * 1.6e6**0.5)
    assert found.inside and not batch_for(evidence, PlannedRun(4.5, 4e6, 5e4)).inside
    assert found.interval, "the laptop's law has one"


def test_the_rate_is_that_of_the_runs_and_the_papers_where_a_table_says_none(
    evidence: Evidence, tmp_path: Path
) -> None:
    assert rate_of(evidence, 1e5) == 0.01
    file = table_of(tmp_path / "table.csv", lr=0.02)
    assert rate_of(from_table(file), 1e5) == 0.02
    file.write_text(file.read_text().replace(",lr", ",rate"))
    found = rate_for(from_table(file), PlannedRun(4.5, 1e6, 1e5), 512)
    assert found.lr == PAPER_RATE and "section 3.3" in found.provenance.how


def test_the_interval_of_a_batch_is_that_of_points_with_their_errors(tmp_path: Path) -> None:
    """Three lengths a factor of two apart: in the middle the law is their mean, and its error that
    of a point over the root of three.
    """
    found = from_table(table_of(tmp_path / "table.csv", batch=""))
    batch = batch_for(found, PlannedRun(4.45, 1.6e6, 79_824.0))
    assert batch.interval
    low, high = batch.interval
    assert math.log(high / low) == pytest.approx(2 * 1.645 * 0.2 / 3**0.5, rel=0.1)
    assert low * high == pytest.approx(batch.batch**2, rel=0.1)


@pytest.mark.parametrize(
    ("tokens", "inside"), [(0.19e6, False), (0.2e6, True), (12.8e6, True), (12.9e6, False)]
)
def test_a_law_of_the_batch_holds_to_four_times_its_points(
    tokens: float, inside: bool, tmp_path: Path
) -> None:
    found = from_table(table_of(tmp_path / "table.csv", batch=""))
    assert batch_for(found, PlannedRun(4.5, tokens, 8e4)).inside == inside


@pytest.mark.parametrize(
    ("tokens", "inside"), [(12_400, False), (12_500, True), (3.2e6, True), (3.3e6, False)]
)
def test_a_table_of_one_batch_gives_that_batch(tokens: float, inside: bool, tmp_path: Path) -> None:
    found = batch_for(from_table(table_of(tmp_path / "table.csv")), PlannedRun(4.5, tokens, 8e4))
    assert (round(found.batch), found.interval, found.inside) == (256, None, inside)


def test_another_law_that_runs_kept_to_has_no_interval(evidence: Evidence) -> None:
    assert evidence.recipe and evidence.recipe.batch.origin == laptop.ORIGIN
    law = evidence.recipe.batch.by_tokens
    other = replace(evidence, recipe=replace(evidence.recipe, batch=BatchRule(law, "x")))
    longest = evidence.points.tokens.max()
    found = batch_for(other, PlannedRun(4.5, 4 * longest, 5e4))
    assert found.interval is None and found.inside and found.batch == law.predict(4 * longest)
    assert not batch_for(other, PlannedRun(4.5, 4.1 * longest, 5e4)).inside


def test_the_rate_is_by_the_recipe_that_the_runs_were_trained_by(evidence: Evidence) -> None:
    assert evidence.recipe
    law = replace(constant_rate(0.02), tokens=1e6, by_tokens=-0.3, batch=512.0, by_batch=0.5)
    kept = replace(evidence.recipe, rate=RateRule(law, "the lab's transfer study"))
    found = rate_for(replace(evidence, recipe=kept), PlannedRun(4.5, 8e6, 1e5), 2048)
    assert found.lr == pytest.approx(0.02 * 8**-0.3 * 2, rel=5e-3)
    assert "(the lab's transfer study)" in found.provenance.how and not found.beside


def test_a_rate_is_held_where_no_larger_batch_was_measured(evidence: Evidence) -> None:
    assert evidence.recipe
    law = replace(constant_rate(0.02), batch=512.0, by_batch=0.5, largest_batch=1024.0)
    kept = replace(evidence.recipe, rate=RateRule(law, "the lab's transfer study"))
    known = replace(evidence, recipe=kept, rate_law=StudiedRateLaw(law=law, runs=("t1",)))
    run = PlannedRun(4.5, 8e6, 1e5)
    within, beyond = rate_for(known, run, 1024), rate_for(known, run, 4096)
    assert within.held_at is None and beyond.held_at == 1024
    assert within.lr == beyond.lr == pytest.approx(0.0283, rel=5e-3)
    assert beyond.beside[0].lr == pytest.approx(beyond.lr, rel=5e-3)
    assert "held at that of 1.02k tokens a step" in beyond.provenance.how


def test_what_the_transfer_study_found_stands_beside(evidence: Evidence) -> None:
    law = replace(constant_rate(0.02), tokens=1e6, by_tokens=-0.3)
    known = replace(evidence, rate_law=StudiedRateLaw(law=law, runs=("t1",)))
    (beside,) = rate_for(known, PlannedRun(4.5, 8e6, 1e5), 512).beside
    assert beside.lr == pytest.approx(0.02 * 8**-0.3) and beside.runs == ("t1",)
    assert beside.interval == pytest.approx((beside.lr, beside.lr))


def test_rates_that_differ_are_a_line_in_logarithms_or_their_mean(evidence: Evidence) -> None:
    evidence = replace(evidence, recipe=None)
    two = replace(evidence, rates=((1e6, 0.01), (4e6, 0.04)))
    assert rate_of(two, 64e6) == 0.02, "two sizes tell no power: their geometric mean"
    three = replace(evidence, rates=tuple((n, 3 * n**-0.3) for n in (1e6, 4e6, 16e6)))
    assert rate_of(three, 64e6) == pytest.approx(3 * 64e6**-0.3, rel=5e-3)
    bits = replace(evidence, rates=((1e6, 0.01), (4e6, float(np.nextafter(0.01, 1)))))
    assert rate_of(bits, 1e9) == 0.01


def test_without_a_column_batch_small_runs_take_the_laptops_law_and_large_ones_published_runs(
    tmp_path: Path,
) -> None:
    found = from_table(table_of(tmp_path / "table.csv", batch=""))
    small = batch_for(found, PlannedRun(4.5, 1.6e6, 8e4))
    assert 1000 < small.batch < 4000 and small.interval and small.inside
    large = batch_for(found, PlannedRun(2.0, 1e10, 1e9))
    assert large.batch == pytest.approx(0.58 * 1e10**0.571) and large.interval is None
    assert batch_for(found, PlannedRun(2.0, 1e9, 1e8)).interval is None
    assert large.inside and "2503.04715" in large.provenance.how
    assert not batch_for(found, PlannedRun(2.0, 1e12, 1e9)).inside
