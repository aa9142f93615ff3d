"""Special tokens that people type stay text, and those of a template stay what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.ship.broken import Broken

SPECIAL = {"<|end|>": 0, "<|user|>": 1, "<s>": 2, "<s><": 3, "[INST]": 4, "aba": 5}
PIECES = st.sampled_from(["<|end|>", "<|user|>", "<s>", "<", "<s><", "|end|>", "ab", "a", " x\n"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_typed_comes_back_as_text(typed: str) -> None:
    broken = Broken(SPECIAL, [typed])
    assert not broken.has(broken.text(typed))
    parts = broken.parts(f"<|user|>{broken.text(typed)}\n<|end|>")
    assert parts == [1, f"{typed}\n", 0]


def test_a_text_without_special_tokens_is_as_it_was() -> None:
    assert Broken(SPECIAL, ["a b"]).text("a b") == "a b"
    assert Broken({}, ["<|end|>"]).parts("<|end|>") == ["<|end|>"]


@pytest.mark.parametrize("mark", ["\ufdd0", "\ufdd0\ufdd1"])
def test_a_text_that_holds_the_mark_gets_another(mark: str) -> None:
    typed = f"{mark}<s>{mark}"
    broken = Broken(SPECIAL, [typed])
    assert broken.parts(f"{broken.text(typed)}[INST]") == [typed, 4]
