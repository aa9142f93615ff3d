"""The claims are shown where they hold and only there, and the intervals hold what they say."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from windtunnel.results.dynamics import Claim, DynamicsRow, SameBatch
from windtunnel.tunnel.dynamics.claims import (
    BLOCK,
    Phases,
    interval,
    judge,
    phases_of,
    same_batch,
    summary_of,
)


def phases(rng: np.random.Generator, follows: bool) -> Phases:
    """300 stable steps and 300 of a decay to a tenth: either all that the paper says, or nothing
    of it.
    """
    lr = np.concatenate([np.ones(300), 0.1 ** np.linspace(0, 1, 300)])
    fall = lr if follows else np.ones(600)
    noise = np.exp(0.3 * rng.normal(size=(600, 5)))
    rows = [
        DynamicsRow(
            params=1,
            params_total=1,
            tokens=i + 1,
            seed=0,
            kind="step",
            lr=lr[i],
            max_change=fall[i] * noise[i, 0],
            step_norm=1.0,
            grad_norm=fall[i] ** 0.2 * noise[i, 1],
            max_gradient=1.0,
            inner_product=0.0,
            cosine=rng.normal() + 2 * (1 - fall[i]),
            d1=-fall[i] * noise[i, 2],
            d2=fall[i] ** -0.2 * noise[i, 3],
            curvature=noise[i, 4] / fall[i],
            d2_same_batch=1.0,
        )
        for i in range(600)
    ]
    return phases_of(rows, decay_begins=300)


def test_claims_are_shown_where_they_hold_and_only_there(rng: np.random.Generator) -> None:
    shown = {claim.name: claim for claim in judge(phases(rng, follows=True))}
    assert all(claim.shown for claim in shown.values()), shown
    value, low, high = shown["weight change"].effect
    assert low < 1 < high and 0.9 < value < 1.1
    value, low, high = shown["curvature"].effect
    assert low < 6.9 < high, "the mean of 1 / lr over the last third of the decay"
    by_chance = [claim.shown for _ in range(5) for claim in judge(phases(rng, follows=False))]
    assert sum(by_chance) <= 3, "of 30; one-sided, an interval of 95% errs once in 40"


def test_a_bare_majority_of_few_steps_shows_no_cosine_above_zero(
    rng: np.random.Generator,
) -> None:
    """Six of ten, after none: more than before, but what holds the half shows no majority."""
    stable, decay, _ = phases(rng, follows=True)
    before = [row.model_copy(update={"cosine": -1.0}) for row in stable]
    signs = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    end = [
        row.model_copy(update={"cosine": sign}) for row, sign in zip(decay, signs * 2, strict=False)
    ]
    found = {claim.name: claim for claim in judge(Phases(before, decay, end))}["cosine > 0"]
    assert found.decay[0] == 0.6 and found.effect[1] > 0
    assert (found.decay[1] > 0.5) == found.shown
    all_of_them = [row.model_copy(update={"cosine": 1.0}) for row in end]
    sure = {claim.name: claim for claim in judge(Phases(before, decay, all_of_them))}
    assert sure["cosine > 0"].shown


def test_the_interval_holds_the_mean_of_what_is_alike_from_step_to_step(
    rng: np.random.Generator,
) -> None:
    """At about its 95%, for stretches of 5 steps that share their noise; one without blocks would
    hold it in 60%.
    """
    held = 0
    for _ in range(60):
        _, low, high = interval(
            lambda sample: float(sample.mean()), np.repeat(rng.normal(size=60), 5)
        )
        held += low < 0 < high
    assert held >= 51


def step(tokens: int = 1, **columns: Any) -> DynamicsRow:
    """A step in which nothing happens but what `columns` say."""
    usual: dict[str, Any] = dict.fromkeys(
        ("max_change", "step_norm", "grad_norm", "max_gradient", "inner_product", "cosine"), 1.0
    )
    usual |= dict.fromkeys(("d1", "d2", "curvature", "d2_same_batch", "lr"), 1.0)
    return DynamicsRow(
        params=1, params_total=1, tokens=tokens, seed=0, kind="step", **usual | columns
    )


def claims(stable: Sequence[DynamicsRow], decay: Sequence[DynamicsRow]) -> dict[str, Claim]:
    """Of phases whose decay is its end, by name."""
    return {claim.name: claim for claim in judge(Phases(stable, decay, decay))}


def test_the_stable_phase_is_as_long_as_the_decay_and_its_end_a_third() -> None:
    """The decay begins after token 60; a step at that token was trained before it."""
    rows = [step(tokens) for tokens in range(10, 121, 10)]
    found = phases_of(rows, decay_begins=60)
    assert [row.tokens for row in found.decay] == [70, 80, 90, 100, 110, 120]
    assert [row.tokens for row in found.stable] == [10, 20, 30, 40, 50, 60]
    assert [row.tokens for row in found.end] == [110, 120]
    later = phases_of(rows, decay_begins=80)
    assert [row.tokens for row in later.stable] == [50, 60, 70, 80]
    assert [row.tokens for row in later.end] == [120]


STEPS = 60  # the fewest that a phase may have
RATES = np.geomspace(1, 0.1, STEPS)


@pytest.mark.parametrize(
    ("power", "shown", "other", "other_shown"),
    [(0.74, False, 0.76, True), (1.24, True, 1.26, False)],
)
def test_what_follows_the_rate_grows_with_a_power_of_it_near_one(
    power: float, shown: bool, other: float, other_shown: bool
) -> None:
    """|D1| with its sign turned: it is the size that counts."""
    decay = [step(lr=lr, max_change=3 * lr**power, d1=-2 * lr**other) for lr in RATES]
    found = claims([step(max_change=3.0, d1=-2.0)] * STEPS, decay)
    for name, wanted, is_shown in (
        ("weight change", power, shown),
        ("|D1|", other, other_shown),
    ):
        assert found[name].effect == pytest.approx((wanted,) * 3, rel=1e-3)
        assert found[name].shown is is_shown and found[name].effect_is == "power of the rate"
    assert found["|D1|"].stable == (2.0, 2.0, 2.0)
    assert found["|D1|"].decay[0] == pytest.approx(np.mean(2 * RATES**other), rel=1e-3)


@pytest.mark.parametrize(
    ("norm", "d2", "curvature", "shown"),
    [(0.999, -1.001, 1.001, True), (1.0, 1.0, 1.0, False), (1.001, 0.999, 0.999, False)],
)
def test_a_size_rises_or_falls_where_the_ratio_of_its_means_does(
    norm: float, d2: float, curvature: float, shown: bool
) -> None:
    decay = [step(lr=lr, grad_norm=norm, d2=d2, curvature=curvature) for lr in RATES]
    found = claims([step()] * STEPS, decay)
    for name, after in (("gradient norm", norm), ("|D2|", -d2 if shown else d2)):
        assert found[name].effect == (after,) * 3 == found[name].decay
    for name in ("gradient norm", "|D2|", "curvature"):
        assert found[name].shown is shown and found[name].effect_is == "ratio"
        assert found[name].stable == (1.0, 1.0, 1.0)


def test_a_ratio_is_of_the_means_and_not_a_mean_of_ratios() -> None:
    before, after = [1.0, 3.0] * 30, [2.0, 10.0] * 30
    stable = [step(grad_norm=norm, d2_same_batch=-norm) for norm in before]
    decay = [
        step(lr=lr, grad_norm=norm, d2_same_batch=norm)
        for lr, norm in zip(RATES, after, strict=True)
    ]
    found = claims(stable, decay)["gradient norm"]
    assert (found.stable[0], found.decay[0], found.effect[0]) == (2.0, 6.0, 3.0)
    told = same_batch(Phases(stable, decay, decay))
    assert (told.stable[0], told.decay[0], told.ratio[0]) == (-2.0, 6.0, -3.0)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(0.0, 1.0, True), (1.0, 1.0, False), (0.0, -1.0, False), (-1.0, 0.0, False)],
)
def test_the_cosine_must_turn_positive_and_mostly(before: float, after: float, shown: bool) -> None:
    """A cosine of zero is not above zero."""
    decay = [step(lr=lr, cosine=after) for lr in RATES]
    found = claims([step(cosine=before)] * STEPS, decay)["cosine > 0"]
    share, turned = float(after > 0), float(after > 0) - float(before > 0)
    assert found.decay == (share,) * 3 and found.effect == (turned,) * 3
    assert found.shown is shown and found.effect_is == "difference"


def test_an_interval_of_independent_steps_is_that_of_their_mean(rng: np.random.Generator) -> None:
    """95% of a normal mean lie within 1.96 standard errors."""
    sample = rng.normal(10, 2, 2000)
    value, low, high = interval(lambda values: float(values.mean()), sample)
    assert value == pytest.approx(sample.mean(), rel=1e-3)
    reach = 1.96 * sample.std() / math.sqrt(2000)
    assert (value - low, high - value) == pytest.approx((reach, reach), rel=0.15)


def test_blocks_hold_ten_neighbours_and_go_round_the_end() -> None:
    """A draw of 25 steps is two blocks and a half; every step may begin one."""
    drawn: list[np.ndarray] = []

    def keep(sample: np.ndarray) -> float:
        drawn.append(sample)
        return 0.0

    interval(keep, np.arange(25))
    *draws, itself = drawn
    assert len(draws) == 1000 and itself.tolist() == list(range(25))
    assert BLOCK == 10
    begun = set()
    for sample in draws:
        assert len(sample) == 25
        for first in (0, 10, 20):
            block = sample[first : first + 10]
            assert ((np.diff(block) == 1) | (np.diff(block) == -24)).all()
            begun.add(int(block[0]))
    assert begun == set(range(25))
    short: list[np.ndarray] = []
    interval(lambda sample: float(short.append(sample) or 0.0), np.arange(4))
    assert all(len(sample) == 4 for sample in short), "shorter than a block"


def test_numbers_of_a_claim_have_four_digits() -> None:
    value, low, high = interval(lambda sample: float(sample.mean()), np.full(20, 1.23456789))
    assert (value, low, high) == (1.235, 1.235, 1.235)


def test_the_summary_tells_what_is_shown_from_what_is_not() -> None:
    shown, other = (
        Claim(
            name=name,
            says="it does",
            stable=(1.0, 1.0, 1.0),
            decay=(2.0, 2.0, 2.0),
            effect=(2.0, 1.5, 2.5),
            effect_is="ratio",
            shown=is_shown,
        )
        for name, is_shown in (("first", True), ("second", False))
    )
    ratio = SameBatch(stable=(1.0, 1.0, 1.0), decay=(3.0, 3.0, 3.0), ratio=(3.0, 2.0, 4.0))
    said = summary_of([shown, other], ratio)
    assert "this run shows: first (ratio 2 [1.5, 2.5]); it does not show: second (" in said
    assert "the ratio of D2 is 3 [2, 4]" in said
    assert "does not show: none" in summary_of([shown], ratio)
