"""Which of two models is better: intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from windtunnel.evaluate.compare import ALL, Paired, compared, interval_of
from windtunnel.evaluate.scores import of_items, standard_error
from windtunnel.results.evaluation import Evaluation, Measure


def evaluation(model: str, task: str, items: list[str], *measures: Measure) -> Evaluation:
    return Evaluation(
        task=task,
        model=model,
        tokens=None,
        engine="test",
        settings={"task": task},
        key="0",
        items=items,
        measures=[*measures],
    )


def scored(
    model: str, values: np.ndarray, task: str = "t", items: list[str] | None = None
) -> Evaluation:
    ids = items or [str(at) for at in range(len(values))]
    return evaluation(model, task, ids, of_items("acc", values.tolist()))


def answered(draw: np.random.Generator, items: int, better: float) -> tuple[np.ndarray, np.ndarray]:
    """Right (1) or wrong (0) of two models on items that are hard for both or easy for both; the
    second is right so much more often.
    """
    easy = draw.beta(1.2, 1.2, items) * (1 - better)
    return (draw.random(items) < easy).astype(float), (draw.random(items) < easy + better).astype(
        float
    )


def coverage(items: int, better: float, runs: int) -> tuple[float, float]:
    """How often the interval holds the truth, and how often it holds 0."""
    draw = np.random.default_rng(items)
    held = none = 0
    for _ in range(runs):
        first, second = answered(draw, items, better)
        pair = Paired(first=first, second=second, weights=np.ones(items), higher_is_better=True)
        low, high = interval_of(pair, pair.resampled(draw))
        held += low <= better <= high
        none += low <= 0 <= high
    return held / runs, none / runs


@pytest.mark.parametrize("items", [30, 100])
@pytest.mark.parametrize("better", [0.0, 0.1])
def test_the_interval_holds_the_truth_as_often_as_it_says(items: int, better: float) -> None:
    held, _ = coverage(items, better, runs=300)
    assert 0.95 - 0.035 < held < 0.95 + 0.04  # of 300 simulations, the error is 0.013


@pytest.mark.slow
@pytest.mark.parametrize("items", [20, 50, 100, 300])
def test_two_models_of_the_same_worth_are_no_different_95_times_in_100(items: int) -> None:
    _, none = coverage(items, 0.0, runs=1000)
    print(items, none)
    assert 0.93 < none < 0.98


def test_a_model_is_no_different_from_itself() -> None:
    values = answered(np.random.default_rng(0), 60, 0.0)[0]
    (found,) = compared([scored("a", values)], [scored("a", values)])
    assert found.verdict == "no difference" and found.interval == (0, 0) and found.items == 60


def test_pairs_see_what_two_scores_side_by_side_do_not() -> None:
    draw = np.random.default_rng(1)
    hard = draw.random(400)
    first = (hard < 0.5).astype(float)
    second = (hard < 0.55).astype(float)  # right wherever the first is, and on some more
    (found,) = compared([scored("a", first)], [scored("b", second)])
    assert found.verdict == "better"
    assert found.interval[0] > 0
    error = standard_error(first, np.ones(400))
    assert error and found.difference < 2 * np.sqrt(2) * error
    (reverse,) = compared([scored("b", second)], [scored("a", first)])
    assert reverse.verdict == "worse" and reverse.difference == -found.difference


def test_items_are_paired_by_what_they_are() -> None:
    first = scored("a", np.array([1.0, 0.0, 1.0]), items=["x", "y", "z"])
    second = scored("b", np.array([0.0, 1.0, 1.0, 1.0]), items=["y", "w", "x", "z"])
    (found,) = compared([first], [second])
    assert found.items == 3 and found.difference == 0


def test_of_bits_fewer_are_better_and_bytes_weigh() -> None:
    weights = [10.0, 30.0, 20.0, 40.0] * 10
    draw = np.random.default_rng(2)

    def bits(level: float) -> Measure:
        values = [weight * (level + 0.01 * draw.standard_normal()) for weight in weights]
        return of_items("bits_per_byte", values, weights=weights, higher_is_better=False)

    ids = [str(at) for at in range(40)]
    first, second = (evaluation(m, "t", ids, bits(b)) for m, b in (("a", 1.2), ("b", 1.1)))
    (found,) = compared([first], [second])
    assert found.verdict == "better" and found.difference == pytest.approx(-0.1, abs=0.01)
    assert found.first == pytest.approx(first.measures[0].value)


def test_tasks_count_alike_in_their_mean() -> None:
    draw = np.random.default_rng(3)
    ones, zeros = np.ones(50), np.zeros(50)
    first = [scored("a", zeros, "x"), scored("a", ones[:10], "y")]
    second = [scored("b", ones, "x"), scored("b", ones[:10], "y")]
    *_, over_all = compared(first, second)
    assert over_all.task == ALL and over_all.difference == 0.5 and over_all.verdict == "better"
    noise = [scored("c", draw.integers(0, 2, 50).astype(float), "x"), first[1]]
    assert compared(noise, noise)[-1].verdict == "no difference"


def test_other_settings_are_not_compared() -> None:
    one = scored("a", np.ones(5))
    other = one.model_copy(update={"settings": {"task": "t", "shots": "5"}})
    assert compared([one], [other]) == []


def test_a_standard_error_is_that_of_a_mean_or_of_a_ratio() -> None:
    draw = np.random.default_rng(4)
    values = draw.random(50)
    assert standard_error(values, np.ones(50)) == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert standard_error(values[:1], np.ones(1)) is None
    # of a ratio, as it scatters from sample to sample
    ratios, errors = [], []
    for _ in range(400):
        weights = draw.integers(5, 100, 80).astype(float)
        bits = weights * (1 + 0.3 * draw.standard_normal(80)) + draw.standard_normal(80)
        ratios.append(bits.sum() / weights.sum())
        errors.append(standard_error(bits, weights))
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.12)
