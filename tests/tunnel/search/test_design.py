"""What a search asks for: its trials, batch by batch, and its seeds."""

import pytest

from windtunnel.tunnel.search.design import Design


@pytest.mark.parametrize(
    ("trials", "batches"),
    [
        (2, [(0, 2)]),
        (4, [(0, 4)]),
        (5, [(0, 4), (4, 5)]),
        (7, [(0, 4), (4, 7)]),
        (8, [(0, 4), (4, 7), (7, 8)]),
        (10, [(0, 4), (4, 7), (7, 10)]),
    ],
)
def test_trials_are_asked_for_after_a_start_in_batches(
    trials: int, batches: list[tuple[int, int]]
) -> None:
    assert Design(trials=trials, start=4, batch_trials=3).batches() == batches


def test_the_seeds_of_the_choice_and_of_the_comparison_have_nothing_in_common() -> None:
    design = Design(seed=5, fresh_seeds=3)
    assert design.choosing == [6, 7, 8]
    assert design.comparing == [9, 10, 11]


def test_a_usual_search_is_of_a_third_of_random_points_and_66_runs() -> None:
    design = Design()
    runs = design.trials + design.candidates * len(design.choosing) + 2 * len(design.comparing)
    assert (runs, design.batches()[0]) == (66, (0, 16))
    assert [end - first for first, end in design.batches()[1:]] == [8, 8, 8, 8]
    assert (design.width, design.depth, design.batch, design.also) == (32, 3, 2048, ())
