"""What a person gets wrong: one line on stderr that names it, exit code 2, and nothing
half-written left behind.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windtunnel.recipe import Recipe, dump
from windtunnel.train import checkpoint

BATCH = 128
Make = Callable[..., Recipe]
Done = subprocess.CompletedProcess[str]


def assert_refused(done: Done, *names: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("windtunnel: "), done.stderr
    for name in names:
        assert name in lines[0]


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make) -> Any:
    """A lab with one finished stem of 50 steps, branches from 4 steps on. Only for commands that
    are refused.
    """
    lab = make_lab()
    lab.train(stem(50 * BATCH, branch_points=[20 * BATCH]))
    return lab


@pytest.fixture(scope="module")
def untouched(make_lab: Any) -> Any:
    """A lab with nothing but its corpus. Only for commands that are refused."""
    return make_lab()


@pytest.fixture(scope="module")
def toml(recipe: Make) -> str:
    return dump(recipe())


@pytest.mark.parametrize("command", [["train", "recipe.toml"], ["branch", "tiny", "--at", "20"]])
def test_a_choice_of_engine_that_is_none(untouched: Any, command: list[str]) -> None:
    done = untouched.run(*command, "--engine", "anwe")
    assert_refused(done, "--engine anwe", "kept, anew", "did you mean 'anew'")


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--on", "rai"], ["--on rai", "here, ray", "did you mean 'ray'"]),
        (["--on", "here://x"], ["--on here://x", "expected no address"]),
        (["--devices", "2"], ["--devices", "--on ray", "torchrun"]),
        (["--on", "ray", "--mfu", "40%"], ["--mfu", "--dry-run"]),
        (["--on", "ray", "--machines", "2"], ["--machines", "--dry-run"]),
        (["--on", "ray", "--devices", "0"], ["--devices", "equal to 1"]),
        (["--on", "ray", "--engine", "anwe"], ["--engine anwe", "kept, anew"]),
    ],
    ids=" ".join,
)
def test_a_place_that_does_not_train_a_run(
    untouched: Any, toml: str, more: list[str], names: list[str]
) -> None:
    before = untouched.files()
    assert_refused(untouched.run("train", untouched.write(toml), *more), *names)
    assert untouched.files() == before


class TestRecipes:
    @pytest.mark.parametrize(
        ("before", "after", "names"),
        [
            ("width = 32", "widht = 32", ["model.widht", "did you mean 'width'"]),
            ("[optimizer]", "[optimiser]", ["optimiser", "did you mean 'optimizer'"]),
            ("floor = 0.0", 'floor = "low"', ["schedule.floor", "'low'"]),
            ("lr = 0.01", "lr = inf", ["optimizer.lr", "inf"]),
            ("width = 32", "width = -32", ["model.width", "-32"]),
            ('tokens = "6.4k"', "tokens = -6400", ["schedule.tokens", "-6400"]),
            ('decay = "10%"', 'decay = "110%"', ["schedule.decay", "110%", "100%"]),
            ('decay = "10%"', 'decay = "99%"', ["schedule", "warmup and decay"]),
            ("[model]", "[model", ["recipe.toml", "line"]),
            ("vocab = 320", "vocab = 2048", ["model.vocab=2048", "tiny", "320"]),
            ("kv_heads = 2", "kv_heads = 3", ["model", "heads=2", "kv_heads=3"]),
            ("context = 32", "context = 33", ["batch=128", "data.context=33"]),
            ('name = "tiny"\n', "", ["name", "missing"]),
            ('corpus = "tiny"', 'corpus = "tinny"', ["tinny", "did you mean", "tiny"]),
            (
                "[schedule]",
                "[data.mixture]\nprsoe = 1.0\n\n[schedule]",
                ["prsoe", "did you mean 'prose'"],
            ),
            ("[schedule]", "[data.mixture]\nprose = 0.0\n\n[schedule]", ["data.mixture", "zero"]),
            (
                "[schedule]",
                "[data.mixture]\nprose = -1.0\n\n[schedule]",
                ["data.mixture.prose", "-1"],
            ),
            (
                "[schedule]",
                "[[data.stages]]\nat = 3200\nmixture = {prose = 0}\n\n[schedule]",
                ["data.stages.0", "zero"],
            ),
        ],
    )
    def test_with_a_fault(
        self, before: str, after: str, names: list[str], untouched: Any, toml: str
    ) -> None:
        files = untouched.files()
        broken = toml.replace(before, after, 1)
        assert broken != toml
        assert_refused(untouched.run("train", untouched.write(broken)), *names)
        assert untouched.files() == files

    def test_that_is_not_there(self, untouched: Any, toml: str) -> None:
        right = untouched.write(toml, "right.toml")
        wrong = right.with_name("rihgt.toml")
        assert_refused(untouched.run("train", wrong), str(wrong), "did you mean 'right.toml'")

    def test_that_is_not_text(self, untouched: Any) -> None:
        file = untouched.path.parent / "bytes.toml"
        file.write_bytes(b"\xff\xfe\x00")
        assert_refused(untouched.run("train", file), str(file))

    @pytest.mark.parametrize(
        ("setting", "names"),
        [
            ("model.widht=64", ["model.widht", "did you mean 'width'"]),
            ("model.width", ["model.width", "KEY=VALUE"]),
            ("name.first=a", ["name.first=a", "'name' is not a section"]),
            ("train.device=cuda", ["train.device", "cuda"]),
        ],
    )
    def test_with_a_wrong_setting(
        self, setting: str, names: list[str], untouched: Any, toml: str
    ) -> None:
        if "cuda" in setting and shutil.which("nvidia-smi"):
            pytest.skip("this machine may have a CUDA device")
        files = untouched.files()
        assert_refused(untouched.run("train", untouched.write(toml), "--set", setting), *names)
        assert untouched.files() == files


class TestCorpora:
    def build(self, lab: Any, *arguments: object) -> Done:
        return lab.run("corpus", "build", "new", *arguments, "--vocab", 300)

    def refuses(self, lab: Any, path: Path, *names: str) -> None:
        files = lab.files()
        assert_refused(self.build(lab, f"mine={path}"), *names)
        assert lab.files() == files
        assert sorted(p.name for p in (lab.path / "corpora").iterdir()) == ["tiny"]

    def lines(self, path: Path, good: int, bad: int) -> Path:
        rows = [json.dumps({"text": f"document number {i} of some, " * 9}) for i in range(good)]
        path.write_text(
            "\n".join(rows + ['{"text": ', '{"other": "field"}', "[]", '{"text": 3}'][:bad]) + "\n"
        )
        return path

    def test_empty_folder(self, lab: Any, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        self.refuses(lab, tmp_path / "empty", str(tmp_path / "empty"), "no document in this folder")

    def test_missing_path(self, lab: Any, tmp_path: Path) -> None:
        (tmp_path / "texts").mkdir()
        self.refuses(
            lab, tmp_path / "text", str(tmp_path / "text"), "did you mean", str(tmp_path / "texts")
        )

    def test_too_many_broken_lines(self, lab: Any, tmp_path: Path) -> None:
        self.refuses(
            lab,
            self.lines(tmp_path / "a.jsonl", 200, 3),
            "a.jsonl line 201",
            "3 of",
            "at most 1.0%",
        )

    def test_few_broken_lines_are_skipped_and_counted(self, lab: Any, tmp_path: Path) -> None:
        built = self.build(lab, f"mine={self.lines(tmp_path / 'a.jsonl', 500, 4)}")
        assert built.returncode == 0, built.stderr
        source = lab.json("corpus", "show", "new")["sources"]["mine"]
        assert (source["malformed"], source["read"], source["duplicates"]) == (4, 504, 0)

    def test_bytes_that_are_not_utf8(self, lab: Any, tmp_path: Path) -> None:
        (tmp_path / "latin.txt").write_bytes("first\nna\xefve\n".encode("latin-1"))
        self.refuses(lab, tmp_path / "latin.txt", "latin.txt line 2", "not UTF-8")

    @pytest.mark.parametrize("field", ["other", pytest.param("text", marks=pytest.mark.slow)])
    def test_a_line_of_50_MB_is_read(self, field: str, lab: Any, tmp_path: Path) -> None:
        file = self.lines(tmp_path / "long.jsonl", 150, 0)
        with file.open("a") as stream:
            json.dump({"text": "short"} | {field: "a few words and " * (50 * 2**20 // 16)}, stream)
        built = self.build(lab, f"mine={file}")
        assert built.returncode == 0, built.stderr
        source = lab.json("corpus", "show", "new")["sources"]["mine"]
        assert (source["read"], source["malformed"]) == (151, 0)
        assert (source["train"]["bytes"] + source["validation"]["bytes"] >= 50 * 2**20) == (
            field == "text"
        )

    def test_too_small_a_vocabulary(self, lab: Any, tmp_path: Path) -> None:
        file = self.lines(tmp_path / "a.jsonl", 50, 0)
        assert_refused(lab.run("corpus", "build", "new", f"mine={file}", "--vocab", 10), "vocab 10")

    def test_unknown_name(self, untouched: Any) -> None:
        assert_refused(untouched.run("corpus", "show", "tinny"), "tinny", "did you mean", "tiny")
        assert_refused(untouched.run("corpus", "build", "new", "wikki"), "wikki")

    def test_changed_shard(self, lab: Any, toml: str) -> None:
        shard = lab.path / "corpora/tiny/prose/train-00000.bin"
        data = bytearray(shard.read_bytes())
        data[1000] ^= 1
        shard.write_bytes(data)
        assert_refused(lab.run("train", lab.write(toml)), str(shard), "sha256")
        assert_refused(lab.run("corpus", "show", "tiny"), str(shard), "sha256")
        assert not (lab.path / "runs").exists()

    def test_cut_shard(self, lab: Any, toml: str) -> None:
        shard = lab.path / "corpora/tiny/prose/train-00000.bin"
        os.truncate(shard, 1000)
        assert_refused(lab.run("train", lab.write(toml)), str(shard), "1,000 bytes")

    def test_less_than_a_window(self, lab: Any, recipe: Make) -> None:
        short = recipe(
            data={"context": 32_000, "mixture": {"notes": 1}},
            train={"batch": 32_000},
            schedule={"tokens": 64_000},
        )
        assert_refused(lab.run("train", lab.write(short)), "'notes'", "32000")
        assert not (lab.path / "runs").exists()


class TestCommands:
    def test_unknown_command(self, untouched: Any) -> None:
        done = untouched.run("trian", "x.toml")
        assert_refused(done, "trian")

    def test_unknown_option(self, untouched: Any) -> None:
        assert_refused(untouched.run("runs", "--jason"), "--jason")

    def test_missing_argument(self, untouched: Any) -> None:
        assert_refused(untouched.run("train"), "Missing argument", "RECIPE.toml")

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (["--at", 60 * BATCH], ["--at", "stable phase"]),
            (["--at", 2 * BATCH], ["--at", "stable phase"]),
            (["--at", "far"], ["--at far", "20M"]),
            (["--at", -BATCH], ["-128"]),
            (["--at", 20 * BATCH, "--decay", "120%"], ["120%"]),
            (["--at", 20 * BATCH, "--decay", "short"], ["--decay short", "10%"]),
            (
                ["--at", 20 * BATCH, "--shape", "linaer"],
                ["--shape", "linaer", "did you mean 'linear'"],
            ),
            (["--at", 20 * BATCH, "--floor", 1.5], ["floor", "1.5"]),
            (["--at", 20 * BATCH, "--mixture", "prose"], ["--mixture", "prose", "SOURCE=WEIGHT"]),
            (
                ["--at", 20 * BATCH, "--mixture", "prose=much"],
                ["--mixture", "prose=much", "SOURCE=WEIGHT"],
            ),
            (["--at", 20 * BATCH, "--mixture", "prose=-1"], ["--mixture", "prose=-1"]),
            (["--at", 20 * BATCH, "--mixture", "prose=nan"], ["--mixture", "prose=nan"]),
            (["--at", 20 * BATCH, "--mixture", "prose=0"], ["zero"]),
            (["--at", 20 * BATCH, "--mixture", "prsoe=1"], ["prsoe", "did you mean 'prose'"]),
        ],
    )
    def test_impossible_branch(
        self, arguments: list[object], names: list[str], trained: Any
    ) -> None:
        files = trained.files()
        assert_refused(trained.run("branch", "tiny", *arguments), *names)
        assert trained.files() == files

    def test_branch_of_an_unknown_run(self, trained: Any) -> None:
        assert_refused(
            trained.run("branch", "tinny", "--at", 20 * BATCH), "tinny", "did you mean 'tiny'"
        )

    def test_branch_further_than_the_stem_was_trained(self, lab: Any, stem: Make) -> None:
        run = lab.train(stem(20 * BATCH))
        recipe = run / "recipe.toml"
        recipe.write_text(dump(stem(50 * BATCH)))
        assert_refused(lab.run("branch", run.name, "--at", 40 * BATCH), "--at", "trained to 2.56k")


class TestCheckpoints:
    @pytest.fixture
    def halfway(self, lab: Any, stem: Make) -> tuple[Any, Path, Path]:
        """A stem that was trained to 20 steps and is asked for 40; its newest checkpoint."""
        run = lab.train(stem(20 * BATCH))
        return lab, lab.write(stem(40 * BATCH)), max((run / "checkpoints").iterdir())

    def test_truncated(self, halfway: tuple[Any, Path, Path]) -> None:
        lab, recipe, newest = halfway
        os.truncate(newest / "weights.safetensors", 1000)
        files = lab.files()
        done = lab.run("train", recipe)
        assert_refused_after_the_start(
            done, str(newest / "weights.safetensors"), "sha256", f"remove {newest}"
        )
        changed = {name for name, size in lab.files().items() if files.get(name) != size}
        assert not [name for name in changed if "checkpoints" in name]

        shutil.rmtree(newest)
        again = lab.run("train", recipe)
        assert again.returncode == 0, (
            "what the line advised helps: it goes back to the checkpoint before"
        )

    def test_without_its_record(self, halfway: tuple[Any, Path, Path]) -> None:
        lab, recipe, newest = halfway
        (newest / "checkpoint.json").unlink()
        assert_refused_after_the_start(lab.run("train", recipe), str(newest), "checkpoint.json")


def assert_refused_after_the_start(done: Done, *names: str) -> None:
    """As `assert_refused`, of a command that may have told before what it began with."""
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("windtunnel:")]
    rest = [line for line in done.stderr.splitlines() if line not in told]
    assert all(" tokens; cpu" in line for line in rest), rest
    assert_refused(
        subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "".join(told)), *names
    )


class TestDivergence:
    def test_ends_as_failed_and_says_so_again(self, lab: Any, recipe: Make) -> None:
        file = lab.write(
            recipe(
                schedule={"tokens": 200 * BATCH, "warmup": 160 * BATCH},
                optimizer={"lr": 1e6, "clip": 0},
                train={"checkpoint_every": BATCH, "keep": 1},
            )
        )
        done = lab.run("train", file, "--json")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        said = done.stderr.splitlines()[-1]
        assert said.startswith("windtunnel: the run failed: ") and " at step " in said
        (listed,) = lab.json("runs")
        assert listed["status"] == "failed" and listed["reason"] in said
        step = int(listed["reason"].split(" at step ")[1].split(",")[0])
        (kept,) = Path(listed["path"], "checkpoints").iterdir()
        assert 0 < int(kept.name) < step * BATCH

        again = lab.run("train", file)
        assert (again.returncode, again.stderr) == (1, said + "\n")


class TestFullDisk:
    SIZE = 3 << 20

    @pytest.fixture
    def small(self, lab: Any) -> Iterator[Any]:
        """The lab on a disk of 3 MiB."""
        kept = lab.path.with_name("elsewhere")
        lab.path.rename(kept)
        lab.path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(lab.path)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        try:
            shutil.copytree(kept, lab.path, dirs_exist_ok=True)
            yield lab
        finally:
            subprocess.run(["umount", str(lab.path)], check=True)

    def test_training_stops_with_one_line_and_goes_on_once_there_is_room(
        self, small: Any, make_lab: Any, recipe: Make, final_bytes: Any, steps_of: Any
    ) -> None:
        settings = recipe(train={"checkpoint_every": 5 * BATCH, "keep": 100})
        file = small.write(settings)
        done = small.run("train", file)
        assert_refused_after_the_start(done, str(small.path), "No space left on device")
        (run,) = (small.path / "runs").iterdir()
        saved = sorted((run / "checkpoints").iterdir())
        assert 1 <= len(saved) < 10, "it was to fill the disk on the way"
        assert all(sorted(p.name for p in one.iterdir()) == WHOLE for one in saved)

        for one in saved:
            checkpoint.load(run / "checkpoints", int(one.name))

        subprocess.run(
            ["mount", "-o", f"remount,size={4 * self.SIZE}", str(small.path)], check=True
        )
        small.train(settings)
        expected = make_lab().train(settings)
        assert final_bytes(run) == final_bytes(expected)
        assert steps_of(run) == steps_of(expected)

    def test_building_a_corpus_stops_with_one_line(self, small: Any, tmp_path: Path) -> None:
        text = tmp_path / "much.jsonl"
        text.write_text(
            "".join(json.dumps({"text": f"document {i} " * 40}) + "\n" for i in range(12_000))
        )
        done = small.run("corpus", "build", "new", f"mine={text}", "--vocab", 300)
        assert_refused(done, "the disk is full")
        assert not (small.path / "corpora/new").exists()


WHOLE = ["checkpoint.json", "moments.safetensors", "weights.safetensors"]
