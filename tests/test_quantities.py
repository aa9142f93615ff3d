"""Lengths as people type them."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windtunnel.errors import InputError
from windtunnel.quantities import (
    Length,
    about,
    format_context,
    format_tokens,
    parse_context,
    parse_length,
    parse_tokens,
)

tokens = st.one_of(
    st.integers(0, 10**15),
    st.builds(lambda n, e: n * 10**e, st.integers(1, 9999), st.integers(0, 12)),
)


@given(tokens)
@example(846_623_383_273_700)
def test_what_is_written_is_read_back(n: int) -> None:
    assert parse_tokens(format_tokens(n)) == n == parse_tokens(n) == parse_tokens(str(n))
    assert parse_length(str(Length(tokens=n))) == Length(tokens=n)


@given(st.integers(1, 10_000))
def test_a_share_is_read_back(hundredths: int) -> None:
    length = Length(share=hundredths / 10_000)
    assert parse_length(str(length)).share == pytest.approx(length.share, rel=1e-12)
    assert parse_length(parse_length(str(length))) == parse_length(str(length))


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("20M", 20_000_000),
        ("1.1T", 1_100_000_000_000),
        ("4096", 4096),
        ("4_096", 4096),
        ("1.5k", 1500),
        ("2g", 2 * 10**9),
        (" 3 B ", 3 * 10**9),
        ("1e6", 10**6),
        (1e6, 10**6),
        ("0", 0),
    ],
)
def test_people_may_type(text: Any, n: int) -> None:
    assert parse_tokens(text) == n


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "20X", "1.5", "20 MM", "ten", "nan", "1e999", -1, 1.5, True, None, []]
)
def test_what_is_no_number_of_tokens_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="is not a number of tokens"):
        parse_tokens(text)


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "ten%", "nan%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a share"):
        parse_length(text)


def test_a_share_is_taken_of_the_whole() -> None:
    assert parse_length("10%").of(12_345) == 1234
    assert parse_length("4096").of(12_345) == 4096
    assert parse_length("0%").of(100) == parse_length(0).of(100) == 0


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (20_000_000, "20M"),
        (2048, "2048"),
        (1500, "1.5k"),
        (25_600, "25.6k"),
        (0, "0"),
        (999, "999"),
    ],
)
def test_the_text_is_short(n: int, text: str) -> None:
    assert format_tokens(n) == text


@pytest.mark.parametrize(
    ("n", "text"), [(1_234_567, "1.23M"), (999, "999"), (0, "0"), (2.5e12, "2.5T")]
)
def test_about(n: float, text: str) -> None:
    assert about(n) == text


@given(st.integers(2, 2**20))
def test_a_context_is_read_back(n: int) -> None:
    assert parse_context(format_context(n)) == n


@pytest.mark.parametrize(("text", "n"), [("512", 512), ("1k", 1024), (" 128K ", 131_072)])
def test_a_thousand_tokens_of_a_context_are_1024(text: str, n: int) -> None:
    assert parse_context(text) == n


@pytest.mark.parametrize("text", ["", "0", "1", "k", "-4", "1.5k", "4096 tokens"])
def test_what_is_no_context_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="such as 4096 or 32k"):
        parse_context(text)
