"""What the README says of make and of the version is true; `test_docs.py` tries its commands."""

import re
import shlex
import subprocess
import sys
import textwrap
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


def test_the_plan_shown_is_what_the_command_prints(tmp_path: Path) -> None:
    """On the table that lies in the repository."""
    found = re.search(r"    windtunnel (plan --from .*)\n\n((?:    .*\n)+)", TEXT)
    assert found
    asked = [*shlex.split(found[1]), "--lab", str(tmp_path)]
    code = "from windtunnel.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = [line.strip() for line in done.stdout.splitlines()]
    shown = [line.strip() for line in textwrap.dedent(found[2]).splitlines()]
    assert len(shown) >= 3
    for line in shown:
        assert line in printed, line
