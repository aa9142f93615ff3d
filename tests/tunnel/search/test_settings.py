"""The settings that a search varies: their bounds, and how far they are widened."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from windtunnel.recipe import Model, Recipe
from windtunnel.tunnel.search.settings import SETTINGS, Setting, optional_settings

PAPER = {"lr": 0.01, "scale_depth": 1.4, "scale_emb": 12.0, "init_std": 0.1}  # section A.1


def test_the_papers_four_are_searched_two_octaves_about_its_point() -> None:
    always = {name: each.default for name, each in SETTINGS.items() if each.always}
    assert always == PAPER
    for name in PAPER:
        each = SETTINGS[name]
        assert each.low == pytest.approx(each.default / 4)
        # a smaller model may want a higher rate
        assert each.high == pytest.approx(each.default * (8 if name == "lr" else 4))


@pytest.mark.parametrize(
    ("name", "default", "ends"),
    [
        ("weight_decay", 1e-3, (1e-4, 1e-2)),
        ("beta2", 0.95, (0.8, 0.997)),
        ("momentum", 0.95, (0.8, 0.9875)),
        ("warmup", 0.02, (0.005, 0.16)),
    ],
)
def test_what_can_be_searched_beside_them(
    name: str, default: float, ends: tuple[float, float]
) -> None:
    each = SETTINGS[name]
    values = sorted(each.searched(x) for x in (each.low, each.high))
    assert each.default == default and values == pytest.approx(ends)
    assert each.label == (f"1-{name}" if name in ("beta2", "momentum") else name)
    assert each.most == 0.5, "no share is widened beyond a half"


def test_those_that_are_not_always_searched_can_be_asked_for() -> None:
    assert list(optional_settings()) == ["weight_decay", "beta2", "momentum", "warmup"]


def test_a_setting_stands_in_its_section_of_the_recipe(recipe: Callable[..., Recipe]) -> None:
    made = recipe(optimizer={"kind": "muon"})  # which has a momentum
    for name, each in SETTINGS.items():
        section = getattr(made, each.section)
        assert name in type(section).model_fields, name
    assert set(PAPER) - {"lr"} <= set(Model.model_fields)


@pytest.mark.parametrize(
    ("below", "above", "ends"),
    [
        (False, False, (1.0, 8.0)),
        (True, False, (0.25, 8.0)),
        (False, True, (1.0, 32.0)),
        (True, True, (0.25, 32.0)),
    ],
)
def test_a_setting_is_widened_by_two_octaves_where_it_is_asked_to(
    below: bool, above: bool, ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Setting(name="x", help="", section="model", default=2.0, low=1.0, high=8.0)
    monkeypatch.setitem(SETTINGS, "x", first)
    once = first.wider(below, above)
    assert (once.low, once.high) == ends
    for _ in range(3):
        once = once.wider(below, above)
    assert once.low == (1 / 16 if below else 1.0), "four octaves from the first end, and no more"
    assert once.high == (8 * 16 if above else 8.0)
    assert replace(first, most=20.0).wider(below, above).high == (20.0 if above else 8.0)


def test_a_value_has_four_digits() -> None:
    assert SETTINGS["lr"].rounded(0.0123456) == 0.01235
    assert SETTINGS["beta2"].rounded(0.0123456) == 0.98765
    assert SETTINGS["beta2"].searched(0.95) == 0.05, "to the bit"
