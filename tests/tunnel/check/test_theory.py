"""What the check expects comes from the record of the parametrization."""

from dataclasses import replace

import pytest

from windtunnel.errors import InputError
from windtunnel.recipe import OPTIMIZERS, PARAMETRIZATIONS
from windtunnel.recipe.optimizer import ADAMW
from windtunnel.tunnel.check import theory


def test_an_added_parametrization_is_held_against_its_own_theory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One with an alpha of 3/4, whose head shrinks with the width instead of its logits."""
    slopes = {"matrix init": -0.5, "matrix lr": -1.0, "head init": -1.0}
    record = replace(
        PARAMETRIZATIONS["completep"], name="other", residual_exponent=0.75, width_slopes=slopes
    )
    monkeypatch.setitem(PARAMETRIZATIONS, record.name, record)
    by_width, by_depth = theory.rules("width", "other"), theory.rules("depth", "other")
    assert by_width["head init"] == (-1.0, "head init not 1/m")
    assert by_width["logit multiplier"] == (0.0, "logit multiplier not constant")
    assert by_depth["residual multiplier"] == (-0.75, "residual multiplier not 1/L^0.75")
    assert theory.allowed("depth", "other", "block", "value", 0) == (-0.75, -0.75)


@pytest.mark.parametrize(
    ("parametrization", "power", "alpha"),
    [("minicpm", "1/sqrt(L)", 0.5), ("completep", "1/L", 1.0), ("standard", "1/sqrt(L)", 0.5)],
)
def test_the_rules_of_each_parametrization(parametrization: str, power: str, alpha: float) -> None:
    by_width, by_depth = (theory.rules(axis, parametrization) for axis in ("width", "depth"))
    assert by_width["matrix init"] == (-0.5, "hidden init not 1/sqrt(m)")
    assert by_width["attention scale"] == (0, "attention scale not constant at a fixed head size")
    assert by_depth["residual multiplier"] == (-alpha, f"residual multiplier not {power}")
    assert by_depth["matrix eps"] == (-alpha, f"hidden Adam eps not {power}")
    assert by_depth["matrix decay"] == (0, "hidden weight decay not constant in the depth")


@pytest.mark.parametrize(
    ("parametrization", "quantity", "statistic", "t", "slopes"),
    [
        ("minicpm", "stream", "change", 4, (0.0, 0.5)),
        ("minicpm", "stream", "change", 30, (0.0, 0.5)),
        ("minicpm", "ffn branch", "change", 4, (-0.5, 0.5)),
        ("minicpm", "block", "change", 4, (-1.0, 0.0)),
        ("minicpm", "block", "value", 0, (-0.5, -0.5)),
        ("completep", "stream", "change", 29, (-0.5, 0.0)),
        ("completep", "stream", "change", 30, (0.0, 0.0)),
        ("completep", "stream", "value", 4, (0.0, 0.0)),
        ("completep", "ffn branch", "change", 4, (-0.5, 0.0)),
        ("completep", "block", "change", 4, (-1.5, -1.0)),
        ("completep", "embedding", "change", 4, (0.0, 0.0)),
        ("completep", "block", "update", 1, (-1.0, -1.0)),
    ],
)
def test_what_the_depth_may_do(
    parametrization: str, quantity: str, statistic: str, t: int, slopes: tuple[float, float]
) -> None:
    """Changes of L blocks add up to L^(1 - alpha) with a common direction, to L^(1/2 - alpha)
    without one.
    """
    assert theory.allowed("depth", parametrization, quantity, statistic, t) == slopes


@pytest.mark.parametrize(
    ("quantity", "statistic", "t", "slopes"),
    [
        ("logits", "value", 29, (-0.5, 0.0)),
        ("logits", "value", 30, (0.0, 0.0)),
        ("matrix product", "change", 4, (-0.5, 0.0)),
        ("ffn branch", "value", 4, (0.0, 0.0)),
        ("embedding", "update", 2, (0.0, 0.0)),
        ("embedding", "update", 3, None),
        ("embedding decay", "rule", 0, (0.0, 0.0)),
        ("embedding lr", "rule", 0, None),
        ("last gain", "eps", 1, (-1.0, 0.0)),
        ("matrix", "eps", 1, (-0.5, 0.0)),
    ],
)
def test_what_the_width_may_do(
    quantity: str, statistic: str, t: int, slopes: tuple[float, float] | None
) -> None:
    assert theory.allowed("width", "minicpm", quantity, statistic, t) == slopes


def test_an_unknown_parametrization_is_refused() -> None:
    with pytest.raises(InputError, match="'mup': expected one of minicpm, completep, standard"):
        theory.rules("width", "mup")


def test_how_large_a_step_may_be_comes_from_the_record_of_the_optimiser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An orthogonal step of full rank is smaller than the matrix by a constant, Adam's by the
    root of the width.
    """
    assert theory.allowed("width", "minicpm", "matrix", "update", 1) == (-0.5, -0.5)
    assert theory.allowed("width", "minicpm", "matrix", "update", 1, "muon") == (-0.5, 0.0)
    assert theory.allowed("width", "minicpm", "embedding", "update", 1, "muon") == (0.0, 0.0)
    growing = replace(ADAMW, size_slope=(0.5, 0.5))
    record = replace(OPTIMIZERS["adamw"], name="other", update_of=lambda tensor, role: growing)
    monkeypatch.setitem(OPTIMIZERS, record.name, record)
    assert theory.allowed("width", "minicpm", "matrix", "update", 1, "other") == (0.5, 0.5)
    with pytest.raises(InputError, match="expected one of adamw, muon, other"):
        theory.allowed("width", "minicpm", "matrix", "update", 1, "muom")
