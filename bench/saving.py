"""What a checkpoint costs the training loop.

    .venv/bin/python bench/saving.py [--params 50M] [--every 5] [--disk 0] [--rounds 3]
        [--place FOLDER] [--against CHECKOUT/src]

A model of about so many parameters trains on the CPU by one thread, once with four checkpoints,
`--every` so many steps, and once without them; both save at their end. What a checkpoint costs is a
fourth of the difference of their times. `--against`: the same with the code of another checkout, in
turns with this one. `--disk`: a disk of so many MB/s, played by a pause before a file is flushed,
in which other threads run, as they do while a real one is waited for; 0 is the disk of `--place`.
Prints a JSON list last.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from claims import arguments, claim, last_line
from train import machine

SAVES, CONTEXT = 4, 64
# Width and depth. The vocabulary is small: these are nearly all parameters.
SHAPES = {"8M": (256, 8), "50M": (640, 10)}


def main() -> None:
    """Both checkouts in turns, each in a process of its own."""
    parser = arguments(__doc__)
    parser.add_argument("--params", choices=SHAPES, default="50M")
    parser.add_argument("--every", type=int, default=5, help="steps")
    parser.add_argument("--disk", type=float, default=0.0, help="MB/s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--against", type=Path)
    parser.add_argument("--once", action="store_true", help="measure, and print seconds alone")
    given = parser.parse_args()
    if given.once:
        print(json.dumps(seconds(given)))
        return
    codes = {"this": Path(__file__).resolve().parent.parent / "src"}
    if given.against:
        codes["the other"] = given.against
    found: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
    for _ in range(given.rounds):
        for name, code in codes.items():
            found[name].append(measured(code))
            print(f"  {name}: {found[name][-1]}", flush=True)
    asked = {"params": given.params, "every": given.every, "disk": given.disk}
    last_line(
        claim(
            f"time that a checkpoint costs, by {name} checkout",
            round(statistics.median(one["a checkpoint"] for one in rows), 2),
            "s",
            machine=machine(),
            least=min(one["a checkpoint"] for one in rows),
            most=max(one["a checkpoint"] for one in rows),
            step=round(statistics.median(one["a step"] for one in rows), 3),
            **asked,
        )
        for name, rows in found.items()
    )


def measured(code: Path) -> dict[str, float]:
    """By a process that runs this code."""
    done = subprocess.run(
        [sys.executable, __file__, "--once", *sys.argv[1:]],
        env=os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def seconds(given: Namespace) -> dict[str, float]:
    """What a checkpoint costs, and a step."""
    from windtunnel.data.build import build
    from windtunnel.data.readers import Documents
    from windtunnel.train import checkpoint

    if given.disk:
        at_once = checkpoint.digest_of

        def later(file: Path) -> str:
            time.sleep(file.stat().st_size / given.disk / 1e6)
            return at_once(file)

        checkpoint.digest_of = later
    texts = [f"lamp {i} stands by the river, and its light is {i * i}." for i in range(2000)]
    with tempfile.TemporaryDirectory(dir=given.place) as place:
        source = Documents(read=lambda: iter(texts), origin="a bench", identity="lamps")
        build(Path(place) / "corpora" / "lamps", {"lamps": source}, vocab=300)
        without = trained(given, Path(place), 0)
        took = trained(given, Path(place), given.every)
    steps = given.every * (SAVES + 1) - 1
    return {
        "without": round(without, 2),
        "with": round(took, 2),
        "a checkpoint": round((took - without) / SAVES, 3),
        "a step": without / steps,
    }


def trained(given: Namespace, lab: Path, every: int) -> float:
    """Seconds from the second step of a run to its end."""
    from windtunnel.data.shards import Corpus
    from windtunnel.recipe import parse
    from windtunnel.train.loop import train
    from windtunnel.train.member import Watch
    from windtunnel.train.run import create

    width, depth = SHAPES[given.params]
    batch, corpus = 2 * CONTEXT, Corpus.open(lab / "corpora" / "lamps")
    recipe = parse(
        {
            "name": f"every-{every}",
            "seed": every,  # how often it is saved makes no other run of it
            "model": {"width": width, "depth": depth, "heads": 4, "vocab": corpus.manifest.vocab},
            "data": {"corpus": "lamps", "context": CONTEXT},
            "schedule": {"tokens": given.every * (SAVES + 1) * batch, "warmup": 0, "decay": 0},
            "train": {
                "batch": batch,
                "device": "cpu",
                "precision": "fp32",
                "compile": False,
                "checkpoint_every": every * batch,
                "evaluate_every": 0,
                "evaluate_tokens": CONTEXT,
            },
        },
        "bench/saving.py",
    )
    begun: list[float] = []
    watch = Watch(gradient=lambda step, position: begun.append(time.perf_counter()))
    train(create(lab, recipe, corpus), corpus, watch)
    return time.perf_counter() - begun[1]


if __name__ == "__main__":
    main()
