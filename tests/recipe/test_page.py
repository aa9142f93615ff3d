"""The page of a recipe's keys is what the code says."""

from pathlib import Path

import pytest

from windtunnel.recipe import DECAY_SHAPES, DecayShape
from windtunnel.recipe.__main__ import page
from windtunnel.recipe.decay import to_the_floor

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page() + "\n", (
        "make it anew: python -m windtunnel.recipe > docs/recipe.md"
    )


def test_every_key_says_what_it_is() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    for row in rows:
        assert len(row[-1].removesuffix(" |").strip()) > 10, row


def test_an_added_choice_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    late = DecayShape("late", "the square of the done part", to_the_floor(lambda x: 1 - x * x))
    monkeypatch.setitem(DECAY_SHAPES, late.name, late)
    assert "| `late` | the square of the done part |" in page()
