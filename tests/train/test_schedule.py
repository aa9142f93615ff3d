"""The rate at every position is that of the paper's equations, whatever the lengths."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windtunnel.errors import InputError
from windtunnel.recipe import DECAY_SHAPES, DecayShape, Recipe, dump, load, parse
from windtunnel.recipe.decay import to_the_floor
from windtunnel.train.schedule import rate, rate_at

bounded = settings(max_examples=50, deadline=None)
BATCH = 128
shapes = st.sampled_from(list(DECAY_SHAPES))
floors = st.floats(0.01, 0.9)
shares = st.floats(0, 1)


def make(**schedule: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "schedule",
        "model": {"width": 32, "depth": 2, "heads": 2, "vocab": 320},
        "data": {"corpus": "none", "context": 32},
        "schedule": {"warmup": 0} | schedule,
        "train": {"batch": BATCH},
    }
    return parse(values, "the test's recipe")


@st.composite
def decaying(draw: st.DrawFn, shape: st.SearchStrategy[str] = shapes) -> Recipe:
    """Warm-up, a stable phase of some steps, and a decay to a floor; all of any length, not only
    of whole steps.
    """
    warmup, stable = draw(st.integers(0, 20_000)), draw(st.integers(4 * BATCH, 50_000))
    decay = draw(st.integers(2 * BATCH, 50_000))
    lengths = {"tokens": warmup + stable + decay, "warmup": warmup, "decay": decay}
    return make(**lengths, decay_shape=draw(shape), floor=draw(floors))


@st.composite
def any_schedule(draw: st.DrawFn) -> Recipe:
    kind = draw(st.sampled_from(("wsd", "stem", "cosine")))
    if kind == "wsd":
        return draw(decaying())
    tokens, warmup = draw(st.integers(BATCH, 100_000)), draw(shares)
    whole = tokens - tokens % BATCH
    if kind == "cosine":
        return make(
            kind="cosine", tokens=tokens, warmup=int(warmup * whole), decay=0, floor=draw(floors)
        )
    return make(tokens=tokens, warmup=int(warmup * whole), decay=0)


def decay_begins(recipe: Recipe) -> int:
    return recipe.total_tokens - recipe.decay_tokens


@bounded
@given(any_schedule(), shares)
def test_the_rate_is_a_share_of_the_peak(recipe: Recipe, where: float) -> None:
    assert 0 <= rate_at(recipe, where * recipe.total_tokens) <= 1


@bounded
@given(any_schedule(), st.floats(0, 1, exclude_max=True))
def test_the_warm_up_is_linear(recipe: Recipe, done: float) -> None:
    assume(recipe.warmup_tokens > 0)
    assert rate_at(recipe, done * recipe.warmup_tokens) == pytest.approx(done, abs=1e-12)


@bounded
@given(decaying(), shares)
def test_between_warm_up_and_decay_the_rate_is_exactly_the_peak(
    recipe: Recipe, where: float
) -> None:
    warm, decay = recipe.warmup_tokens, decay_begins(recipe)
    assert rate_at(recipe, warm + where * (decay - warm)) == 1.0
    assert rate_at(recipe, warm) == rate_at(recipe, decay) == 1.0


@bounded
@given(st.integers(BATCH, 10**9), st.integers(0, 10**9))
def test_a_stem_never_decays(tokens: int, beyond: int) -> None:
    assert rate_at(make(tokens=tokens, decay=0), tokens + beyond) == 1.0


@bounded
@given(decaying())
def test_the_decay_begins_where_the_stable_phase_is(recipe: Recipe) -> None:
    just_after = decay_begins(recipe) + 1e-9 * recipe.decay_tokens
    assert rate_at(recipe, just_after) == pytest.approx(1.0, abs=1e-4)


@bounded
@given(st.integers(0, 3 * BATCH), st.integers(1, 3 * BATCH), st.integers(BATCH, 6 * BATCH))
def test_a_short_run_rises_to_its_peak_and_falls_from_it_without_a_jump(
    warmup: int, decay: int, tokens: int
) -> None:
    assume(warmup + decay <= tokens)
    try:
        recipe = make(tokens=tokens, warmup=warmup, decay=decay)
    except InputError:
        return  # it may also be refused
    rates = [rate_at(recipe, position) for position in range(recipe.total_tokens + 1)]
    steepest = 1 / min(recipe.decay_tokens, recipe.warmup_tokens or recipe.decay_tokens)
    assert max(abs(a - b) for a, b in pairwise(rates)) <= steepest + 1e-9


@bounded
@given(decaying(), st.lists(shares, min_size=2, max_size=10))
def test_the_decay_only_falls(recipe: Recipe, places: list[float]) -> None:
    rates = [
        rate_at(recipe, decay_begins(recipe) + p * recipe.decay_tokens) for p in sorted(places)
    ]
    assert rates == sorted(rates, reverse=True)


@bounded
@given(decaying())
def test_every_shape_ends_at_its_floor(recipe: Recipe) -> None:
    assert rate_at(recipe, recipe.total_tokens) == pytest.approx(recipe.schedule.floor, rel=1e-9)


@pytest.mark.parametrize("shape", [name for name, shape in DECAY_SHAPES.items() if not shape.floor])
def test_a_floor_of_zero_is_reached(shape: str) -> None:
    assert rate_at(make(tokens=6400, decay=1280, decay_shape=shape), 6400) == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize(
    ("shape", "half_way"),
    [
        ("linear", 0.5),
        ("cosine", 0.5),
        ("1-sqrt", 1 - math.sqrt(0.5)),
        ("sqrt", math.sqrt(0.5)),
        ("exponential", 0.1),
    ],
)
def test_half_way_each_shape_is_where_its_formula_says(shape: str, half_way: float) -> None:
    floor = 0.01 if shape == "exponential" else 0.2
    expected = half_way if shape == "exponential" else 0.2 + 0.8 * half_way
    recipe = make(tokens=6400, decay=1280, decay_shape=shape, floor=floor)
    assert rate_at(recipe, 6400 - 640) == pytest.approx(expected, rel=1e-12)


@bounded
@given(st.integers(100, 10_000), st.integers(1, 20))
def test_with_a_half_life_the_decay_halves_every_time_it_passes(
    half_life: int, halvings: int
) -> None:
    recipe = make(tokens=10**6, decay="50%", decay_shape="exponential", half_life=half_life)
    begin = decay_begins(recipe)
    assert rate_at(recipe, begin + halvings * half_life) == pytest.approx(0.5**halvings, rel=1e-12)
    assert rate_at(recipe, begin + half_life / 2) == pytest.approx(0.5**0.5, rel=1e-12)


@bounded
@given(decaying(shape=st.just("exponential")), shares)
def test_without_a_half_life_the_exponential_is_a_straight_line_of_logarithms_to_the_floor(
    recipe: Recipe, done: float
) -> None:
    position = decay_begins(recipe) + done * recipe.decay_tokens
    assert math.log(rate_at(recipe, position)) == pytest.approx(
        done * math.log(recipe.schedule.floor), abs=1e-9
    )


@bounded
@given(st.integers(BATCH, 10**6), st.floats(0, 0.9))
def test_a_cosine_ends_at_its_floor_and_is_half_way_at_the_middle(
    tokens: int, floor: float
) -> None:
    """The paper's formula as printed would end a floor of 0.1 at -0.8."""
    recipe = make(tokens=tokens, kind="cosine", decay=0, floor=floor)
    assert rate_at(recipe, 0) == 1.0
    assert rate_at(recipe, recipe.total_tokens / 2) == pytest.approx((1 + floor) / 2, rel=1e-9)
    assert rate_at(recipe, recipe.total_tokens) == pytest.approx(floor, abs=1e-12)


@bounded
@given(any_schedule(), st.integers(0, 500))
def test_a_step_takes_the_rate_at_its_middle(recipe: Recipe, step: int) -> None:
    assume(step * BATCH < recipe.total_tokens)
    assert rate(recipe, step * BATCH, BATCH) == rate_at(recipe, (step + 0.5) * BATCH)


@bounded
@given(decaying())
def test_no_step_of_a_run_has_a_rate_of_zero(recipe: Recipe) -> None:
    to_zero = recipe.change(schedule={"decay_shape": "linear", "floor": 0.0})
    assert all(
        rate(to_zero, position, BATCH) > 0 for position in range(0, to_zero.total_tokens, BATCH)
    )


@bounded
@given(st.integers(0, 5000), st.integers(60, 2000), shares, st.integers(1, 100_000), shapes)
def test_a_branch_has_the_rate_of_its_stem_up_to_the_branch_point(
    warmup: int, steps: int, where: float, decay: int, shape: str
) -> None:
    stem = make(tokens=steps * BATCH, warmup=warmup, decay=0)
    at = stem.whole_steps(warmup + round(where * (stem.total_tokens - warmup)))
    assume(at >= warmup)
    changed = {"tokens": at + max(BATCH, stem.whole_steps(decay)), "warmup": stem.warmup_tokens}
    changed |= {
        "decay": max(BATCH, stem.whole_steps(decay)),
        "decay_shape": shape,
        "floor": 0.1,
        "half_life": 0,
    }
    branch = stem.change(schedule=changed)
    assert decay_begins(branch) == at
    for position in range(0, at, BATCH):
        assert rate(branch, position, BATCH) == rate(stem, position, BATCH)
    assert rate(branch, at, BATCH) < 1


def test_the_rate_of_a_stem_does_not_depend_on_its_length(stem: Callable[..., Recipe]) -> None:
    short, long = stem(6400), stem(64_000)
    assert [rate(short, p, BATCH) for p in range(0, 6400, BATCH)] == [
        rate(long, p, BATCH) for p in range(0, 6400, BATCH)
    ]


def test_an_added_shape_is_known_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One record is enough: recipes take it, and the schedule falls as it says."""
    late = DecayShape("late", "the square of the done part", to_the_floor(lambda x: 1 - x * x))
    monkeypatch.setitem(DECAY_SHAPES, late.name, late)
    made = make(tokens=6400, decay=1280, decay_shape="late", floor=0.2)
    assert rate_at(made, 6400 - 640) == pytest.approx(0.2 + 0.8 * 0.75, rel=1e-12)
    assert rate_at(made, 6400) == pytest.approx(0.2, rel=1e-12)
    file = tmp_path / "recipe.toml"
    file.write_text(dump(made))
    assert load(file) == made
    with pytest.raises(InputError, match=r"'lat': expected one of .*, late; did you mean 'late'"):
        make(tokens=6400, decay=1280, decay_shape="lat")


def test_every_shape_says_what_it_is() -> None:
    for name, shape in DECAY_SHAPES.items():
        assert shape.name == name and shape.help and not shape.help.endswith(".")
