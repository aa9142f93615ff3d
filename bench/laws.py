"""Do fits reach the optimum on published runs, and do the laws that are chosen predict runs that
they have not seen?

    .venv/bin/python bench/laws.py [--data DIR] [--quick]

Three tables: objectives and seconds of the fits; forward-chained errors by form (the top 30% of
compute held out, and the top 25% of sizes), with the law that was chosen on the rest; and how
often the 90% interval holds a run of a size that is larger than any in the fit. --quick leaves
the last one out. About six minutes on one core. Needs the published runs in DIR. Prints tables
and, last, one JSON list.
"""

import time
from functools import partial
from pathlib import Path

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row
from published import DATA, SETS, chinchilla, cosine_runs, gemstones, wsd_branches

from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.fit import LossData, Objective, fit_loss
from windtunnel.laws.loss import FORMS
from windtunnel.laws.points import LossPoints, fittable
from windtunnel.laws.witness import AGREE, disagreement

AT_MOST = 12  # sizes held out of one set, evenly spaced over the upper half of the points
# Set, points, delta of Huber's loss, and the best objective that is known of the additive law.
BEST_KNOWN = (
    ("chinchilla", chinchilla, 1e-3, 1.01828e-3),
    ("gemstones hot", partial(gemstones, "hot"), 1e-4, 2.075052e-4 * (1 + 1e-6)),
    ("gemstones cool_end", partial(gemstones, "cool_end"), 1e-4, 2.047791e-4 * (1 + 1e-6)),
)
SECONDS = 2  # that a fit may take


def main() -> None:
    """The tables, one after the other."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="leave the intervals out")
    given = parser.parse_args()
    if not given.data.exists():
        print(f"skipped: {given.data} is not there")
        last_line([])
        return
    claims = [*objectives(given.data), *cosine(given.data), *extrapolation(given.data)]
    if not given.quick:
        claims += coverage(given.data)
    last_line(claims)


def objectives(data: Path) -> list[Claim]:
    """Against the best objectives known of the additive law, Huber on log loss."""
    print(header("set", "delta", "objective", "at most", "two optimisers differ by", "seconds"))
    claims = []
    for name, read, delta, target in BEST_KNOWN:
        points = read(data)
        begun = time.process_time()
        of = LossData.of(points.size, points.tokens, points.loss)
        found = fit_loss("additive", of, Objective("log", delta))
        differ = disagreement(found)
        seconds = time.process_time() - begun
        cells = (f"{found.objective:.6e}", f"{target:.6e}", f"{differ:.0e}")
        print(row(name, f"{delta:g}", *cells, f"{seconds:.2f}"))
        ok = found.objective <= target and differ <= AGREE and seconds < SECONDS
        claims.append(
            _claim(f"objective on {name}", found.objective, "sum of Huber's loss", target, ok)
        )
    return claims


def cosine(data: Path) -> list[Claim]:
    """16 decay branches predict 24 cosine runs from scratch."""
    target = cosine_runs(data)
    predicted = choose(wsd_branches(data), draws=20).loss(target.params, target.tokens)
    error = float(np.abs(predicted - target.loss).mean())
    print(
        f"\nfitted on 16 branches, 24 cosine runs: mean absolute error {error:.4f} nats, "
        f"mean error {float((predicted - target.loss).mean()):+.4f}"
    )
    return [
        _claim("cosine runs predicted from branches", error, "nats/token", 0.0065, error <= 0.0065)
    ]


def extrapolation(data: Path) -> list[Claim]:
    """Mean absolute error of log loss, in percent, above a cut; what is chosen was chosen below
    it.
    """
    print("\n" + header("set", "held out", *FORMS, "chosen", "weights"))
    ours: dict[str, list[float]] = {}
    additive: dict[str, list[float]] = {}
    for name, get in SETS.items():
        points = get(data)
        for label, values, share in (
            ("30% of compute", points.flops, 0.7),
            ("25% of sizes", points.size, 0.75),
        ):
            kept = values <= np.quantile(values, share)
            below, above = points.select(kept), points.select(~kept)
            if kept.all() or not fittable(below):
                continue
            predictor = choose(below, draws=5)
            by_form = {form: _by_form(predictor, form, above) for form in FORMS}
            chosen = _error(predictor.loss(above.params, above.tokens), above)
            errors = [f"{error:.2f}" for error in by_form.values()]
            print(row(name, label, *errors, f"**{chosen:.2f}**", _weights(predictor)))
            ours.setdefault(name, []).append(chosen)
            additive.setdefault(name, []).append(by_form["additive"])
    published = [name for name in ours if name != "laptop_scale"]
    better = sum(np.mean(ours[name]) <= np.mean(additive[name]) for name in published)
    print(
        "\nchosen law's mean error at or below the additive law's: "
        f"{better} of {len(published)} published sets"
    )
    what = "sets where the chosen law extrapolates no worse than the additive"
    return [_claim(what, int(better), f"of {len(published)}", 4, bool(better >= 4))]


def _weights(predictor: Predictor) -> str:
    """The weight of each form, over all counts."""
    weights = dict.fromkeys(FORMS, 0.0)
    for candidate in predictor.candidates:
        weights[candidate.form] += candidate.weight
    return ", ".join(f"{form} {weight:.2f}" for form, weight in weights.items())


def coverage(data: Path) -> list[Claim]:
    """Fit the sizes below one, predict every run of it, from the largest size down to half of the
    points.
    """
    columns = ("set", "sizes held out", "runs", "90% interval holds", "50%")
    print("\n" + header(*columns, "half width of the 90%", "error"))
    inside, runs, shares = 0.0, 0, []
    for name, get in SETS.items():
        points = get(data)
        sizes = _upper_sizes(points)
        cases: list[tuple[float, float, float, float]] = []
        for size in sizes:
            cases += _held_out(points, size)
        inside90, inside50, width, error = np.array(cases).T
        held = (f"{inside90.mean():.2f}", f"{inside50.mean():.2f}")
        print(
            row(name, len(sizes), len(cases), *held, f"{width.mean():.1%}", f"{error.mean():.1%}")
        )
        inside, runs = inside + float(inside90.sum()), runs + len(cases)
        shares.append(float(inside90.mean()))
    over_runs, over_sets = inside / runs, float(np.mean(shares))
    print(f"\nover all runs {over_runs:.3f}; mean over sets {over_sets:.3f}")
    held_out = "90% intervals on sizes held out"
    return [
        _claim(f"{held_out}, all runs", over_runs, "share inside", 0.85, over_runs >= 0.85),
        _claim(f"{held_out}, mean over sets", over_sets, "share inside", 0.85, over_sets >= 0.85),
    ]


def _upper_sizes(points: LossPoints) -> list[float]:
    """Sizes that leave half of the points or more below them, and a table that can be fitted."""
    sizes = []
    for size in np.unique(points.size)[::-1]:
        below = points.size < size
        if below.mean() >= 0.5 and fittable(points.select(below)):
            sizes.append(float(size))
    if len(sizes) <= AT_MOST:
        return sizes
    return [sizes[round(i)] for i in np.linspace(0, len(sizes) - 1, AT_MOST)]


def _held_out(points: LossPoints, size: float) -> list[tuple[float, float, float, float]]:
    """(in the 90% interval, in the 50%, half width of the 90%, absolute error) of each run of
    this size.
    """
    predictor, found = choose(points.select(points.size < size), draws=200), []
    for at in np.flatnonzero(points.size == size):
        params = {count: float(values[at]) for count, values in points.params.items()}
        said, got = predictor.predict(params, float(points.tokens[at])), points.loss[at]
        low, high = said.interval90
        inside50 = said.interval50[0] <= got <= said.interval50[1]
        width, error = float(np.log(high / low) / 2), float(abs(np.log(said.loss / got)))
        found.append((float(low <= got <= high), float(inside50), width, error))
    return found


def _by_form(predictor: Predictor, form: str, above: LossPoints) -> float:
    """Of the count with which the form did best below the cut."""
    candidate = min((c for c in predictor.candidates if c.form == form), key=lambda c: c.score)
    return _error(candidate.law.at(above.params[candidate.count], above.tokens), above)


def _error(predicted: np.ndarray, above: LossPoints) -> float:
    return 100 * float(np.abs(np.log(predicted / above.loss)).mean())


def _claim(what: str, value: float, unit: str, target: float, ok: bool) -> Claim:
    return claim(what, float(f"{value:.7g}"), unit, float(f"{target:.7g}"), ok)


if __name__ == "__main__":
    main()
