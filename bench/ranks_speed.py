"""What sharding costs: one run on two processes, each with one thread, beside the same run on one
process with one thread.

    .venv/bin/python bench/ranks_speed.py [--rounds 2] [--steps 12]

About 3 minutes on 2 cores. Each shape trains under torchrun on one process and on two, in turns, as
it stands in the recipe (fp32, not compiled, a batch of 8,192 tokens of 256). Compared: the median
tokens a second of the steps after the first three, and the last loss, which differs by rounding.
Prints a table and, last, one JSON list.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from claims import Claim, arguments, claim, end, row
from train import machine

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.recipe import Recipe, dump, parse
from windtunnel.train.run import find_run

SHAPES = {"0.2M": (64, 4), "6M": (256, 8)}  # (width, depth) by parameters without embeddings
BATCH, WARM = 8192, 3


def main() -> None:
    """Both, in turns."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    claims: list[Claim] = []
    print(row("parameters", "one process, tokens/s", "two processes", "gain", "losses differ by"))
    print(row(*["---"] * 5))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        for name, (width, depth) in SHAPES.items():
            speeds: dict[int, list[float]] = {1: [], 2: []}
            losses: dict[int, float] = {}
            for number in range(given.rounds):
                for ranks in (1, 2):
                    lab = Path(place) / f"{name}-{number}-{ranks}"
                    speed, losses[ranks] = trained(lab, made(lab, width, depth, given.steps), ranks)
                    speeds[ranks].append(speed)
            one, two = (statistics.median(speeds[ranks]) for ranks in (1, 2))
            apart = abs(losses[1] - losses[2])
            print(row(name, round(one), round(two), f"{two / one:.2f}", f"{apart:.1e}"))
            what = f"{name}: two processes over one, tokens a second"
            claims.append(claim(what, round(two / one, 3), "x", machine=machine()))
    end(claims)


def made(lab: Path, width: int, depth: int, steps: int) -> Recipe:
    """A corpus of random words, and a recipe upon it."""
    words = [f"{a}{b}" for a in ("wi", "tu", "sa", "lo") for b in ("nd", "rrel", "sta", "mel")]
    texts = [" ".join(random.Random(i).choices(words, k=400)) for i in range(800)]
    documents = Documents(read=lambda: iter(texts), origin="generated", identity="speed")
    corpus = build(lab / "corpora" / "words", {"words": documents}, vocab=320)
    values = {
        "name": "speed",
        "model": {"width": width, "depth": depth, "heads": width // 32}
        | {"vocab": corpus.manifest.vocab},
        "data": {"corpus": "words", "context": 256},
        "schedule": {"tokens": steps * BATCH, "warmup": BATCH},
        "train": {"batch": BATCH, "precision": "fp32", "compile": False, "device": "cpu"}
        | {"checkpoint_every": 0, "evaluate_every": 0},
    }
    return parse(values, "speed")


def trained(lab: Path, recipe: Recipe, ranks: int) -> tuple[float, float]:
    """Median tokens a second after the first steps, and the last loss."""
    file = lab / "recipe.toml"
    file.write_text(dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), "-m", "windtunnel", "train", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--lab", str(lab)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    steps = find_run(lab, "speed").steps()
    return statistics.median(step.tokens_per_s for step in steps[WARM:]), steps[-1].loss


if __name__ == "__main__":
    main()
