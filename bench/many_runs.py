"""A search's 24 trials of a small model: by the fleet, against 24 plain runs one after the other.

    .venv/bin/python bench/many_runs.py --lab lab [--tokens 512k] [--trials 24]      # about 10 minutes on 2 cores

The trials differ in rate, init and multipliers, and are asked as a search asks: 16, then 8 at a
time. *Separate*: each by `windtunnel train` in a process of its own, with all cores. *One
process*: one after the other in one process, with all cores, so without 24 starts. *Fleet*:
`tunnel.fleet`, which measures whether members pay, on a lab of its own. All find compiled code on
the disk, but for the members in the first fleet of a shape: run it twice to see both. Compared:
seconds, and the final losses. On the core corpus. Prints a table and, last, one JSON list.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from train import machine
from wsd_cosine import core, new_lab

from windtunnel.data.shards import Corpus
from windtunnel.model.shape import count
from windtunnel.recipe import Recipe, dump, parse
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import create
from windtunnel.tunnel.fleet.fleet import fleet

COMMAND = [sys.executable, "-c", "from windtunnel.cli import main; main()"]
TARGET = 2.0


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--lab", type=Path, default=Path("lab"))
    arguments.add_argument("--tokens", default="512k")
    arguments.add_argument("--batch", type=int, default=2048)
    arguments.add_argument("--trials", type=int, default=24)
    arguments.add_argument("--precision", default="auto")
    given = arguments.parse_args()
    corpus = core(given.lab)
    trials = [trial(corpus, given, index) for index in range(given.trials)]
    model = trials[0].model
    print(
        f"{machine()}: {len(trials)} trials of {count(model).params_total:,} parameters, {given.tokens} tokens, "
        f"batch {given.batch}",
        flush=True,
    )
    seconds, losses = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name, arm in (
            ("separate", separate),
            ("one process", one_process),
            ("fleet", by_fleet),
        ):
            lab = new_lab(Path(place) / name.replace(" ", "-"), corpus)
            arm(
                lab, trials[:1], corpus
            )  # compiled now, not on the clock; the run itself is done again below
            start = time.perf_counter()
            losses[name] = np.array(arm(lab, [t.change(seed=t.seed + 1) for t in trials], corpus))
            seconds[name] = time.perf_counter() - start
            print(f"  {name}: {seconds[name]:.0f} s", flush=True)
    report(seconds, losses)


def trial(corpus: Corpus, given: argparse.Namespace, index: int) -> Recipe:
    """Settings from a fixed random sequence; about 50k parameters outside of the vocabulary's
    table.
    """
    draw = np.random.default_rng(index).uniform(size=4)
    settings = {
        "name": f"trial-{index}",
        "model": {
            "width": 48,
            "depth": 2,
            "heads": 2,
            "vocab": corpus.manifest.vocab,
            "base_width": 32,
            "init_std": 0.05 * 4 ** draw[1],
            "scale_emb": 6 * 4 ** draw[2],
            "scale_depth": 0.7 * 4 ** draw[3],
        },
        "data": {"corpus": corpus.folder.name},
        "optimizer": {"lr": 0.003 * 10 ** draw[0]},
        "schedule": {"tokens": given.tokens},
        "train": {
            "batch": given.batch,
            "precision": given.precision,
            "evaluate_every": "100%",
            "evaluate_tokens": 32768,
            "checkpoint_every": "100%",
        },
    }
    return parse(settings, "bench")


def separate(lab: Path, trials: list[Recipe], corpus: Corpus) -> list[float]:
    losses = []
    for recipe in trials:
        file = lab / "recipe.toml"
        file.write_text(dump(recipe))
        done = subprocess.run(
            [*COMMAND, "train", file, "--lab", lab, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        losses.append(json.loads(done.stdout)["loss"])
    return losses


def one_process(lab: Path, trials: list[Recipe], corpus: Corpus) -> list[float]:
    return [train(create(lab, recipe, corpus), corpus).loss for recipe in trials]


def by_fleet(lab: Path, trials: list[Recipe], corpus: Corpus) -> list[float]:
    waves = [trials[:16], *(trials[at : at + 8] for at in range(16, len(trials), 8))]
    watch = Watch(say=lambda line: print(f"    {line}", flush=True))
    return [
        run.summary().loss for wave in waves for run in fleet(lab, corpus, wave, watch, "fleet")
    ]


def report(seconds: dict[str, float], losses: dict[str, np.ndarray]) -> None:
    print(
        "\n| trials | seconds | times the fleet's | largest difference of a final loss from the separate run's |"
    )
    print("|---|---|---|---|")
    for name, taken in seconds.items():
        apart = np.abs(losses[name] - losses["separate"]).max()
        print(f"| {name} | {taken:.0f} | {taken / seconds['fleet']:.2f} | {apart:.4f} |")
    ratio = seconds["separate"] / seconds["fleet"]
    claims = [
        {
            "claim": "24 trials by the fleet over 24 separate runs",
            "value": round(ratio, 2),
            "unit": "x",
            "target": TARGET,
            "ok": ratio >= TARGET,
            "machine": machine(),
        },
        {
            "claim": "24 trials by the fleet over one after the other in one process",
            "value": round(seconds["one process"] / seconds["fleet"], 2),
            "unit": "x",
            "target": None,
            "ok": None,
            "machine": machine(),
        },
    ]
    print(json.dumps(claims))


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    main()
