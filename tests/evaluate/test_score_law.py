"""Scores of several models as a law of their bits per byte."""

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.evaluate.score_law import fitted
from windtunnel.evaluate.scores import of_items
from windtunnel.results.evaluation import Evaluation, Measure


def model(bits: float, right: float, items: int = 200) -> list[Evaluation]:
    def one(task: str, measure: Measure) -> Evaluation:
        return Evaluation(
            task=task,
            model=f"{bits}",
            tokens=None,
            engine="test",
            settings={},
            key="0",
            items=["x"],
            measures=[measure],
        )

    hits = [1.0] * round(right * items) + [0.0] * round((1 - right) * items)
    return [
        one("text", of_items("bits_per_byte", [bits, bits], higher_is_better=False)),
        one("task", of_items("acc", hits)),
    ]


def test_the_score_to_expect_lies_on_the_sigmoid() -> None:
    levels = np.linspace(0.8, 1.2, 6)
    models = [model(float(b), 1 / (1 + np.exp(8 * (b - 1)))) for b in levels]
    (found,) = fitted(models, 0.7, 0.0)
    assert (found.task, found.metric, found.text, found.models) == ("task", "acc", "text", 6)
    assert found.score == pytest.approx(1 / (1 + np.exp(-2.4)), abs=0.02)
    assert found.interval90[0] < found.score < found.interval90[1]
    assert found.reach == pytest.approx((0.8, 1.2)) and found.steepness90[0] > 0


def test_without_a_text_or_with_few_models_it_is_refused() -> None:
    with pytest.raises(InputError, match="--law"):
        list(fitted([model(1.0, 0.5)[1:]] * 5, 0.7, 0.0))
    with pytest.raises(InputError, match="at least 4 models"):
        list(fitted([model(1.0, 0.5), model(1.1, 0.4)], 0.7, 0.0))
