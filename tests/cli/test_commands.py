"""What the commands print, for people and for programs, and how soon."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel import __version__, cli
from windtunnel.recipe import Recipe

Make = Callable[..., Recipe]
BATCH = 128
# What the work needs and the help does not.
HEAVY = {
    *("torch", "numpy", "scipy", "tokenizers", "tiktoken", "safetensors", "optuna", "plotly"),
    *("tomlkit", "pyarrow", "zstandard", "transformers", "gguf", "xllamacpp"),
}
KEYS = {
    "id",
    "name",
    "kind",
    "parent",
    "at_tokens",
    "tokens",
    "status",
    "loss",
    "bits_per_byte",
    "path",
}


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make) -> Any:
    """A lab with a stem of 40 steps and two branches. Only to be looked at, or asked for the same
    again.
    """
    lab = make_lab()
    lab.train(stem(40 * BATCH, branch_points=[20 * BATCH, 30 * BATCH]))
    for at, name in ((20, "early"), (30, "late")):
        lab.json(
            "branch",
            "tiny",
            "--at",
            at * BATCH,
            "--decay",
            5 * BATCH,
            "--name",
            name,
            "--shape",
            "1-sqrt",
        )
    return lab


@pytest.mark.parametrize("command", [[], ["train"], ["plan"], ["scaling"], ["export"]])
def test_help_comes_at_once(command: list[str]) -> None:
    """Of what a command needs to do its work, nothing is imported to say what it does."""
    script = (
        "import sys; from windtunnel.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Usage" in done.stdout
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["corpus", "--help"]]
)
def test_what_is_slow_to_import_is_imported_only_where_it_is_needed(arguments: list[str]) -> None:
    heavy = {"torch", "numpy", "tokenizers", "optuna"}
    if arguments == ["--help"]:
        heavy.add("pydantic")  # typer brings it itself once there is an argument to read
    code = (
        "import sys; from windtunnel.cli import main\n"
        "try: main()\n"
        f"finally: print('heavy:', *sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_help_names_the_commands(lab: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from windtunnel.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert all(f" {command} " in done.stdout for command in ("corpus", "train", "branch", "runs"))
    in_order = ["tour", "corpus", "check", "search", "transfer", "batch", "scaling", "plan"]
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    listed = [word for word in first_words if word in in_order]
    assert listed == in_order, "as one uses them, whichever module imports another"


def test_version() -> None:
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{__version__}\n"


def test_runs_as_json_have_the_keys_that_programs_read(trained: Any) -> None:
    stem, early, late = trained.json("runs")
    assert all(set(run) >= KEYS for run in (stem, early, late))
    assert (stem["kind"], stem["parent"], stem["at_tokens"]) == ("stem", None, None)
    assert (early["kind"], early["parent"], early["at_tokens"]) == (
        "branch",
        stem["id"],
        20 * BATCH,
    )
    assert (late["name"], late["tokens"]) == ("late", 35 * BATCH)
    for run in (stem, early, late):
        assert run["status"] == "done" and 0 < run["bits_per_byte"] < run["loss"] < 10
        assert os.path.exists(os.path.join(run["path"], "recipe.toml"))


def test_runs_are_a_tree_of_stems_and_branches(trained: Any) -> None:
    stem, early, late = trained.json("runs")
    done = trained.run("runs")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "name", "kind", "tokens", "loss", "bits/byte", "status"]
    starts = [line.split(maxsplit=2)[:2] for line in lines[1:]]
    assert starts[0] == [stem["id"], "tiny"]
    assert starts[1:] == [["├─", early["id"]], ["└─", late["id"]]]
    assert f"{late['loss']:.4f}" in lines[3] and lines[3].endswith("done")


def test_a_run_that_cannot_be_read_is_a_line_of_the_list(trained: Any) -> None:
    stem, early, late = trained.json("runs")
    file = Path(late["path"]) / "recipe.toml"
    whole = file.read_bytes()
    file.write_bytes(b'name = "K\xe4se"')
    try:
        listed, asked = trained.run("runs"), trained.run("runs", "--json")
        assert listed.returncode == asked.returncode == 0
        assert [run["id"] for run in json.loads(asked.stdout)] == [stem["id"], early["id"]]
        assert str(file) in asked.stderr
        *others, last = listed.stdout.splitlines()
        assert last.startswith(late["id"]) and f"unreadable: {file}" in last
        assert early["id"] in others[-1]
    finally:
        file.write_bytes(whole)


def run_plainly(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in an interpreter that has just begun, with nothing in its environment but
    this.
    """
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()"]
    where = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, env=where | environment
    )


def test_a_terminal_that_is_not_utf8_ends_no_command(trained: Any) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run_plainly("runs", "--lab", trained.path, **plain)
    assert done.returncode == 0, done.stderr
    assert trained.json("runs")[0]["id"].encode() in done.stdout and done.stdout.isascii()


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_a_person_without_a_home_can_run_it(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept between runs is then among the temporary files."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)

        def no_account(user: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {user}")

        monkeypatch.setattr(pwd, "getpwuid", no_account)
    else:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli._cache() == Path(tempfile.gettempdir()) / f"windtunnel-{os.getuid()}"


def test_what_reads_a_list_may_end_before_it(trained: Any) -> None:
    """As `head` does."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()", "runs"]
    done = subprocess.run(
        [*command, "--lab", str(trained.path)], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.returncode == 1 and done.stderr == b""


def test_the_same_command_again_finds_the_run_done(trained: Any, stem: Make) -> None:
    before, files = trained.json("runs"), trained.files()
    again = trained.train(stem(40 * BATCH))
    assert again.name == before[0]["id"]
    made = trained.json(
        "branch", "tiny", "--at", 20 * BATCH, "--decay", 5 * BATCH, "--shape", "1-sqrt"
    )
    assert made == before[1]
    assert trained.json("runs") == before and trained.files() == files


def test_a_lab_without_runs_says_how_to_start_one(tmp_path: Any, lab: Any) -> None:
    assert lab.json("runs") == []
    assert "windtunnel train RECIPE.toml" in lab.run("runs").stdout


def test_set_changes_the_recipe_and_a_person_reads_one_line(lab: Any, recipe: Make) -> None:
    file = lab.write(recipe())
    done = lab.run(
        "train",
        file,
        "--set",
        "schedule.tokens=1280",
        "--set",
        "name=other",
        "--set",
        "seed=3",
        "--set",
        "schedule.warmup=10%",
    )
    assert done.returncode == 0, done.stderr
    (run,) = lab.json("runs")
    assert (run["name"], run["tokens"], run["kind"]) == ("other", 1280, "run")
    line, following = done.stdout.splitlines()
    assert line.startswith(f"{run['id']} done at 1.28k tokens: loss {run['loss']:.4f}")
    assert run["path"] in line
    assert following.startswith("Next: windtunnel chat other --lab ")
    again = ("schedule.tokens=1280", "name=other", "seed=4")
    done = lab.run("train", file, *(word for one in again for word in ("--set", one)))
    assert f"Next: windtunnel chat {done.stdout[:12]} " in done.stdout, "two have that name"


def test_a_corpus_as_json_says_what_it_holds(lab: Any) -> None:
    shown = lab.json("corpus", "show", "tiny")
    assert shown["vocab"] == 320 and set(shown["sources"]) == {"prose", "code", "notes"}
    assert shown["path"] == str(lab.path / "corpora/tiny")


def test_a_corpus_says_how_much_of_it_is_long(lab: Any) -> None:
    folder = lab.path.parent / "texts"
    folder.mkdir()
    texts = [" ".join(f"word{i}" for i in range(3000)), *(f"no {i} " * 9 for i in range(400))]
    lines = [json.dumps({"text": one}) for one in [*texts, texts[-1]]]
    (folder / "a.jsonl").write_text("\n".join(lines))
    lab.json("corpus", "build", "new", f"mine={folder}", "--vocab", "300", "--validation", "0.1")
    found = lab.json("corpus", "show", "new")["long"]["mine"]
    assert found["1024"]["documents"] == found["4096"]["documents"] == 1
    told = lab.run("corpus", "show", "new").stdout
    assert "mine: left out: 1 as duplicates\n" in told
    assert "mine: over 1k tokens: 1 document with " in told
    assert "; over 4k tokens: 1 document with " in told


def test_a_corpus_says_what_of_the_held_out_text_is_read_in_training_too(lab: Any) -> None:
    same = " ".join(f"begin{i}" for i in range(60))
    texts = [f"{same} " + " ".join(f"own{i}is{k}" for k in range(20)) for i in range(300)]
    file = lab.path.parent / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": one}) for one in texts))
    told = lab.run("corpus", "build", "new", f"mine={file}", "--vocab", "300")
    found = lab.json("corpus", "show", "new")["repeats"]["mine"]
    assert found > 0.2
    assert f"mine: {found:.0%} of the held-out text stands word for word" in told.stdout
