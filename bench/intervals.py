"""Do intervals of 90% hold the truth in 90% of simulated studies?

    .venv/bin/python bench/intervals.py [--simulations N] [--processes P] [--only PART]

Four parts, each of N studies whose truth is known. Losses and the best tokens a parameter: a study
as `windtunnel scaling` lays it out (5 sizes of 6k to 360k parameters, two of them with two seeds, 7
lengths of 240k to 1.92M tokens), half with an additive truth and half with a coupled one, with the
noise that was measured at a laptop's scale (0.1% that a stem's branches share, 0.22% of their own,
0.3% that all sizes share at a length), the same with a transient of 0.05 nats at the shortest
length, which goes as 1/D^2, and with 0.2%, 0.1% and none; then the whole procedure: every form is
fitted, weighed by forward-chained extrapolation, redrawn. Asked: runs at up to 6 times the largest
size and 10 times the longest length, and the best ratio at 1, 4 and 10 times the longest length.
The batch: a batch study upon contours that are parabolas about 2,000 tokens, and upon a three-term
law, where they are not, with the same noises; the interval that a plan gives at 1, 4 and 10 times
the length. The rate: a bowl of five rates and two seeds, as skewed as s says (exp(s x) - s x - 1),
at the length that it was measured at; where the best rate falls as D^-0.3, it is not the best at 4
and 10 times the length, and nothing claims so. 500 take
about two hours on two cores. Needs nothing. Prints a table and, last, one JSON list.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from claims import arguments, claim, header, last_line, row

from windtunnel.laws.batch import BATCH_LAWS, interval_of
from windtunnel.laws.choice import choose
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.optimum import exponents
from windtunnel.laws.points import LossPoints
from windtunnel.tunnel.batch.batch import Branching, analyse
from windtunnel.tunnel.batch.design import Design
from windtunnel.tunnel.transfer.bowl import bowl

TRUTHS = {
    "additive": LossLaw.of(E=2.9, A=9.0, alpha=0.2, B=60.0, beta=0.28),
    "coupled": LossLaw.of(E=0.0, A=7.07e4, alpha=0.372, B=8.66e6, beta=0.633, c=0.194),
}
SIZES = np.array([6e3, 6e3, 2.4e4, 2.4e4, 8e4, 1.9e5, 3.6e5])  # a number a stem
LENGTHS = np.geomspace(240_000, 1_920_000, 7)
# Relative: of a stem, of each point, of a length.
NOISES = {"as measured": (0.001, 0.0022, 0.003), "of stems": (0.002, 0.001, 0.0)}
TRANSIENT = 0.05  # nats at the shortest length
# In times the largest size and the longest length; the last has 30 times the FLOPs.
ASKED, REACHES = ((1, 1), (4, 1), (1, 3), (1, 4), (1, 10), (4, 3), (6, 5)), (1, 4, 10)
WITHIN = (0.86, 0.94)  # of the share that intervals of 90% hold
SKEWS, RATE_NOISE = (0.0, 0.6, 1.2), 0.004

# What an interval was asked for, whether it held it, and half its width in logarithms.
Held = tuple[str, bool, float]


def main() -> None:
    """Simulate, and count."""
    parser = arguments(__doc__)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="the parts whose name begins with this")
    given = parser.parse_args()
    parts = [part for part in PARTS if part.startswith(given.only)]
    tasks = [(part, seed) for part in parts for seed in range(given.simulations)]
    with ProcessPoolExecutor(given.processes) as pool:
        found = list(pool.map(simulate, tasks, chunksize=4))
    by_name: dict[str, list[tuple[bool, float]]] = {}
    for held in found:
        for name, inside, width in held:
            by_name.setdefault(name, []).append((inside, width))
    print(header("interval of 90%", "studies", "holds", "median half width"))
    claims = []
    for name, told in by_name.items():
        inside, widths = np.array(told, float).T
        share = float(inside.mean())
        print(row(name, str(len(told)), f"{share:.3f}", f"{np.median(widths):.2%}"))
        claims.append(
            claim(
                f"90% interval holds: {name}",
                round(share, 4),
                f"share of {len(told)} simulations",
                "{} to {}".format(*WITHIN),
                WITHIN[0] <= share <= WITHIN[1],
            )
        )
    last_line(claims)


def simulate(task: tuple[str, int]) -> list[Held]:
    """One study of a part."""
    part, seed = task
    return PARTS[part](seed)


def laws(noise: str, seed: int, transient: float = 0.0) -> list[Held]:
    """Losses and best ratios by a scaling study; every second truth is the additive one."""
    truth = TRUTHS["additive" if seed % 2 else "coupled"]
    stem_sd, own_sd, length_sd = NOISES[noise]
    rng = np.random.default_rng([seed, len(noise)])
    params, tokens = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))
    stem = np.repeat(np.arange(len(SIZES)), len(LENGTHS))
    length = np.tile(np.arange(len(LENGTHS)), len(SIZES))
    scatter = stem_sd * rng.standard_normal(len(SIZES))[stem]
    scatter += length_sd * rng.standard_normal(len(LENGTHS))[length]
    scatter += own_sd * rng.standard_normal(len(params))
    losses = truth.at(params, tokens) * np.exp(scatter)
    losses = losses + transient * (LENGTHS[0] / tokens) ** 2
    predictor = choose(LossPoints.of(params, tokens, losses, stem=stem.tolist()), draws=200)
    one_run = math.sqrt(stem_sd**2 + own_sd**2 + length_sd**2)
    what = f"noise {noise}" + (", a transient" if transient else "")
    found: list[Held] = []
    for larger, longer in ASKED:
        size, asked = larger * SIZES[-1], longer * LENGTHS[-1]
        got = float(truth.at(size, asked)) * math.exp(one_run * rng.standard_normal())
        interval = predictor.predict(size, asked).interval90
        name = f"loss, {what}, {larger}x the size, {longer}x the length"
        found.append(_held(name, got, interval))
    k2, eta = exponents(truth)
    for reach in REACHES:
        # N / D = K^2 (C/6)^eta and C/6 = N D, so D = (C/6)^((1 - eta) / 2) / K
        best_tokens = reach * LENGTHS[-1]
        flops = 6 * (best_tokens * math.sqrt(k2)) ** (2 / (1 - eta))
        true = 1 / (k2 * (flops / 6) ** eta)
        _, interval = predictor.ratio(flops)
        found.append(_held(f"ratio, {what}, {reach}x the length", true, interval))
    return found


def batches(form: str, noise: str, seed: int) -> list[Held]:
    """The plan's best batch by a batch study."""
    design, rng = Design(arms=("fixed",)), np.random.default_rng([seed, len(noise)])
    params = dict(zip(design.sizes, (20_000, 40_000, 80_000), strict=True))
    loss, best = BATCHES[form]
    stem_sd, own_sd, length_sd = NOISES[noise]
    shared = length_sd * rng.standard_normal(len(design.points))
    losses: dict[Branching, float | None] = {}
    for size in design.sizes:
        for batch in design.batches:
            scatter = shared + stem_sd * rng.standard_normal()
            scatter = scatter + own_sd * rng.standard_normal(len(shared))
            for (at, end), off in zip(design.points, scatter, strict=True):
                got = loss(params[size], end, batch) * math.exp(off)
                losses[Branching(size, "fixed", batch, at, end)] = got
    arm = analyse(design, params, losses).arms["fixed"]
    if arm.chosen is None:
        return []
    kept, found = arm.laws[arm.chosen], []
    law, covariance = BATCH_LAWS[arm.chosen](**kept.constants), np.array(kept.covariance)
    for reach in REACHES:
        tokens, size = reach * float(design.points[-1][1]), 80_000
        true = best(tokens)
        interval = interval_of(law, covariance, loss(size, tokens, true), tokens, size)
        name = f"batch, contours of {form}, noise {noise}, {reach}x the length"
        found.append(_held(name, true, interval))
    return found


def _parabolas(params: float, tokens: float, batch: float) -> float:
    """Each octave from 2,000 tokens wastes tokens as its square."""
    worth = tokens * math.exp(-0.1 * math.log2(batch / 2000) ** 2)
    return float(2 + 8 * params**-0.2 + 60 * worth**-0.3)


def _three_term(params: float, tokens: float, batch: float) -> float:
    steps = tokens / batch
    return float(1.8 + 8 * params**-0.2 + 6 * steps**-0.3 + 8.4 * batch**-0.3)


# By name: the loss of (parameters, tokens, batch), and the best batch of so many tokens.
BATCHES: dict[str, tuple[Callable[[float, float, float], float], Callable[[float], float]]] = {
    "parabolas": (_parabolas, lambda tokens: 2000.0),
    "a three-term law": (_three_term, lambda tokens: (8.4 / 6) ** (1 / 0.6) * tokens**0.5),
}


def rates(seed: int) -> list[Held]:
    """The best rate of one size."""
    rng, found = np.random.default_rng(seed), []
    for skew in SKEWS:
        true = rng.uniform(-0.25, 0.25)  # octaves from the nearest rate of the grid
        octaves = np.tile(np.arange(-2, 3) / 2, 2)
        off = octaves - true
        height = 2 * (np.expm1(skew * off) - skew * off) / skew**2 if skew else off**2
        seeds = np.repeat([0, 1], 5)
        losses = 4 + 0.03 * height + 0.02 * rng.standard_normal(2)[seeds]
        losses += RATE_NOISE * rng.standard_normal(10)
        told = bowl(octaves.tolist(), losses.tolist(), seeds.tolist())
        if told is None:
            continue
        low, high = (2**end for end in told.interval)
        for reach in REACHES:
            falling = "" if reach == 1 else f", at {reach}x it where the best falls as D^-0.3"
            name = f"rate, skew {skew:g}, its own length{falling}"
            found.append(_held(name, 2**true * reach**-0.3, (low, high)))
    return found


def _held(name: str, true: float, interval: tuple[float, float] | None) -> Held:
    if interval is None:
        return name, False, math.nan
    low, high = interval
    return name, low <= true <= high, math.log(high / low) / 2


PARTS: dict[str, Callable[[int], list[Held]]] = {
    "noise as measured": lambda seed: laws("as measured", seed),
    "noise of stems": lambda seed: laws("of stems", seed),
    "noise as measured, transient": lambda seed: laws("as measured", seed, TRANSIENT),
    "batch, parabolas, as measured": lambda seed: batches("parabolas", "as measured", seed),
    "batch, parabolas, of stems": lambda seed: batches("parabolas", "of stems", seed),
    "batch, three-term, as measured": lambda seed: batches("a three-term law", "as measured", seed),
    "batch, three-term, of stems": lambda seed: batches("a three-term law", "of stems", seed),
    "rates": rates,
}


if __name__ == "__main__":
    main()
