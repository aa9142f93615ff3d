"""How many members train together: what is chosen from what was measured, and a measurement."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train.run import create
from windtunnel.train.speed import gains
from windtunnel.tunnel.fleet.populations import Book, best, share, told, worth_measuring

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
    assert best(measured) == members
    assert ("one at a time" if members == 1 else f"{members} members together") in told(measured)


@given(
    kin=st.integers(1, 300),
    workers=st.integers(1, 16),
    most=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
)
def test_a_share_leaves_no_worker_idle_and_is_never_too_large(
    kin: int, workers: int, most: int
) -> None:
    members = share(kin, workers, most)
    assert 1 <= members <= most and members & (members - 1) == 0
    assert members <= max(1, -(-kin // workers))


def test_shares_of_a_search() -> None:
    assert [share(24, 2, most) for most in (1, 4, 8, 16)] == [1, 4, 4, 8]
    assert share(8, 2, 16) == 4 and share(3, 1, 16) == 2 and share(64, 1, 64) == 64


def test_a_measurement_of_real_steps(recipe: Make) -> None:
    found = gains(recipe(), most=8)
    assert found[1] == 1.0 and set(found) in ({1, 8}, {1, 2, 8})
    assert all(0.2 < gain < 5 for gain in found.values())
    assert gains(recipe(), most=4, stop=lambda: True) == {1: 1.0}


def test_what_was_measured_is_found_again_for_the_same_shape_on_the_same_machine(
    tmp_path: Path, recipe: Make
) -> None:
    Book(tmp_path, "here").write(recipe(), {1: 1.0, 2: 1.5})
    assert Book(tmp_path, "here").find(recipe(seed=3, optimizer={"lr": 0.5})) == {1: 1.0, 2: 1.5}
    assert Book(tmp_path, "here").find(recipe(train={"batch": 256})) is None
    assert Book(tmp_path, "there").find(recipe()) is None


def test_a_measurement_is_for_much_work(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    short = [create(tmp_path, recipe(seed=seed), corpus) for seed in range(4)]
    long = [
        create(tmp_path, recipe(seed=seed, schedule={"tokens": "2G", "warmup": 512}), corpus)
        for seed in range(4)
    ]
    assert not worth_measuring(short, "cpu")
    assert worth_measuring(long, "cpu") and not worth_measuring(long[:1], "cpu")
