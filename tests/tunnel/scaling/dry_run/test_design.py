"""Budgets and targets as people type them."""

import pytest

from windtunnel.errors import InputError
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.dry_run.design import (
    BUDGET,
    TARGET,
    Best,
    Target,
    parse_budget,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("1e14", 1e14, "FLOPs"),
        ("3.5e13", 3.5e13, "FLOPs"),
        ("2h", 2, "core-hours"),
        ("90min", 1.5, "core-hours"),
        ("20M", 2e7, "tokens"),
        ("1.5 B", 1.5e9, "tokens"),
    ],
)
def test_a_budget_is_flops_core_hours_or_tokens(text: str, amount: float, unit: str) -> None:
    found = parse_budget("--budget", text)
    assert (found.amount, found.unit) == (pytest.approx(amount), unit)
    assert parse_budget("--budget", BUDGET.show(found)).amount == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "much", "0", "-1e13", "1e13x", "1..2h", "h", "1e999", "10%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--budget .*: is not a budget"):
        parse_budget("--budget", text)


def test_a_target_is_a_size_at_a_length() -> None:
    target = parse_target("--target", "512x8@20M")
    assert target == Target(Size(512, 8), 20_000_000)
    assert TARGET.show(target) == "512x8@20M"
    for text in ("512x8", "512@20M", "512x8@", "512x8@0", "0x8@20M", "512x8@nan"):
        with pytest.raises(InputError, match=r"^--target "):
            parse_target("--target", text)


def test_a_target_may_be_the_best_run_of_so_many_flops() -> None:
    target = parse_target("--target", "1e15")
    assert target == Best(1e15) and TARGET.show(target) == "1e+15"
    for text in ("", "much", "0", "-1e15", "1e999", "nan", "2h"):
        with pytest.raises(InputError, match=r"^--target .*: expected WIDTHxDEPTH@TOKENS"):
            parse_target("--target", text)
