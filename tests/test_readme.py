"""What the README tells a person to type exists."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
LINES = re.sub(r"\\\n", " ", TEXT).splitlines()  # a continued line is one
COMMANDS = [line.split("#")[0].strip() for line in LINES if line.startswith("    windtunnel ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    command = words[:2] if words[0] == "corpus" else words[:1]
    run = [sys.executable, "-c", "from windtunnel.cli import main; main()", *command, "--help"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    for option in (word for word in words if word.startswith("--")):
        assert option in shown, f"{option} is no option of {command}"


@pytest.mark.parametrize("target", re.findall(r"`?make (\w+)", TEXT))
def test_a_make_target_exists(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "path", re.findall(r"\]\((docs/[^)]+)\)", TEXT) + re.findall(r"(recipes/\w+\.toml)", TEXT)
)
def test_a_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_version_is_the_package_s() -> None:
    from windtunnel import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
