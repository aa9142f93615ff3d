"""A recipe and its TOML file are the same thing, and a fault in it is named in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.errors import InputError
from windtunnel.recipe import DECAY_SHAPES, PARAMETRIZATIONS, Recipe, dump, identity, load, parse

Make = Callable[..., Recipe]
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

shares = st.integers(1, 4000).map(lambda n: f"{n / 100}%")
mixtures = st.dictionaries(st.text("abc-.", min_size=1), st.floats(0.001, 1e6), max_size=3)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes of all kinds of shapes, lengths, mixtures and names."""
    kv_heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    heads, half = kv_heads * group, draw(st.integers(1, 32))  # RoPE turns the halves of a head
    context, mixture = draw(st.integers(1, 4096)), draw(mixtures)
    batch = context * draw(st.integers(1, 9))
    positions = sorted(draw(st.sets(st.integers(1, 10**12), max_size=3)))
    length = draw(st.one_of(shares, st.integers(0, 400)))
    values = {
        "name": draw(st.text(min_size=1, max_size=20)),
        "model": {
            "width": heads * half * 2,
            "heads": heads,
            "kv_heads": kv_heads,
            "depth": 2,
            "vocab": 300,
            "tied": draw(st.booleans()),
            "parametrization": draw(st.sampled_from(list(PARAMETRIZATIONS))),
        },
        "data": {
            "corpus": "c",
            "context": context,
            "mixture": mixture,
            "stages": [{"at": at, "mixture": mixture} for at in positions],
        },
        "optimizer": {"lr": draw(st.floats(1e-6, 10))},
        "schedule": {
            "tokens": batch * 1000,
            "warmup": length,
            "decay": length,
            "decay_shape": draw(st.sampled_from(list(DECAY_SHAPES))),
            "floor": 0.1,
        },
        "train": {"batch": batch, "branch_points": positions},
    }
    return parse(values, "generated")


@QUICK
@given(recipes())
def test_what_is_dumped_is_loaded_back(tmp_path: Path, made: Recipe) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(dump(made), encoding="utf-8")
    assert load(file) == made
    assert identity(load(file), "corpus") == identity(made, "corpus")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_that_come_with_it_load(file: Path) -> None:
    made = load(file)
    assert made.name == file.stem and made.total_tokens > 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": {"widht": 64}}, "model.widht: unknown key; did you mean 'width'"),
        ({"trian": {}}, "trian: unknown key; did you mean 'train'"),
        (
            {"data": {"stages": [{"at": 128, "mixtrue": {}}]}},
            "0.mixtrue: unknown key; did you mean 'mixture'",
        ),
        (
            {"schedule": {"decay_shape": "linaer"}},
            f"schedule.decay_shape: 'linaer': expected one of {', '.join(DECAY_SHAPES)}; "
            "did you mean 'linear'",
        ),
        (
            {"model": {"parametrization": "minicmp"}},
            f"model.parametrization: 'minicmp': expected one of {', '.join(PARAMETRIZATIONS)}; "
            "did you mean 'minicpm'",
        ),
        ({"model": {"depth": 0}}, "model.depth: .*greater than 0.*got 0"),
        ({"data": {"mixture": {"a": 0.0}}}, "data.mixture: all weights are zero"),
        (
            {"data": {"stages": [{"at": 128, "mixture": {"a": 0.0}}]}},
            "data.stages.0.mixture: all weights are zero",
        ),
        ({"data": {"mixture": {"a": float("inf")}}}, "data.mixture.a: .*finite"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr"),
        (
            {"data": {"stages": [{"at": 256, "mixture": {}}, {"at": 128, "mixture": {}}]}},
            "growing positions",
        ),
        ({"train": {"batch": 100}}, "train.batch=100 must be a multiple of data.context=32"),
        ({"train": {"micro_batch": 100}}, "train.micro_batch must be a multiple"),
        ({"schedule": {"tokens": 100, "warmup": 0}}, "less than one batch"),
        ({"schedule": {"decay": 0, "warmup": "2%"}}, "warmup of a stem .* must be in tokens"),
        ({"schedule": {"decay_shape": "exponential"}}, "needs half_life, or a floor"),
    ],
)
def test_a_fault_is_named(recipe: Make, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        recipe(**values)
    assert "\n" not in str(refused.value)


def test_a_misspelt_key_is_named_before_what_it_leaves_missing() -> None:
    with pytest.raises(InputError, match=r"model\.widht: unknown key; did you mean 'width'"):
        parse({"name": "a", "model": {"widht": 64}}, "here")


def test_settings_are_applied_as_toml_or_as_text(recipe: Make, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(dump(recipe()))
    made = load(
        file,
        [
            "schedule.tokens=12.8k",
            'name="x"',
            "model.tied=false",
            "data.mixture.prose=2",
            "seed = 4",
        ],
    )
    assert (made.total_tokens, made.name, made.model.tied, made.seed) == (12_800, "x", False, 4)
    assert made.data.mixture == {"prose": 2.0}


@pytest.mark.parametrize("asked", [1, 127, 128, 6399, 6400])
def test_lengths_are_whole_steps(recipe: Make, asked: int) -> None:
    made = recipe(schedule={"tokens": 6400 + asked, "decay": min(asked, 5000), "warmup": 0})
    assert made.total_tokens % 128 == 0 and 0 <= 6400 + asked - made.total_tokens < 128
    assert made.decay_tokens % 128 == 0 and made.decay_tokens >= 128 and not made.is_stem
