"""What an export's check found: whether it is good, as one line, and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.results.export import Agreement, Exported

FINE = Agreement(
    layout="gguf F32",
    engine="an engine",
    tokens=2000,
    max_difference=1e-5,
    mean_difference=1e-6,
    bits_per_byte=2.0,
    bits_per_byte_change=1e-6,
    most=5e-4,
    most_change=None,
    lines=100,
    wrong_lines=0,
)


@pytest.mark.parametrize(
    "fault",
    [
        {"max_difference": 6e-4},
        {"max_difference": float("nan")},
        {"wrong_lines": 1},
        {"most": None, "most_change": 0.01, "bits_per_byte_change": -0.03},
    ],
)
def test_what_is_off_is_not_good(fault: dict[str, Any]) -> None:
    assert FINE.good and not Agreement(**(FINE.model_dump() | fault)).good


def test_an_agreement_reads_as_one_line() -> None:
    assert str(FINE) == (
        "gguf F32, an engine: the log-probabilities of 2,000 held-out tokens differ from ours by "
        "1e-05 nats at most (0.0005 allowed), 1e-06 on average; 2.0000 bits/byte, change +1e-06; "
        "the same token ids for 100 of 100 lines"
    )
    rounded = FINE.model_copy(update={"most": None, "most_change": 0.005, "lines": 0})
    assert str(rounded).endswith("2.0000 bits/byte, change +1e-06 (0.5% allowed)")


def test_an_export_is_printed_with_what_was_found() -> None:
    made = Exported(path=Path("a/b"), to="gguf", dtype="F32", tokens=5, agreement=FINE)
    printed = json.loads(made.to_json())
    assert list(printed) == ["path", "to", "dtype", "tokens", "agreement"]
    assert printed["path"] == "a/b" and printed["agreement"] == FINE.model_dump()
