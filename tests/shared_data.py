"""Published measurements beside the checkout; a clone without them skips what reads them."""

from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(path: str) -> Path:
    """A file or folder of the published measurements, or the test is skipped."""
    found = _DATA / path
    if not found.exists():
        pytest.skip(f"published measurements are not beside this checkout: {found.name}")
    return found
