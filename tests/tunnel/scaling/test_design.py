"""What a design of the scaling study asks for."""

import pytest

from windtunnel.errors import InputError
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.design import RATE_RULES, Design, RateRule


def test_a_stem_a_size_and_more_seeds_for_the_smallest() -> None:
    design = Design(sizes=(Size(64, 4), Size(16, 2), Size(32, 2)), seeds=3, repeated=1)
    assert design.stems == [
        (Size(16, 2), 0),
        (Size(16, 2), 1),
        (Size(16, 2), 2),
        (Size(32, 2), 0),
        (Size(64, 4), 0),
    ]


def test_sizes_that_are_one_are_refused() -> None:
    with pytest.raises(InputError, match="--sizes 16x2,16x2: expected different sizes"):
        Design(sizes=(Size(16, 2), Size(16, 2)))


def test_a_rule_of_the_rate_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATE_RULES, "linear", RateRule("linear", "as the batch", lambda r: r))
    assert Design(lr_with_batch="linear").rate(1024) == pytest.approx(0.005)
    with pytest.raises(InputError, match="'cubic': expected one of fixed, sqrt, linear"):
        Design(lr_with_batch="cubic").rate(1024)


def test_the_rate_stays_or_goes_by_the_root_of_the_batch() -> None:
    assert [Design().rate(batch) for batch in (512, 8192)] == [0.01, 0.01]
    assert [
        Design(lr_with_batch="sqrt").rate(batch) for batch in (512, 2048, 8192)
    ] == pytest.approx([0.005, 0.01, 0.02])
