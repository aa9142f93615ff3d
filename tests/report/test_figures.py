"""What all figures share: ticks from which a value can be read."""

import pytest

from windtunnel.report.figures import log_ticks


@pytest.mark.parametrize(
    ("low", "high"),
    [(106_000, 213_000), (106_000, 426_000), (0.005, 0.028), (0.3, 1.2), (5e3, 8e5), (1e9, 1e18)],
)
def test_a_logarithmic_axis_has_ticks_enough_and_no_crowd(low: float, high: float) -> None:
    found = log_ticks([low, high])
    inside = [tick for tick in found["tickvals"] if low <= tick <= high]
    assert 4 <= len(inside) <= 10
    assert found["tickvals"] == sorted(set(found["tickvals"]))
    assert len(found["ticktext"]) == len(set(found["ticktext"])) == len(found["tickvals"])
    assert min(found["tickvals"]) <= low and high <= max(found["tickvals"])


def test_the_ticks_are_round() -> None:
    found = log_ticks([106_000, 426_000])
    ticks = dict(zip(found["tickvals"], found["ticktext"], strict=True))
    inside = {tick: text for tick, text in ticks.items() if 106_000 <= tick <= 426_000}
    assert inside == {150_000: "150k", 200_000: "200k", 300_000: "300k", 400_000: "400k"}


def test_a_small_panel_has_few_ticks() -> None:
    found = log_ticks([0.2, 9], 2)
    assert [tick for tick in found["tickvals"] if 0.2 <= tick <= 9] == [0.3, 1, 3]
