"""Makes the lab in this folder with the code of the release before `RESULTS_VERSION` 4:

    git archive f290b9f src | tar -x -C /tmp/release
    PYTHONPATH=/tmp/release/src OMP_NUM_THREADS=1 python tests/old_lab/make.py

A stem and its branch; the branch's export, imported again; the branch fine-tuned; a run that
failed and one that was never begun. The text is a dozen words at random.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.recipe import dump, parse
from windtunnel.train.run import create

HERE = Path(__file__).parent
WORDS = [
    "lamp",
    "river",
    "stone",
    "cloud",
    "paper",
    "green",
    "seven",
    "quiet",
    "window",
    "garden",
    "letter",
    "music",
]
RECIPE = {
    "name": "stem",
    "model": {"width": 8, "depth": 1, "heads": 1, "vocab": 264, "base_width": 8},
    "data": {"corpus": "words", "context": 16},
    "schedule": {"tokens": 2560, "warmup": 128, "decay": 0},
    "train": {
        "batch": 64,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "checkpoint_every": "100%",
        "evaluate_every": "100%",
        "evaluate_tokens": 512,
        "keep": 1,
    },
}


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def chat(words: tuple[str, str]) -> str:
    turns = zip(("user", "assistant"), words, strict=True)
    return json.dumps({"messages": [{"role": who, "content": says} for who, says in turns]})


def windtunnel(lab: Path, *arguments: object, fails: bool = False) -> None:
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()"]
    done = subprocess.run([*command, *map(str, arguments), "--lab", str(lab)], cwd=lab.parent)
    assert (done.returncode != 0) == fails, arguments


def make(lab: Path) -> None:
    work = lab.parent
    documents = [json.dumps({"text": text(20, seed)}) for seed in range(200)]
    (work / "words.jsonl").write_text("\n".join(documents))
    windtunnel(lab, "corpus", "build", "words", "words=words.jsonl", "--vocab", 264)
    corpus = Corpus.open(lab / "corpora" / "words")

    def recipe(**sections: object) -> Path:
        file = work / "recipe.toml"
        made = parse(RECIPE, "here").change(**sections)
        file.write_text(dump(made))
        return file

    windtunnel(lab, "train", recipe())
    windtunnel(lab, "branch", "stem", "--at", 1280, "--decay", 640, "--name", "branch")
    windtunnel(lab, "export", "branch", "--to", "hf", "--out", "exported")
    windtunnel(lab, "import", "exported", "--name", "imported")
    (work / "chats.jsonl").write_text("\n".join(map(chat, product(WORDS, WORDS))))
    windtunnel(lab, "sft", "branch", "--data", "chats.jsonl", "--tokens", 640, "--name", "tuned")
    windtunnel(lab, "train", recipe(name="failed", optimizer={"lr": 1e30, "clip": 0}), fails=True)
    create(lab, parse(RECIPE, "here").change(name="never", seed=1), corpus)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "lab"
        make(made)
        for name in ("corpora", "runs"):
            shutil.rmtree(HERE / name, ignore_errors=True)
            left_out = shutil.ignore_patterns("lock", "verified.json")
            shutil.copytree(made / name, HERE / name, ignore=left_out)
