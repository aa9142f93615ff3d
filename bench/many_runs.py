"""A search's 24 trials of a small model: by the fleet, against 24 plain runs one after the other.

    .venv/bin/python bench/many_runs.py --lab lab [--tokens 512k] [--trials 24]

About 10 minutes on 2 cores. The trials differ in rate, init and multipliers, and are asked as a
search asks: 16, then 8 at a time. *Separate*: each by `windtunnel train` in a process of its own,
with all cores. *One process*: one after the other in one process, with all cores, so without 24
starts. *Fleet*: `tunnel.fleet`, which measures whether members pay, on a lab of its own. All find
compiled code on the disk, but for the members in the first fleet of a shape: run it twice to see
both. Compared: seconds, and the final losses. On the core corpus. Prints a table and, last, one
JSON list.
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
from claims import arguments, claim, header, last_line, row
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
    """Train the trials in three ways, each in a lab of its own."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--tokens", default="512k")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    corpus = core(given.lab)
    trials = [trial_of(corpus, given, index) for index in range(given.trials)]
    model = trials[0].model
    print(
        f"{machine()}: {len(trials)} trials of {count(model).params_total:,} parameters, "
        f"{given.tokens} tokens, batch {given.batch}",
        flush=True,
    )
    seconds, losses = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name, arm in ARMS.items():
            lab = new_lab(Path(place) / name.replace(" ", "-"), corpus)
            arm(lab, trials[:1], corpus)  # compiled now, off the clock; the same run comes again
            again = [trial.change(seed=trial.seed + 1) for trial in trials]
            start = time.perf_counter()
            losses[name] = np.array(arm(lab, again, corpus))
            seconds[name] = time.perf_counter() - start
            print(f"  {name}: {seconds[name]:.0f} s", flush=True)
    report(seconds, losses)


def trial_of(corpus: Corpus, given: argparse.Namespace, index: int) -> Recipe:
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
    """Each by a command of its own."""
    losses = []
    for recipe in trials:
        file = lab / "recipe.toml"
        file.write_text(dump(recipe), encoding="utf-8")
        done = subprocess.run(
            [*COMMAND, "train", file, "--lab", lab, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        losses.append(json.loads(done.stdout)["loss"])
    return losses


def one_process(lab: Path, trials: list[Recipe], corpus: Corpus) -> list[float]:
    """One after the other, here."""
    return [final(train(create(lab, recipe, corpus), corpus).loss) for recipe in trials]


def by_fleet(lab: Path, trials: list[Recipe], corpus: Corpus) -> list[float]:
    """16 at first, then 8 at a time, as a search asks for them."""
    waves = [trials[:16], *(trials[at : at + 8] for at in range(16, len(trials), 8))]
    watch = Watch(say=lambda line: print(f"    {line}", flush=True))
    losses = []
    for wave in waves:
        losses += [final(run.summary().loss) for run in fleet(lab, corpus, wave, watch, "fleet")]
    return losses


def final(loss: float | None) -> float:
    """The loss of a run that has ended, which has one."""
    assert loss is not None
    return loss


ARMS = {"separate": separate, "one process": one_process, "fleet": by_fleet}


def report(seconds: dict[str, float], losses: dict[str, np.ndarray]) -> None:
    """A row a way, and what is claimed."""
    difference = "largest difference of a final loss from the separate run's"
    print("\n" + header("trials", "seconds", "times the fleet's", difference))
    for name, taken in seconds.items():
        apart = np.abs(losses[name] - losses["separate"]).max()
        print(row(name, f"{taken:.0f}", f"{taken / seconds['fleet']:.2f}", f"{apart:.4f}"))
    ratio = seconds["separate"] / seconds["fleet"]
    alone = seconds["one process"] / seconds["fleet"]
    last_line(
        [
            claim(
                "24 trials by the fleet over 24 separate runs",
                round(ratio, 2),
                "x",
                TARGET,
                ratio >= TARGET,
                machine(),
            ),
            claim(
                "24 trials by the fleet over one after the other in one process",
                round(alone, 2),
                "x",
                machine=machine(),
            ),
        ]
    )


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    main()
