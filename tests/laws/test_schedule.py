"""What a law of annealing needs of a schedule: areas, changes of the rate, distances and delays;
and schedules that are none.
"""

import numpy as np
import pytest

from windtunnel.laws.schedule import Curve, Schedule, terms_of

# Two steps of 10 at a rate of 4, one of 20 at 1, and one of 10 at 9.
RUN = Schedule(np.array([10.0, 20.0, 40.0, 50.0]), np.array([4.0, 4.0, 1.0, 9.0]))


def test_the_area_is_straight_within_a_step() -> None:
    at = [0, 5, 20, 30, 50]
    assert RUN.area(at) == pytest.approx([0, 20, 80, 90, 190])
    assert RUN.area(at, power=0.5) == pytest.approx([0, 10, 40, 50, 90])
    assert RUN.area([]).size == 0


def test_positions_outside_of_a_schedule_are_refused() -> None:
    assert float(RUN.area(50 * (1 + 1e-12))) == pytest.approx(190), "rounding is no error"
    for outside in (-1.0, 50.001):
        with pytest.raises(ValueError, match="expected 0 to 50"):
            RUN.area([10.0, outside])


def test_a_schedule_is_cut_and_goes_on() -> None:
    cut = RUN.until(25)
    assert list(cut.ends) == [10, 20, 25] and list(cut.rates) == [4, 4, 1]
    assert list(RUN.until(20).rates) == [4, 4], "a step that would begin at its end is none"
    longer = RUN.until(80)
    assert list(longer.ends) == [10, 20, 40, 80] and longer.rates[-1] == 9
    then = cut.then([3.0, 2.0], 10)
    assert list(then.ends) == [10, 20, 25, 30, 35] and list(then.rates) == [4, 4, 1, 3, 2]
    assert (then.end, list(then.starts)) == (35, [0, 10, 20, 25, 30])


def test_steps_have_one_length() -> None:
    made = Schedule.of_steps([1.0, 2.0, 3.0], step=2048)
    assert list(made.ends) == [2048, 4096, 6144] and list(made.starts) == [0, 2048, 4096]


def test_every_change_of_the_rate_is_a_term_where_losses_lie_between() -> None:
    terms = terms_of(RUN, np.array([5.0, 30.0, 50.0]), power=0.5)
    assert terms.progress == pytest.approx([10, 50, 90])
    assert terms.drop == pytest.approx([-4, 3, -8])
    assert terms.rate == pytest.approx([4, 1, 9])
    assert terms.delay == pytest.approx(np.array([[5, 0, 0], [30, 10, 0], [50, 30, 10]]))
    assert terms.distance == pytest.approx(np.array([[20, 0, 0], [90, 10, 0], [190, 110, 90]]))


def test_small_changes_are_summed_to_pieces_that_end_at_a_loss() -> None:
    """A straight fall in a thousand steps: pieces of a hundredth of the peak, and one more where a
    loss lies within.
    """
    falling = Schedule.of_steps(np.concatenate([np.ones(100), 1 - np.arange(1, 1001) / 1000]))
    terms = terms_of(falling, np.array([falling.end]), power=1.0)
    assert terms.drop.sum() == pytest.approx(0.0, abs=1e-9), "all that rose has fallen"
    assert terms.drop[0] == -1 and (terms.drop[1:] > 0).all()
    assert terms.drop[1:].max() == pytest.approx(0.01, abs=1.1e-3)
    assert 100 <= len(terms.drop) - 1 <= 102
    between = terms_of(falling, np.array([605.0, falling.end]), power=1.0)
    assert len(between.drop) == len(terms.drop) + 1
    drops = falling.rates[99] - falling.rates[604]
    before = between.drop[1:][between.delay[0, 1:] > 0]
    assert before.sum() == pytest.approx(drops), "a loss knows of what was before it alone"


def test_a_rate_that_only_rounding_changes_has_no_terms() -> None:
    terms = terms_of(Schedule.of_steps([1.0, 1 + 1e-12, 1 - 1e-12]), np.array([3.0]), power=1.0)
    assert len(terms.drop) == 1


@pytest.mark.parametrize(
    ("ends", "rates", "said"),
    [
        ([1.0, 2.0], [1.0], "two vectors of one length"),
        ([[1.0, 2.0]], [[1.0, 1.0]], "two vectors of one length"),
        ([], [], "two vectors of one length"),
        ([0.0, 1.0], [1.0, 1.0], "positions above 0 that grow"),
        ([2.0, 1.0], [1.0, 1.0], "positions above 0 that grow"),
        ([1.0, 2.0], [1.0, np.nan], "finite numbers, none negative, not all zero"),
        ([1.0, 2.0], [1.0, np.inf], "finite numbers, none negative, not all zero"),
        ([1.0, 2.0], [1.0, -1.0], "finite numbers, none negative, not all zero"),
        ([1.0, 2.0], [0.0, 0.0], "finite numbers, none negative, not all zero"),
    ],
)
def test_what_is_no_schedule_is_refused(ends: list, rates: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule(np.array(ends), np.array(rates))


def test_a_rate_may_be_zero_for_a_while() -> None:
    assert float(Schedule.of_steps([0.0, 1.0, 0.0]).area(3)) == 1


@pytest.mark.parametrize(
    ("position", "loss", "said"),
    [
        ([1.0, 2.0], [3.0], "vectors of one length"),
        ([[1.0]], [[3.0]], "vectors of one length"),
        ([], [], "vectors of one length"),
        ([1.0, 2.0], [3.0, 0.0], "finite positive"),
        ([1.0, 2.0], [3.0, np.inf], "finite positive"),
    ],
)
def test_what_is_no_curve_is_refused(position: list, loss: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Curve(RUN, np.array(position), np.array(loss))
