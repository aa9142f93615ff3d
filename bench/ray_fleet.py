"""What a fleet on Ray costs beside the fleet of local processes, on one machine.

    .venv/bin/python bench/ray_fleet.py --lab lab [--runs 16] [--rounds 3] [--tokens 128k]

A Ray of one node is started here, with as many cores as the machine has, and ended. The same runs,
with new seeds in each round, are trained by local workers and by actors, one after the other, in
labs of their own; workers stay from round to round, so starting them and compiling is off the
clock. Compared: the seconds of each pair, and all losses, which must be equal. Before that, what a
job costs in which nothing is left to train; with --rounds 0 that alone. On the core corpus. Prints
a table and, last, one JSON list.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from claims import Claim, arguments, claim, end, header, row
from many_runs import trial_of
from train import machine
from wsd_cosine import core, new_lab

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train.loop import Watch
from windtunnel.train.run import create
from windtunnel.tunnel.fleet.fleet import fleet
from windtunnel.tunnel.fleet.jobs import Training
from windtunnel.tunnel.fleet.where import train_on, workers
from windtunnel.tunnel.fleet.worker import cores
from windtunnel.tunnel.fleet.workers import Finished

_STORE = 80 * 2**20  # bytes
_JOBS = 200


def main() -> None:
    """Train the runs of each round in both ways."""
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--tokens", default="128k")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    given = parser.parse_args()
    corpus = core(given.lab)
    print(
        f"{machine()}: {given.runs} runs of {given.tokens} tokens on {cores()} workers", flush=True
    )
    pairs = []
    with ray_node(), tempfile.TemporaryDirectory() as place:
        lab = new_lab(Path(place) / "nothing-to-do", corpus)
        job = nothing_to_do(lab, corpus, runs_of(corpus, given, 0)[0])
        trips = {where: round_trip(where, job) for where in ("here", "ray")}
        print(f"a job of nothing: {trips['here']:.1f} ms, on Ray {trips['ray']:.1f} ms", flush=True)
        if given.rounds:
            print(
                "\n" + header("round", "local, s", "Ray, s", "Ray over local", "losses"), flush=True
            )
        for number in range(given.rounds + 1 if given.rounds else 0):
            recipes = runs_of(corpus, given, number)
            taken, losses = {}, {}
            for where in ("here", "ray"):
                lab = new_lab(Path(place) / f"{where}-{number}", corpus)
                taken[where], losses[where] = by_fleet(where, lab, recipes, corpus)
            same = losses["here"] == losses["ray"]
            here, there = taken["here"], taken["ray"]
            # in the first round workers begin, and compile
            name, equal = str(number) if number else "warm-up", "equal" if same else "differ"
            print(
                row(name, f"{here:.1f}", f"{there:.1f}", f"{there / here:.3f}", equal), flush=True
            )
            if number:
                pairs.append((here, there, same))
    end([*claims_of_trips(trips), *(claims_of(pairs, given.runs) if pairs else ())])


def runs_of(corpus: Corpus, given: argparse.Namespace, number: int) -> list[Recipe]:
    """Of a round."""
    trials = [trial_of(corpus, given, index) for index in range(given.runs)]
    return [trial.change(seed=100 * number + trial.seed) for trial in trials]


def by_fleet(
    where: str, lab: Path, recipes: list[Recipe], corpus: Corpus
) -> tuple[float, list[float | None]]:
    """Seconds, and the losses."""
    train_on(where)
    start = time.perf_counter()
    runs = fleet(lab, corpus, recipes, Watch(), where)
    seconds = time.perf_counter() - start
    return seconds, [run.summary().loss for run in runs]


def nothing_to_do(lab: Path, corpus: Corpus, recipe: Recipe) -> Training:
    """To train a run that is done: what any job costs beside its steps."""
    run = create(lab, recipe, corpus)
    run.write_status("done", recipe.total_tokens)
    return Training(runs=(run.path,), corpus=corpus.folder.resolve())


def round_trip(where: str, job: Training) -> float:
    """Median milliseconds from giving a worker a job to hearing of its outcome."""
    train_on(where)
    chosen = workers()
    chosen.wait_until_begun(lambda: False)
    chosen.news(0.1)
    taken = []
    for _ in range(_JOBS):
        start = time.perf_counter()
        chosen.give(chosen.free[0], replace(job))
        while not any(isinstance(one, Finished) for one in chosen.news(10.0)):
            pass
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


@contextmanager
def ray_node() -> Iterator[None]:
    """A cluster of this machine alone, to which RAY_ADDRESS points."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--block"]
    more = [f"--num-cpus={cores()}", f"--object-store-memory={_STORE}", "--include-dashboard=false"]
    process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while subprocess.run([ray, "status"], capture_output=True, check=False).returncode:
            time.sleep(1)
        yield
    finally:
        # its whole session: asked to end, a node waits for the clients that it has
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait()


def claims_of_trips(trips: dict[str, float]) -> list[Claim]:
    """Of jobs of nothing."""
    here, there = round(trips["here"], 1), round(trips["ray"], 1)
    return [
        claim("a job of nothing, by a local worker", here, "ms", machine=machine()),
        claim("a job of nothing, by an actor", there, "ms", machine=machine()),
    ]


def claims_of(pairs: list[tuple[float, float, bool]], runs: int) -> list[Claim]:
    """Of whole fleets, local and on Ray."""
    ratio = statistics.median(there / here for here, there, _ in pairs)
    each = statistics.median((there - here) / runs for here, there, _ in pairs)
    every = all(same for *_, same in pairs)
    return [
        claim("a fleet on Ray over a local one", round(ratio, 3), "x", machine=machine()),
        claim("Ray's overhead for each run", round(each, 3), "s", machine=machine()),
        claim("losses on Ray equal local ones", float(every), "", 1.0, every, machine()),
    ]


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    main()
