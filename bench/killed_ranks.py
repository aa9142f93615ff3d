"""One process of four is killed, again and again: every job ends by one clear line, and the run
that is asked for each time ends as if nothing had happened.

    .venv/bin/python bench/killed_ranks.py [--kills 20] [--seed 0]

About 15 minutes on 2 cores. A small run trains on four processes under torchrun, with a checkpoint
every second step. A random one of the four is killed (SIGKILL) at a random moment: half of the
times a while after a step was recorded, half of the times while a checkpoint is being written. Then
the same command is given again. Measured: seconds from each kill to the end of the job; lines by
which windtunnel says why; at the end, every step's loss against a run that nobody killed, which
must have the same bits, and steps that are missing or there twice. Prints a JSON list last.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claims import arguments, claim, end
from train import machine

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.recipe import Recipe, dump, parse
from windtunnel.train.run import Run, find_run

RANKS, WITHIN = 4, 60.0
COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def main() -> None:
    """Kill, ask again, and compare the end."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        killed, whole = Path(place) / "killed", Path(place) / "whole"
        file = Path(place) / "recipe.toml"
        for lab in (killed, whole):
            recipe = made(lab, given.steps)
        file.write_text(dump(recipe), encoding="utf-8")
        seconds, lines, during = [], [], 0
        for number in range(given.kills):
            took, said, writing = killed_once(killed, file, draw, in_checkpoint=number % 2 == 1)
            seconds.append(took)
            lines.append(said)
            during += writing
            print(f"  kill {number + 1}: {took:.1f} s, {said} lines, {writing=}", flush=True)
        for lab in (killed, whole):
            done = subprocess.run(command(lab, file), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        ends = [find_run(lab, recipe.name) for lab in (killed, whole)]
        report(seconds, lines, during, *ends)


def made(lab: Path, steps: int) -> Recipe:
    """A corpus of random words, and a recipe upon it."""
    words = [f"{a}{b}" for a in ("wi", "tu", "sa", "lo") for b in ("nd", "rrel", "sta", "mel")]
    texts = [" ".join(random.Random(i).choices(words, k=60)) for i in range(800)]
    documents = Documents(read=lambda: iter(texts), origin="generated", identity="killed")
    corpus = build(lab / "corpora" / "words", {"words": documents}, vocab=320)
    values = {
        "name": "killed",
        "model": {"width": 32, "depth": 2, "heads": 2, "base_width": 16}
        | {"vocab": corpus.manifest.vocab},
        "data": {"corpus": "words", "context": 32},
        "schedule": {"tokens": steps * 128, "warmup": 512},
        "train": {"batch": 128, "precision": "fp32", "compile": False, "device": "cpu"}
        | {"checkpoint_every": 256, "evaluate_every": "20%", "evaluate_tokens": 1024},
    }
    return parse(values, "the bench's recipe")


def command(lab: Path, file: Path) -> list[str]:
    """What a person types."""
    ranks = ["--nproc-per-node", str(RANKS)]
    return [*COMMAND, *ranks, "-m", "windtunnel", "train", str(file), "--lab", str(lab)]


def killed_once(
    lab: Path, file: Path, draw: random.Random, in_checkpoint: bool
) -> tuple[float, int, bool]:
    """Seconds from the kill to the job's end, lines that say why, and whether a checkpoint was
    being written.
    """
    errors = lab / "errors"
    with errors.open("wb") as stream:
        job = subprocess.Popen(command(lab, file), stdout=stream, stderr=stream)
        before = recorded(lab)
        while recorded(lab) <= before:
            assert job.poll() is None, errors.read_text(encoding="utf-8")
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 3))
        while in_checkpoint and not being_written(lab):
            assert job.poll() is None, errors.read_text(encoding="utf-8")
        victim = draw.choice(children(job.pid))
        os.kill(victim, signal.SIGKILL)
        writing, start = being_written(lab), time.monotonic()
        job.wait()
    took = time.monotonic() - start
    said = [
        line
        for line in errors.read_text(encoding="utf-8").splitlines()
        if line.startswith("windtunnel: ")
    ]
    if len(said) != 1:
        print(errors.read_text(encoding="utf-8"), flush=True)
    return took, len(said), writing


def recorded(lab: Path) -> int:
    """Bytes of the steps that were recorded."""
    return sum(file.stat().st_size for file in lab.glob("runs/*/metrics.jsonl"))


def being_written(lab: Path) -> bool:
    """Whether a checkpoint lies half-written."""
    return any(lab.glob("runs/*/checkpoints/*.part"))


def children(process: int) -> list[int]:
    """The ranks that torchrun started."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text(encoding="utf-8").split()]
    return found


def report(seconds: list[float], lines: list[int], during: int, killed: Run, whole: Run) -> None:
    """The claims."""
    mine, theirs = ([(line.tokens, line.loss) for line in run.steps()] for run in (killed, whole))
    asked = whole.recipe.steps_in(whole.recipe.total_tokens)
    times = [tokens for tokens, _ in mine]
    lost = asked - len(set(times)) + len(times) - len(set(times))
    name, kills = machine(), len(seconds)
    print(f"{kills} kills, {during} of them while a checkpoint was being written")
    end(
        [
            claim(
                "longest time from a kill to the end of the job",
                round(max(seconds), 1),
                "s",
                WITHIN,
                max(seconds) < WITHIN,
                name,
            ),
            claim(
                "jobs that ended by exactly one line",
                lines.count(1),
                f"of {kills}",
                kills,
                lines.count(1) == kills,
                name,
            ),
            claim("steps missing or there twice", lost, f"of {asked}", 0, lost == 0, name),
            claim(
                "losses with other bits than those of a run that nobody killed",
                sum(one != other for one, other in zip(mine, theirs, strict=False)),
                f"of {asked}",
                0,
                mine == theirs,
                name,
            ),
        ]
    )


if __name__ == "__main__":
    main()
