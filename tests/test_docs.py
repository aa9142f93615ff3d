"""What README.md and the pages in docs/ name exists: files, commands and their options."""

import importlib
import pkgutil
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

import windtunnel.cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "windtunnel"
PAGES = [
    ROOT / "README.md",
    ROOT / "AGENTS.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {page.name: re.sub(r" *\\\n *", " ", page.read_text()) for page in PAGES}
FOLDERS = {folder.name for folder in [*ROOT.iterdir(), *SOURCE.iterdir()] if folder.is_dir()}
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|md)")


def code_of(text: str) -> list[str]:
    """Every span of code and every line of an indented block, without its comment."""
    spans = re.findall(r"`([^`\n]+)`", text)
    lines = re.findall(r"^ {4,}(\S.*)$", text, flags=re.MULTILINE)
    return spans + [line.split("  #")[0].strip() for line in lines]


def paths_of(text: str) -> set[str]:
    """Files and folders of the repository that are named as code, or linked to."""
    named = {path for code in code_of(text) for path in PATH.findall(code)}
    ours = {path for path in named if "/" not in path or path.split("/")[0] in FOLDERS}
    return ours | set(re.findall(r"\]\(([^):#]+)\)", text))


def commands_of(text: str) -> set[str]:
    """Calls of windtunnel that are named as code, each by itself."""
    found = set()
    for code in code_of(text):
        for part in re.split(r"&&| \| ", code):
            call = re.match(r"(?:\.venv/bin/)?windtunnel ([a-z].*)", part.strip())
            if call:
                found.add(call[1])
    return found


def parts_of(call: str) -> list[str]:
    """A call, and the one of which the options behind `--` are: a study's, or that of `train`."""
    own, _, behind = call.partition(" -- ")
    if not behind:
        return [own]
    what = own.split()[1]
    return [own, f"{what if what in options() else 'train'} {behind}"]


def exists(path: str) -> bool:
    """In the repository, in the package, or (a name alone) anywhere in the package or docs/."""
    if path.startswith(("lab/", "checkpoints/")):  # what a person's own runs make
        return True
    places = [ROOT / path, SOURCE / path, ROOT / "docs" / path]
    anywhere = [*SOURCE.rglob(path), *(ROOT / "bench").glob(path)] if "/" not in path else []
    return bool(anywhere) or any(place.exists() for place in places)


@cache
def options() -> dict[str, set[str]]:
    """The options of every command, by its name; `corpus build` and its like are two words."""
    for module in pkgutil.iter_modules(windtunnel.cli.__path__):
        importlib.import_module(f"windtunnel.cli.{module.name}")
    found = {}
    groups = [("", typer.main.get_command(windtunnel.cli.app))]
    while groups:
        prefix, group = groups.pop()
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            if hasattr(command, "commands"):
                groups.append((f"{prefix}{name} ", command))
            names = [n for p in command.params for n in [*p.opts, *p.secondary_opts]]
            found[f"{prefix}{name}"] = {"--help", *names}
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_exists(page: str) -> None:
    missing = sorted(path for path in paths_of(TEXTS[page]) if not exists(path))
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_and_option_exists(page: str) -> None:
    for call in sorted(each for one in commands_of(TEXTS[page]) for each in parts_of(one)):
        words = shlex.split(call.replace("...", ""))
        name = " ".join(words[:2]) if " ".join(words[:2]) in options() else words[0]
        assert name in options(), f"windtunnel {call}: no such command"
        for option in re.findall(r"(?<!\S)\[?(--[\w-]+)", call):
            assert option in options()[name], f"windtunnel {call}: no option {option}"


def test_the_architecture_names_every_file() -> None:
    page = TEXTS["architecture.md"]
    files = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    missing = [f for f in sorted(files) if not f.endswith("__init__.py") and f"`{f}`" not in page]
    assert not missing


def test_the_architecture_shows_the_floors() -> None:
    floors = re.findall(r'^  "([\w |:]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    rooms = [re.findall(r"\w+", floor) for floor in floors]
    section = TEXTS["architecture.md"].split("## Floors")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    shown = [[word for word in rooms[i] if word in line.split()] for i, line in enumerate(lines)]
    assert shown == rooms
