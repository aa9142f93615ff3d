"""Do intervals of 90% hold the truth in 90% of simulated studies?

    .venv/bin/python bench/coverage.py [--simulations N] [--processes P]

A study as `windtunnel scaling` lays it out (5 sizes of 6k to 360k parameters, two of them with
two seeds, 7 lengths of 240k to 1.92M tokens), its losses drawn about a known law with noise that
a stem's branches share (0.2%) and their own (0.1%); then the whole procedure: every form is
fitted, weighed by forward-chained extrapolation, redrawn. Asked of it: a new run inside of the
sampled range, one at its far corner, and one 6 times larger and 2 times longer than any. Half of
the simulations have an additive truth, half a coupled one. 500 take about ten minutes on two
cores. The last line is a JSON list.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from windtunnel.laws.choice import choose
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.points import LossPoints

TRUTHS = {
    "additive": LossLaw(E=2.9, A=9.0, alpha=0.2, B=60.0, beta=0.28),
    "coupled": LossLaw(E=0.0, A=7.07e4, alpha=0.372, B=8.66e6, beta=0.633, c=0.194),
}
SIZES = np.array([6e3, 6e3, 2.4e4, 2.4e4, 8e4, 1.9e5, 3.6e5])  # a number a stem
LENGTHS = np.geomspace(240_000, 1_920_000, 7)
SHARED, OWN = 0.002, 0.001
TARGETS = {
    "inside": (6e4, 7e5),
    "far corner": (3.6e5, 1.92e6),
    "6x larger, 2x longer": (2.2e6, 3.84e6),
}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--simulations", type=int, default=500)
    arguments.add_argument("--processes", type=int, default=2)
    given = arguments.parse_args()
    tasks = [(truth, seed) for truth in TRUTHS for seed in range(given.simulations // len(TRUTHS))]
    with ProcessPoolExecutor(given.processes) as pool:
        found = np.array(
            list(pool.map(simulate, tasks, chunksize=4))
        )  # (task, target, [in 90%, in 50%, width])
    print(
        "| truth | run asked for | 90% holds | 50% holds | median half width of the 90% |\n|---|---|---|---|---|"
    )
    claims = []
    for truth in (*TRUTHS, "both"):
        mine = np.array([truth in (name, "both") for name, _ in tasks])
        for at, target in enumerate(TARGETS):
            inside90, inside50, width = found[mine, at].T
            print(
                f"| {truth} | {target} | {inside90.mean():.3f} | {inside50.mean():.3f} | {np.median(width):.2%} |"
            )
            if truth == "both":
                share = float(inside90.mean())
                claims.append(
                    {
                        "claim": f"90% interval holds a new run, {target}",
                        "value": round(share, 4),
                        "unit": f"share of {int(mine.sum())} simulations",
                        "target": "0.87 to 0.93",
                        "ok": 0.87 <= share <= 0.93,
                        "machine": "any",
                    }
                )
    print(json.dumps(claims))


def simulate(task: tuple[str, int]) -> list[tuple[float, float, float]]:
    truth, rng = TRUTHS[task[0]], np.random.default_rng([task[1], len(task[0])])
    params, tokens = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))
    stem = np.repeat(np.arange(len(SIZES)), len(LENGTHS))
    noise = SHARED * rng.standard_normal(len(SIZES))[stem] + OWN * rng.standard_normal(len(params))
    predictor = choose(
        LossPoints.of(params, tokens, truth.at(params, tokens) * np.exp(noise), stem=stem.tolist()),
        draws=200,
    )
    found = []
    for size, length in TARGETS.values():
        got = float(truth.at(size, length)) * np.exp(np.hypot(SHARED, OWN) * rng.standard_normal())
        said = predictor.predict(size, length)
        found.append(
            (
                float(said.interval90[0] <= got <= said.interval90[1]),
                float(said.interval50[0] <= got <= said.interval50[1]),
                float(np.log(said.interval90[1] / said.interval90[0]) / 2),
            )
        )
    return found


if __name__ == "__main__":
    main()
