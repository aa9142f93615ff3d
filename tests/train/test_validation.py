"""What a run's held-out loss is a mean of."""

import math

import pytest

from windtunnel.results.run import Score
from windtunnel.train.validation import over_all

# Two tokens of the one stand for three bytes, of the other for five.
SCORES = {
    "web": Score(loss=4.0, bits_per_byte=4.0 / math.log(2) / 3, tokens=100),
    "code": Score(loss=2.0, bits_per_byte=2.0 / math.log(2) / 5, tokens=10_000),
}
TEXT_BYTES = {"web": 300, "code": 50_000}


def test_of_sources_that_are_not_trained_on_there_is_no_loss() -> None:
    assert over_all(SCORES, TEXT_BYTES, {"books": 1.0, "web": 0.0}) is None
    assert over_all({}, {}, {"books": 1.0}) is None


def test_sources_count_as_the_mixture_weighs_them_whatever_was_held_out() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"web": 3.0, "code": 1.0})
    assert found.loss == pytest.approx(0.75 * 4 + 0.25 * 2)
    assert found.tokens == 10_100
    assert found.sources == SCORES


def test_bits_per_byte_are_those_of_text_of_the_mixture() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"web": 1.0, "code": 1.0})
    assert found.bits_per_byte == pytest.approx(3.0 / math.log(2) / 4)


def test_a_source_that_is_not_trained_on_has_a_score_and_no_weight() -> None:
    found = over_all(SCORES, TEXT_BYTES, {"code": 0.2, "web": 0.0})
    assert found.loss == 2.0
    assert over_all(SCORES, TEXT_BYTES, {"code": 1.0}).sources == SCORES


def test_a_source_of_the_mixture_that_was_not_scored_is_left_out() -> None:
    found = over_all({"web": SCORES["web"]}, TEXT_BYTES, {"web": 1.0, "code": 9.0})
    assert found.loss == 4.0
