"""What a study's second start on the same machine spends on compiling what the first has compiled.

    .venv/bin/python bench/second_start.py [--lab lab]       # about 4 minutes on 2 cores

Twice the same small study of the core corpus (two shapes, two seeds each, 40 steps), each time in
new processes and in a new lab; the first time with an empty cache of compiled code. Prints what
the fleet says and, last, one JSON list.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claims import arguments, claim, last_line
from train import machine
from wsd_cosine import core, new_lab

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe, parse
from windtunnel.train.loop import Watch
from windtunnel.tunnel.fleet.fleet import fleet

WIDTHS, SEEDS = (32, 48), (0, 1)
COMPILED = re.compile(r"study: (?:nothing|(\d+) graphs) compiled anew")


def main() -> None:
    """Start the study twice, and count."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--study", type=Path, metavar="LAB", help="what each start runs")
    given = parser.parse_args()
    if given.study:
        study(given.study)
        return
    corpus, made = core(given.lab), []
    with tempfile.TemporaryDirectory() as place:
        for start in ("first", "second"):
            lab = new_lab(Path(place) / start, corpus)
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{place}/cache"}
            begun = time.perf_counter()
            said = subprocess.run(
                [sys.executable, __file__, "--study", lab],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            ).stdout
            seconds = time.perf_counter() - begun
            found = COMPILED.search(said)
            assert found, said
            made.append(int(found[1] or 0))
            print(f"{start} start, {seconds:.0f} s in all:\n{said}", flush=True)
    first, second = made
    what = "graphs compiled anew at the {} start"
    last_line(
        [
            claim(what.format("first"), first, "graphs", machine=machine()),
            claim(what.format("second"), second, "graphs", 0, second == 0, machine()),
        ]
    )


def study(lab: Path) -> None:
    """Two shapes and two seeds, by the fleet."""
    (folder,) = (lab / "corpora").iterdir()
    corpus = Corpus.open(folder)
    recipes = [recipe_of(corpus, width, seed) for width in WIDTHS for seed in SEEDS]
    fleet(lab, corpus, recipes, Watch(say=print), "study")


def recipe_of(corpus: Corpus, width: int, seed: int) -> Recipe:
    """40 steps of a model of two layers."""
    model = {"width": width, "depth": 2, "heads": 2, "vocab": corpus.manifest.vocab}
    settings = {
        "name": f"{width}-{seed}",
        "seed": seed,
        "model": model,
        "data": {"corpus": corpus.folder.name},
        "schedule": {"tokens": "40960"},
        "train": {"batch": 1024, "evaluate_every": "100%", "evaluate_tokens": 8192},
    }
    return parse(settings, "bench")


if __name__ == "__main__":
    main()
