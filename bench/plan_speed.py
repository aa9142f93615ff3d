"""How long a plan and the fits behind it take, and how much memory.

    .venv/bin/python bench/plan_speed.py [--data DIR] [--rows 100 1000 4000]

Two parts, each in processes of its own. First `windtunnel plan --from` on the published runs of
laptop_scale in DIR, three times: seconds of wall and of one processor. Then the laws alone, on
tables of more and more rows: a law that is known at random sizes and lengths, with 0.3% of noise
and no two rows of one stem. Needs one core that is otherwise free; a minute. Prints two tables and,
last, one JSON list.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row
from published import DATA

from windtunnel.laws.choice import choose
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.points import LossPoints

TRUTH = LossLaw.of(E=1.8, A=400.0, alpha=0.34, B=1200.0, beta=0.33)
NOISE = 0.003
PLAN_SECONDS = 1.5
SECONDS = {100: 2.0, 1000: 4.0, 4000: 10.0}  # by rows
MEGABYTES = 600.0
REPEATS = 3


@dataclass(frozen=True)
class Spent:
    """What one process spent."""

    wall: float  # seconds
    processor: float  # seconds
    megabytes: float  # the most memory at once


def main() -> None:
    """Time plans, then fits."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SECONDS))
    given = parser.parse_args()
    last_line([*_plans(given.data / "laptop_scale" / "table.csv"), *_fits(given.rows)])


def _plans(table: Path) -> list[Claim]:
    if not table.exists():
        print(f"{table}: missing, so no plan is timed")
        return []
    print(header("plan", "wall, s", "processor, s"))
    found = []
    for turn in range(REPEATS):
        spent = _plan(table)
        found.append(spent.wall)
        print(row(turn + 1, f"{spent.wall:.2f}", f"{spent.processor:.2f}"))
    least = min(found)
    ok = least <= PLAN_SECONDS
    return [claim("windtunnel plan --from, least wall time", least, "s", PLAN_SECONDS, ok)]


def _plan(table: Path) -> Spent:
    code = "from windtunnel.cli import main; main()"
    with tempfile.TemporaryDirectory() as lab:
        asked = ["plan", "--from", str(table), "--flops", "1e14", "--json", "--lab", lab]
        before, begun = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *asked], check=True, capture_output=True)
        wall, after = time.perf_counter() - begun, os.times()
    user = after.children_user - before.children_user
    return Spent(wall, user + after.children_system - before.children_system, 0.0)


def _fits(rows: list[int]) -> list[Claim]:
    print(header("rows", "wall, s", "processor, s", "most memory, MB"))
    claims = []
    for count in rows:
        # a process of its own, so that its memory is that of this fit
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            spent = pool.submit(_fit, count).result()
        print(row(count, f"{spent.wall:.2f}", f"{spent.processor:.2f}", f"{spent.megabytes:.0f}"))
        most = SECONDS.get(count)
        ok = None if most is None else spent.wall <= most
        claims.append(claim(f"laws of {count} rows", spent.wall, "s", most, ok))
        little = spent.megabytes <= MEGABYTES
        claims.append(claim(f"memory of {count} rows", spent.megabytes, "MB", MEGABYTES, little))
    return claims


def _fit(count: int) -> Spent:
    rng = np.random.default_rng(count)
    params = np.exp(rng.uniform(np.log(1e7), np.log(3e9), count))
    tokens = np.exp(rng.uniform(np.log(2e8), np.log(1e11), count))
    losses = TRUTH.at(params, tokens) * np.exp(NOISE * rng.standard_normal(count))
    begun, processor = time.perf_counter(), time.process_time()
    choose(LossPoints.of(params, tokens, losses))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Spent(time.perf_counter() - begun, time.process_time() - processor, most)


if __name__ == "__main__":
    main()
