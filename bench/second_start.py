"""What a study's second start on the same machine spends on compiling what the first has compiled.

    .venv/bin/python bench/second_start.py [--lab lab]       # about 4 minutes on 2 cores

Twice the same small study of the core corpus (two shapes, two seeds each, 40 steps), each time in
new processes and in a new lab; the first time with an empty cache of compiled code. Prints what
the fleet says and, last, one JSON list.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train import machine
from wsd_cosine import core, new_lab

STUDY = """
import sys
from pathlib import Path
from windtunnel.data.shards import Corpus
from windtunnel.recipe import parse
from windtunnel.train.loop import Watch
from windtunnel.tunnel.fleet.fleet import fleet
if __name__ == "__main__":
    lab, folder = Path(sys.argv[1]), Path(sys.argv[2])
    corpus = Corpus.open(folder)
    def recipe(width, seed):
        return parse({"name": f"{width}-{seed}", "seed": seed, "model": {"width": width, "depth": 2, "heads": 2,
                      "vocab": corpus.manifest.vocab}, "data": {"corpus": folder.name}, "schedule": {"tokens": "40960"},
                      "train": {"batch": 1024, "evaluate_every": "100%", "evaluate_tokens": 8192}}, "bench")
    fleet(lab, corpus, [recipe(w, s) for w in (32, 48) for s in (0, 1)], Watch(say=print), "study")
"""
COMPILED = re.compile(r"study: (?:nothing|(\d+) graphs) compiled anew")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--lab", type=Path, default=Path("lab"))
    corpus, made = core(arguments.parse_args().lab), []
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "study.py").write_text(STUDY)
        for start in ("first", "second"):
            lab = new_lab(Path(place) / start, corpus)
            begun = time.perf_counter()
            command = [
                sys.executable,
                f"{place}/study.py",
                str(lab),
                str(lab / "corpora" / corpus.folder.name),
            ]
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{place}/cache"}
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            ).stdout
            seconds = time.perf_counter() - begun
            found = COMPILED.search(said)
            assert found, said
            made.append(int(found[1] or 0))
            print(f"{start} start, {seconds:.0f} s in all:\n{said}", flush=True)
    claims = [
        {
            "claim": f"graphs compiled anew at the {start} start",
            "value": value,
            "unit": "graphs",
            "target": target,
            "ok": None if target is None else value <= target,
            "machine": machine(),
        }
        for start, value, target in (("first", made[0], None), ("second", made[1], 0))
    ]
    print(json.dumps(claims))


if __name__ == "__main__":
    main()
