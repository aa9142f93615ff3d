"""How many members train together: what is chosen from what was measured, and a measurement."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import flops_per_token
from windtunnel.recipe import Recipe
from windtunnel.results.populations import Populations
from windtunnel.train.run import create
from windtunnel.train.speed import speedups
from windtunnel.tunnel.fleet.populations import (
    described,
    fastest,
    population_size,
    shape_name,
    worth_measuring,
)

Make = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("measured", "members"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 1.1}, 1),
        ({1: 1.0, 2: 1.3, 4: 1.25}, 2),
        ({1: 1.0, 2: 1.9, 4: 3.6, 8: 6.0}, 8),
    ],
)
def test_the_fastest_is_chosen_where_it_is_clearly_faster(
    measured: dict[int, float], members: int
) -> None:
    assert fastest(measured) == members
    how = "one run at a time" if members == 1 else f"{members} members together"
    assert how in described(measured)


@given(
    waiting=st.integers(1, 300),
    workers=st.integers(1, 16),
    most=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
)
def test_a_population_leaves_no_worker_idle_and_is_never_too_large(
    waiting: int, workers: int, most: int
) -> None:
    members = population_size(waiting, workers, most)
    assert 1 <= members <= most and members & (members - 1) == 0
    assert members <= max(1, -(-waiting // workers))


def test_the_populations_of_a_search() -> None:
    assert [population_size(24, 2, most) for most in (1, 4, 8, 16)] == [1, 4, 4, 8]
    assert (
        population_size(8, 2, 16) == 4
        and population_size(3, 1, 16) == 2
        and population_size(64, 1, 64) == 64
    )


def test_a_measurement_of_real_steps(recipe: Make) -> None:
    found = speedups(recipe(), most=8)
    assert found[1] == 1.0 and set(found) in ({1, 8}, {1, 2, 8})
    assert all(0.2 < speedup < 5 for speedup in found.values())
    assert speedups(recipe(), most=4, stop=lambda: True) == {1: 1.0}


def test_what_was_measured_is_found_again_for_the_same_shape_on_the_same_machine(
    tmp_path: Path, recipe: Make
) -> None:
    Populations.of(tmp_path).write_with(tmp_path, "here", shape_name(recipe()), {1: 1.0, 2: 1.5})
    Populations.of(tmp_path).write_with(tmp_path, "here", "another", {1: 1.0})
    known = Populations.of(tmp_path)
    other_seed = recipe(seed=3, optimizer={"lr": 0.5})
    assert known.find("here", shape_name(other_seed)) == {1: 1.0, 2: 1.5}
    assert known.find("here", shape_name(recipe(train={"batch": 256}))) is None
    assert known.find("there", shape_name(recipe())) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "populations.json").write_text('{"here": {"32x2": {"two": 1.5}}}')
    with pytest.raises(InputError, match=r"populations\.json: here\.32x2"):
        Populations.of(tmp_path)


def test_a_measurement_is_for_much_work(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    short = [create(tmp_path, recipe(seed=seed), corpus) for seed in range(4)]
    long = [
        create(tmp_path, recipe(seed=seed, schedule={"tokens": "2G", "warmup": 512}), corpus)
        for seed in range(4)
    ]
    assert not worth_measuring(short, "cpu")
    assert worth_measuring(long, "cpu") and not worth_measuring(long[:1], "cpu")


def test_of_a_branch_only_what_lies_behind_its_stem_is_left(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    branches = []
    for seed in range(4):
        whole = recipe(seed=seed, schedule={"tokens": "2G", "warmup": 512})
        run = create(tmp_path, whole, corpus)
        branches.append(replace(run, at_tokens=whole.total_tokens - 128_000))
    assert not worth_measuring(branches, "cpu")


def test_only_what_is_fifteen_hundredths_faster_is_worth_it() -> None:
    assert fastest({1: 1.0, 4: 1.15}) == 4
    assert fastest({1: 1.0, 4: 1.149}) == 1
    assert fastest({1: 1.0, 2: 1.4, 4: 1.4}) == 2, "the fewer of equals"


@pytest.mark.parametrize(
    ("waiting", "workers", "most", "members"),
    [
        (1, 2, 8, 1),
        (2, 2, 8, 1),
        (3, 2, 8, 2),
        (7, 2, 8, 4),
        (8, 2, 4, 4),
        (9, 2, 4, 2),  # two rounds of both, of three each
        (17, 1, 16, 8),
        (16, 1, 16, 16),
    ],
)
def test_workers_come_to_their_end_together(
    waiting: int, workers: int, most: int, members: int
) -> None:
    assert population_size(waiting, workers, most) == members


def test_what_was_measured_is_said() -> None:
    assert described({1: 1.0, 2: 1.25, 4: 1.754}) == (
        "each worker trains 4 members together (times as fast as one after the other: 2 together "
        "1.25, 4 together 1.75)"
    )
    assert described({1: 1.0}) == (
        "each worker trains one run at a time (times as fast as one after the other: no number was "
        "tried)"
    )


def test_what_is_left_counts_and_not_what_was_trained(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """On a processor 4e12 FLOPs, at a bound that one token more reaches."""
    runs = [
        create(tmp_path, recipe(seed=seed, schedule={"tokens": "2G", "warmup": 512}), corpus)
        for seed in range(2)
    ]
    each = flops_per_token(runs[0].recipe.model, runs[0].recipe.data.context)
    total = runs[0].recipe.total_tokens
    enough = -(-(4 * 10**12) // each)  # tokens
    runs[0].write_status("interrupted", total)
    for left, worth in ((enough, True), (enough - 1, False)):
        runs[1].write_status("interrupted", total - left)
        assert worth_measuring(runs, "cpu") is worth
    assert not worth_measuring(runs, "mps") and not worth_measuring(runs, "cuda")
    runs[0].write_status("interrupted", 0)
    runs[1].write_status("interrupted", 0)
    assert each * 2 * total > 2e13 and worth_measuring(runs, "mps")


def test_a_shape_is_named_by_all_that_a_measurement_depends_on(recipe: Make) -> None:
    assert shape_name(recipe()) == (
        "32x2, heads 2/2 of 16, ffn 80, vocabulary 320, tied, context 32, batch 128, fp32, compile "
        "False"
    )
    experts = recipe(model={"experts": 4, "experts_per_token": 2, "tied": False})
    assert "vocabulary 320, 2 of 4 experts, untied, context" in shape_name(experts)
