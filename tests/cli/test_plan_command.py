"""`windtunnel plan` as people and programs use it: what it prints, the keys that are fixed, and
what it refuses.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import of_a_maximum

from windtunnel.cli import main
from windtunnel.laws.loss import LossLaw
from windtunnel.recipe import load

# https://arxiv.org/abs/2404.10102
CHINCHILLA = LossLaw.of(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
KEYS = {
    "params",
    "params_total",
    "tokens",
    "flops",
    "shape",
    "batch_tokens",
    "lr",
    "loss",
    "interval50",
    "interval90",
    "range_params",
    "extrapolation",
    "flags",
    "recipe",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    sizes, lengths = np.repeat(np.geomspace(1e7, 1e9, 3), 4), np.tile(np.geomspace(1e9, 3e10, 4), 3)
    losses = CHINCHILLA.at(sizes, lengths) * np.exp(0.002 * rng.standard_normal(12))
    rows = [f"{n},{d},{loss}" for n, d, loss in zip(sizes, lengths, losses, strict=True)]
    file = tmp_path_factory.mktemp("table") / "runs.csv"
    file.write_text("\n".join(["params,tokens,loss", *rows]))
    return file


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process, on an empty lab: (exit code, stdout, stderr)."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def command(*arguments: object) -> tuple[int, str, str]:
        words = ["windtunnel", "plan", *map(str, arguments), "--lab", str(tmp_path / "lab")]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def test_json_has_the_keys_that_programs_read(run: Any, table: Path, tmp_path: Path) -> None:
    code, out, err = run("--flops", "1e20", "--from", table, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert set(content) >= KEYS
    assert set(content["shape"]) >= {"width", "depth", "heads", "kv_heads", "ffn", "vocab"}
    assert set(content["extrapolation"]) == {"params", "tokens"}
    assert (
        content["interval90"][0]
        < content["interval50"][0]
        < content["loss"]
        < content["interval50"][1]
    )
    assert content["range_params"][0] <= content["params"] <= content["range_params"][1]
    assert all(set(flag) == {"level", "about", "text"} for flag in content["flags"])
    recipe = load(Path(content["recipe"]))
    assert content["recipe"] == str(tmp_path / "lab/plans/flops-1e20/plan.toml")
    assert (
        recipe.total_tokens == content["tokens"] and recipe.model.width == content["shape"]["width"]
    )


def test_a_law_that_no_float_holds_makes_a_plan(run: Any, tmp_path: Path) -> None:
    rows = [",".join(map(str, row)) for row in zip(*of_a_maximum(), strict=True)]
    steep = tmp_path / "steep.csv"
    steep.write_text("\n".join(["params,tokens,loss", *rows]))
    code, out, err = run("--flops", "1e20", "--from", steep, "--json")
    assert code == 0, err
    laws = {law["form"]: law for law in json.loads(out)["law"]["candidates"]}
    assert laws["coupled+floor"]["B"] is None and 700 < laws["coupled+floor"]["log_B"] < 1000
    assert laws["coupled+floor"]["c"] == pytest.approx(0.02)
    assert math.exp(laws["additive"]["log_B"]) == pytest.approx(laws["additive"]["B"], rel=1e-8)
    code, out, _ = run("--flops", "1e20", "--from", steep)
    assert code == 0 and "\nlaws    coupled " in out


def test_a_person_reads_a_page(run: Any, table: Path) -> None:
    code, out, _ = run(
        "--hours",
        100,
        "--device",
        "h100",
        "--gpus",
        8,
        "--mfu",
        "40%",
        "--price",
        2,
        "--from",
        table,
        "--name",
        "big",
        "--vocab",
        50_000,
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:1]] == ["train"]
    for word in (
        "expect  a loss of",
        "sealed  nothing: the lab has no corpus",
        "nine times in ten",
        "on 8 h100 at 40% of the peak",
        "to pay",
        "serve",
        "vocabulary 50000",
        "times the tokens of the longest run",
        "windtunnel train",
    ):
        assert word in out
    assert len(out.splitlines()) < 25


def test_a_no_go_is_a_failed_verdict_and_a_size_out_of_reach_is_said(run: Any, table: Path) -> None:
    code, out, _ = run("--params", "1T", "--from", table, "--vocab", 50_000)
    assert code == 1
    assert "NO-GO" in out and "windtunnel train" in out
    assert "1T parameters were asked for; the nearest shape has 3" in out
    code, out, _ = run("--params", "100M", "--from", table, "--vocab", 50_000)
    assert code == 0 and "were asked for" not in out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["no budget", "--flops"]),
        (["--flops", "1e18"], ["studies/scaling", "windtunnel scaling", "--from"]),
        (["--flops", "1e18", "--hours", "2"], ["--flops and --hours contradict"]),
        (["--params", "1M", "--shape", "64x4"], ["--params and --shape contradict"]),
        (["--params", "1M", "--fit-device", "1GB"], ["--params and --fit-device contradict"]),
        (["--params", "1M", "--tokens", "1M", "--flops", "1e18"], ["already have their FLOPs"]),
        (["--flops", "lots"], ["--flops lots", "1e18"]),
        (["--flops", "nan"], ["--flops nan"]),
        (["--flops", "-1e18"], ["--flops -1e18"]),
        (["--hours", "-2", "--device", "h100"], ["--hours -2"]),
        (["--hours", "2", "--from", "TABLE"], ["--hours", "--device"]),
        (["--hours", "2", "--device", "h10"], ["--device h10", "did you mean 'h100'"]),
        (
            ["--hours", "2", "--device", "cpu", "--from", "TABLE"],
            ["--device cpu", "lab's own runs"],
        ),
        (["--flops", "1e18", "--mfu", "120%"], ["120%"]),
        (["--flops", "1e18", "--mfu", "fast"], ["--mfu fast"]),
        (["--tokens", "0"], ["--tokens 0"]),
        (["--tokens", "many"], ["--tokens many: expected a number above zero"]),
        (["--epochs", "2", "--flops", "1e18", "--from", "TABLE"], ["--epochs", "--tokens"]),
        (["--fit-device", "fone-6gb"], ["--fit-device fone-6gb", "did you mean 'phone-6gb'"]),
        (["--fit-device", "10", "--from", "TABLE"], ["--fit-device", "smallest"]),
        (["--fit-device", "1GB", "--quantisation", "q5"], ["--quantisation q5", "q4"]),
        (["--flops", "1e18", "--lr", "0"], ["--lr 0"]),
        (["--flops", "1e18", "--parametrization", "mup"], ["--parametrization mup", "minicpm"]),
        (["--flops", "1e18", "--shape", "64"], ["--shape 64", "64x4"]),
        (["--flops", "1e18", "--from", "nowhere.csv"], ["nowhere.csv", "no such table"]),
        (
            ["--flops", "1e18", "--from", "TABLE", "--corpus", "cor", "--name", "../out"],
            ["--name ../out"],
        ),
        (["--params", "1M", "--flops", "1e8", "--from", "TABLE"], ["too small a budget"]),
        (["--audit", "nothing"], ["nothing", "no run"]),
    ],
)
def test_what_is_refused(
    arguments: list[str], names: list[str], run: Any, table: Path, tmp_path: Path
) -> None:
    code, out, err = run(*[str(table) if word == "TABLE" else word for word in arguments])
    assert (code, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("windtunnel: ") and all(name in line for name in names), line
    assert not (tmp_path / "lab" / "plans").exists()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("params,tokens\n1e6,1e8\n", ["loss missing"]),
        ("", ["empty"]),
        ("params,tokens,loss\n" + "1e6,1e8,3\n" * 4, ["1 point:"]),
        ("params,tokens,loss\n1e6,1e8,3\n1e6,2e8,3\n", ["2 points"]),
        (
            "params,tokens,loss\n" + "".join(f"1e6,{d}e8,{3 - d / 20}\n" for d in range(1, 10)),
            ["1 size"],
        ),
        (
            "params,tokens,loss\n"
            + "".join(f"{n}e6,{20 * n}e6,{3 - n / 20}\n" for n in range(1, 10)),
            ["one ray"],
        ),
        ("params,tokens,loss\n1e6,1e8,nan\n", ["line 2", "loss"]),
        ("params,tokens,loss\n1e6,-1e8,3\n", ["line 2", "tokens"]),
    ],
)
def test_a_table_that_tells_nothing(text: str, names: list[str], run: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    code, _, err = run("--flops", "1e18", "--from", file)
    assert code == 2 and "bad.csv" in err and all(name in err for name in names), err


def test_a_corpus_of_the_lab_gives_its_vocabulary_and_tokens(
    run: Any, table: Path, corpus: Any, tmp_path: Path
) -> None:
    shutil.copytree(corpus.folder, tmp_path / "lab/corpora/tiny")
    code, out, err = run("--flops", "1e16", "--from", table, "--corpus", "tiny", "--json")
    assert code == 1 and not err, "too many epochs"
    content = json.loads(out)
    assert content["shape"]["vocab"] == 320 and content["epochs"] > 4
    assert next(flag for flag in content["flags"] if flag["about"] == "epochs")["level"] == "stop"
    assert load(Path(content["recipe"])).data.corpus == "tiny"
    code, _, err = run("--flops", "1e16", "--from", table, "--corpus", "tiny", "--vocab", 99)
    assert code == 2 and "vocabulary of 320" in err
