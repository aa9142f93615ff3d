"""What the README says of make and of the version is true; `test_docs.py` tries its commands."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", re.findall(r"`?make (\w+)", TEXT))
def test_a_make_target_exists(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_the_version_is_the_package_s() -> None:
    from windtunnel import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
