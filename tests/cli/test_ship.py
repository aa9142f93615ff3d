"""`windtunnel export` and `import` as a person meets them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.cli import main
from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.ship import multipliers as ship_multipliers
from windtunnel.ship.huggingface import config
from windtunnel.ship.layouts import LAYOUTS, FolderLayout

BATCH = 128
Make = Callable[..., Recipe]
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make) -> Any:
    """A lab with a stem of 40 steps, checkpoints at 20 and 40, and a branch."""
    lab = make_lab()
    lab.train(stem(40 * BATCH, branch_points=[20 * BATCH]))
    lab.json("branch", "tiny", "--at", 20 * BATCH, "--decay", 5 * BATCH, "--name", "early")
    return lab


@pytest.fixture
def run_here(
    trained: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """The command line in this process, where transformers is loaded once: exit code, stdout,
    stderr.
    """

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(
            "sys.argv", ["windtunnel", *map(str, arguments), "--lab", str(trained.path)]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_an_export_is_whole_and_says_how_near_it_is(
    trained: Any, run_here: Callable[..., Any]
) -> None:
    folders = [name for name, layout in LAYOUTS.items() if isinstance(layout, FolderLayout)]
    for to in folders:
        code, out, err = run_here("export", "early", "--to", to, "--json")
        assert code == 0, err
        done = json.loads(out)
        assert (done["to"], done["dtype"], done["tokens"]) == (to, "fp32", 25 * BATCH)
        assert done["agreement"]["tokens"] >= 2000 and done["agreement"]["max_difference"] <= 1e-4
        folder = Path(done["path"])
        assert folder.parent == trained.path / "exports"
        assert {path.name for path in folder.iterdir()} == {
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "windtunnel-export.json",
        }
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, (
            "who may read one may read all"
        )
    assert not list((trained.path / "exports").glob(".*"))


def test_the_card_tells_where_the_model_comes_from(
    trained: Any, run_here: Callable[..., Any], tmp_path: Path
) -> None:
    assert run_here("export", "early", "--to", "hf", "--out", tmp_path / "x")[0] == 0
    text = (tmp_path / "x/README.md").read_text()
    stem, early = trained.json("runs")
    for said in (
        f"stem `{stem['id']}`",
        f"branch `{early['id']}`",
        "# early",
        "## Data",
        "generated",
        "## Evaluation",
        f"{early['loss']:.4f}",
        "transformers",
        'name = "early"',
        "decay over the last 640",
    ):
        assert said in text, said
    assert str(trained.path) not in text


def test_any_checkpoint_and_any_precision(
    trained: Any, run_here: Callable[..., Any], tmp_path: Path
) -> None:
    code, out, _ = run_here(
        "export", "tiny", "--to", "hf", "--at", 20 * BATCH, "--dtype", "bf16", "--json"
    )
    done = json.loads(out)
    assert (code, done["tokens"], done["dtype"]) == (
        0,
        20 * BATCH,
        "bf16",
    ) and "2560-hf-bf16" in done["path"]
    assert json.loads((Path(done["path"]) / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_what_is_there_is_not_written_over_unless_one_says_so(
    trained: Any, run_here: Callable[..., Any], tmp_path: Path
) -> None:
    place = tmp_path / "x"
    ask = ("export", "early", "--to", "minicpm", "--out", place)
    assert run_here(*ask)[0] == 0
    (place / "README.md").write_text("mine")
    code, _, err = run_here(*ask)
    assert code == 2 and "--overwrite" in err and (place / "README.md").read_text() == "mine"
    assert run_here(*ask, "--overwrite")[0] == 0 and (place / "README.md").read_text() != "mine"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/one.txt").write_text("dear")
    code, _, err = run_here(
        "export", "early", "--to", "hf", "--out", tmp_path / "letters", "--overwrite"
    )
    assert code == 2 and "not an export" in err and (tmp_path / "letters/one.txt").exists()


def test_an_export_that_is_off_fails_and_is_not_left(
    run_here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong multiplier in what is written, as engines have had it: 1/sqrt(L) is left out."""
    right = config.multipliers

    def wrong(model: Any) -> Any:
        found = right(model)
        return dataclasses.replace(found, residual=found.residual * 2)

    monkeypatch.setattr(config, "multipliers", wrong)
    monkeypatch.setattr(ship_multipliers, "multipliers", wrong)
    for to in ("hf", "llama"):
        code, out, err = run_here("export", "early", "--to", to, "--out", tmp_path / "x")
        last = err.splitlines()[-1]
        assert code == 1 and not out and "was not written, because the model would be off" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["early", "--to", "hff"], ["--to hff", "did you mean 'hf'"]),
        (["earley", "--to", "hf"], ["earley", "did you mean 'early'"]),
        (["early"], ["--to hf|minicpm|llama|gguf or --table"]),
        (["early", "--to", "hf", "--dtype", "int4"], ["--dtype int4", "fp32, bf16, fp16"]),
        (["early", "--to", "hf", "--at", "999"], ["no checkpoint at 999 tokens", "there are: "]),
        (["early", "--to", "hf", "--at", "soon"], ["soon", "tokens"]),
        (["early", "--to", "hf", "--out", ""], ["--out .", "the folder that you are in"]),
    ],
)
def test_an_export_that_cannot_be(
    arguments: list[str], names: list[str], trained: Any, run_here: Callable[..., Any]
) -> None:
    files = trained.files()
    code, out, err = run_here("export", *arguments)
    assert (
        code == 2 and not out and len(err.splitlines()) == 1 and all(name in err for name in names)
    ), err
    assert trained.files() == files


def test_a_gguf_that_is_rounded(run_here: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    code, out, err = run_here(
        "export", "early", "--to", "gguf", "--dtype", "q8_0", "--out", tmp_path / "one"
    )
    assert code == 0, err
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "README.md",
        "early-Q8_0.gguf",
        "windtunnel-export.json",
    }
    assert "Q8_0" in out and "0.5% allowed" in out


@pytest.mark.slow
def test_gguf_in_every_precision(run_here: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    code, out, err = run_here("export", "early", "--table", "--out", tmp_path / "all", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert all(Path(row["file"]).stat().st_size == row["bytes"] for row in rows) and len(rows) >= 6


def test_from_a_folder_to_a_branch_and_out_again(lab: Any, corpus: Corpus, tmp_path: Path) -> None:
    """In processes of their own, as a person does it: their model, my text, a branch, an export."""
    model = model_of("grouped")
    theirs = portable_of(model, weights_of(model), corpus.tokenizer, eos_token="<|end|>")
    LAYOUTS["minicpm"].write(tmp_path, theirs, "bf16")
    made = lab.json("import", tmp_path, "--name", "theirs")
    assert (made["name"], made["kind"], made["tokens"], made["status"]) == (
        "theirs",
        "stem",
        0,
        "done",
    )
    (tmp_path / "mine.txt").write_text(
        "windtunnel\n\n".join(f"my own words {i} " * 30 for i in range(60))
    )
    built = lab.json(
        "corpus", "build", "mine", f"notes={tmp_path / 'mine.txt'}", "--tokenizer", "theirs"
    )
    assert built["vocab"] == 320
    ask = (
        "branch",
        "theirs",
        "--at",
        0,
        "--decay",
        512,
        "--corpus",
        "mine",
        "--batch",
        128,
        "--context",
        32,
    )
    assert lab.run(*ask).returncode == 2
    recipe = Path(made["path"]) / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('compile = "auto"', "compile = false"))
    branch = lab.json(*ask, "--lr", 0.01)
    assert (branch["parent"], branch["tokens"], branch["status"]) == (made["id"], 512, "done")
    for run in (made["id"], branch["id"]):
        done = lab.json("export", run, "--to", "minicpm")
        assert done["agreement"]["max_difference"] == 0
        config = json.loads((Path(done["path"]) / "config.json").read_text())
        assert (
            config["scale_emb"],
            config["dim_model_base"],
            config["max_position_embeddings"],
        ) == (10.0, 32, 64)
    assert "imported `" in (Path(done["path"]) / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "says"), [("weights.bin", "a pickle is a program"), ("nowhere", "no such folder")]
)
def test_an_import_that_cannot_be(name: str, says: str, lab: Any, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04")
    files = lab.files()
    done = lab.run("import", tmp_path / name)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and says in done.stderr
    assert lab.files() == files
    done = lab.run("corpus", "build", "mine", f"notes={tmp_path}", "--tokenizer", name)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
