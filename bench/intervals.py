"""Do intervals of 90% hold the truth in 90% of simulated studies?

    .venv/bin/python bench/intervals.py [--simulations N] [--processes P]

A study as `windtunnel scaling` lays it out (5 sizes of 6k to 360k parameters, two of them with
two seeds, 7 lengths of 240k to 1.92M tokens), its losses drawn about a known law with noise that
a stem's branches share (0.2%) and their own (0.1%); then the whole procedure: every form is
fitted, weighed by forward-chained extrapolation, redrawn. Asked of it: a new run inside of the
sampled range, one at its far corner, and one 6 times larger and 2 times longer than any. Half of
the simulations have an additive truth, half a coupled one. 500 take about ten minutes on two
cores. Needs nothing. Prints a table and, last, one JSON list.
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
from claims import arguments, claim, header, last_line, row

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
WITHIN = (0.87, 0.93)  # of the share that intervals of 90% hold
TARGETS = {
    "inside": (6e4, 7e5),
    "far corner": (3.6e5, 1.92e6),
    "6x larger, 2x longer": (2.2e6, 3.84e6),
}


def main() -> None:
    """Simulate, and count."""
    parser = arguments(__doc__)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    tasks = [(truth, seed) for truth in TRUTHS for seed in range(given.simulations // len(TRUTHS))]
    with ProcessPoolExecutor(given.processes) as pool:
        # (task, target, [in 90%, in 50%, width])
        found = np.array(list(pool.map(simulate, tasks, chunksize=4)))
    print(
        header("truth", "run asked for", "90% holds", "50% holds", "median half width of the 90%")
    )
    claims = []
    for truth in (*TRUTHS, "both"):
        mine = np.array([truth in (name, "both") for name, _ in tasks])
        for at, target in enumerate(TARGETS):
            inside90, inside50, width = found[mine, at].T
            share = float(inside90.mean())
            shares = (f"{share:.3f}", f"{inside50.mean():.3f}", f"{np.median(width):.2%}")
            print(row(truth, target, *shares))
            if truth == "both":
                claims.append(
                    claim(
                        f"90% interval holds a new run, {target}",
                        round(share, 4),
                        f"share of {int(mine.sum())} simulations",
                        "{} to {}".format(*WITHIN),
                        WITHIN[0] <= share <= WITHIN[1],
                    )
                )
    last_line(claims)


def simulate(task: tuple[str, int]) -> list[tuple[float, float, float]]:
    """(in the 90% interval, in the 50%, half width of the 90%) of each target, in a study drawn
    with this truth and seed.
    """
    truth, rng = TRUTHS[task[0]], np.random.default_rng([task[1], len(task[0])])
    params, tokens = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))
    stem = np.repeat(np.arange(len(SIZES)), len(LENGTHS))
    noise = SHARED * rng.standard_normal(len(SIZES))[stem] + OWN * rng.standard_normal(len(params))
    losses = truth.at(params, tokens) * np.exp(noise)
    predictor = choose(LossPoints.of(params, tokens, losses, stem=stem.tolist()), draws=200)
    found = []
    for size, length in TARGETS.values():
        scatter = np.hypot(SHARED, OWN) * rng.standard_normal()
        got = float(truth.at(size, length)) * np.exp(scatter)
        said = predictor.predict(size, length)
        low, high = said.interval90
        inside50 = said.interval50[0] <= got <= said.interval50[1]
        found.append((float(low <= got <= high), float(inside50), float(np.log(high / low) / 2)))
    return found


if __name__ == "__main__":
    main()
