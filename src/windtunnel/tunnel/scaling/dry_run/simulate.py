"""A scaling study simulated before it is paid for: laws taken for true, the noise that runs have,
the very points of a design, the real choice of a law on each simulated table, and how far its
prediction is off.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.fit import LossData, fit_loss
from windtunnel.laws.loss import Array, LossLaw
from windtunnel.laws.points import LossPoints, read_points
from windtunnel.model.shape import Counts
from windtunnel.tunnel.scaling.dry_run.cost import Shape
from windtunnel.tunnel.scaling.scaling import Chain, Design, Size

_FORMS: tuple[str, ...] = (
    "additive",
    "coupled",
)  # they disagree most, and every other form lies between
_DRAWS = 100  # of each form's bootstrap: fewer than a prediction that counts, and soon done
_CURVE = 2  # shared departures that a law takes up as its own exponent and scale in tokens


@dataclass(frozen=True)
class Truth:
    """A law taken for true, with the count of N that it means."""

    form: str
    count: str
    law: LossLaw
    origin: str

    def loss(self, counts: Counts, tokens: float) -> float:
        return float(self.law.at(getattr(counts, self.count), tokens))


@dataclass(frozen=True)
class Noise:
    """Standard deviations, nats/token. A seed moves all branches of a stem together (`stem`) and
    each by itself (`own`). All stems depart together from any law (`length`): they read the same
    text, and change batch together.
    """

    stem: float
    own: float
    length: float
    origin: str

    @property
    def seed_sd(self) -> float:
        return math.hypot(self.stem, self.own)


@dataclass(frozen=True)
class World:
    """What the simulation takes for real."""

    truths: tuple[Truth, ...]
    noise: Noise


@dataclass(frozen=True)
class Target:
    """The run that shall be predicted."""

    size: Size
    tokens: int


# Fits to four sizes (24k to 530k parameters) at five lengths (0.8M to 12.8M tokens) of a
# 2,048-word vocabulary.
_STATED = (
    Truth(
        "additive",
        "params_total",
        LossLaw(E=2.955, A=446.4, alpha=0.5533, B=143.0, beta=0.3509),
        laptop.ORIGIN,
    ),
    Truth(
        "coupled",
        "params_total",
        LossLaw(E=0, A=2.346e8, alpha=0.9155, B=1.285e8, beta=0.6977, c=0.16265),
        laptop.ORIGIN,
    ),
)
# Two sizes with two seeds at seven lengths, and what all five sizes of that study had in common
# beside the law.
_NOISE = Noise(stem=0.004, own=0.0094, length=0.013, origin=laptop.ORIGIN)


def world(lab: Path, study: dict[str, Any] | None) -> World:
    """From the lab's scaling study (its result.json), where it has one that was large enough;
    else as measured at laptop scale. Raises InputError for a damaged table.
    """
    if study is None or study["verdict"] != "pass":
        return World(_STATED, _NOISE)
    try:
        points = read_points(lab / "studies" / "scaling" / "table.csv")
        truths = tuple(_fitted(form, points) for form in _FORMS)
    except ValueError as error:
        raise InputError(str(error)) from None
    closest = min(truths, key=lambda truth: _squares(truth, points))
    return World(truths, _measured_noise(points, _residuals(closest, points)) or _NOISE)


def _fitted(form: str, points: LossPoints) -> Truth:
    """By the count that fits best."""
    fits = {
        key: fit_loss(form, LossData.of(values, points.tokens, points.loss))
        for key, values in points.params.items()
    }
    best = min(fits, key=lambda key: fits[key].objective)
    return Truth(form, best, fits[best].law, "fitted to the lab's scaling study")


def _residuals(truth: Truth, points: LossPoints) -> Array:
    return points.loss - truth.law.at(points.params[truth.count], points.tokens)


def _squares(truth: Truth, points: LossPoints) -> float:
    return float(np.sum(_residuals(truth, points) ** 2))


def _measured_noise(points: LossPoints, residuals: Array) -> Noise | None:
    """By analysis of variance; None where no size has two seeds at three lengths."""
    tables = _tables(points, residuals)
    within = [table - table.mean(0) for table in tables if len(table) > 1]
    seeds = sum(len(table) - 1 for table in within)
    lengths = tables[0].shape[1] if tables else 0
    if not seeds or lengths < _CURVE + 1:
        return None
    along = [table.mean(1) for table in within]
    rest = sum(float(((t - m[:, None]) ** 2).sum()) for t, m in zip(within, along, strict=True))
    own = rest / (seeds * (lengths - 1))
    stem = max(0.0, sum(float((m**2).sum()) for m in along) / seeds - own / lengths)
    by_length = np.mean([table.mean(0) for table in tables], axis=0)
    of_means = sum((own + stem) / len(table) for table in tables) / len(tables) ** 2
    length = max(0.0, float((by_length**2).sum()) / (lengths - _CURVE) - of_means)
    return Noise(stem**0.5, own**0.5, length**0.5, "measured in the lab's scaling study")


def _tables(points: LossPoints, values: Array) -> list[Array]:
    """(stems, lengths) of each size; stems that lack a length that others have are left out."""
    size = points.params["params_total"]
    lengths = np.unique(points.tokens)
    tables = []
    for each in np.unique(size):
        stems = [
            values[(size == each) & (points.stem == stem)][
                np.argsort(points.tokens[(size == each) & (points.stem == stem)])
            ]
            for stem in np.unique(points.stem[size == each])
        ]
        whole = [row for row in stems if len(row) == len(lengths)]
        if whole:
            tables.append(np.array(whole))
    return tables


# -- what a design measures


@dataclass(frozen=True)
class Layout:
    """The points that a design measures, a row a stem and a column a length."""

    stems: Sequence[tuple[Size, int]]
    shapes: Sequence[Shape]  # of the stems
    tokens: Sequence[int]  # of the lengths

    @classmethod
    def of(cls, design: Design, chain: Chain, shapes: Mapping[Size, Shape]) -> "Layout":
        return cls(
            design.stems,
            [shapes[size] for size, _ in design.stems],
            [point.tokens for point in chain.points],
        )

    def points(self, losses: Array) -> LossPoints:
        """With losses (stems, lengths)."""
        each = len(self.tokens)
        tokens = np.tile(np.array(self.tokens, float), len(self.stems))
        params = {
            key: np.repeat([float(shape.params[key]) for shape in self.shapes], each)
            for key in self.shapes[0].params
        }
        return LossPoints.of(
            params,
            tokens,
            losses.ravel(),
            stem=list(np.repeat(np.arange(len(self.stems)), each)),
            seed=np.repeat([seed for _, seed in self.stems], each),
            flops=np.repeat([float(shape.flops) for shape in self.shapes], each) * tokens,
        )

    def losses(self, truth: Truth) -> Array:
        """(stems, lengths), without noise."""
        params = np.array([float(shape.params[truth.count]) for shape in self.shapes])
        return truth.law.at(params[:, None], np.array(self.tokens, float))


def measured(layout: Layout, truth: Truth, noise: Noise, draw: int) -> LossPoints:
    """One simulated table. What two designs have in common, a stem or a length, has the same
    noise in the same draw, so that designs are compared and not their luck.
    """
    losses = layout.losses(truth)
    for row, (size, seed) in enumerate(layout.stems):
        shared, *own = _normals(len(layout.tokens) + 1, draw, 1, size.width, size.depth, seed)
        losses[row] += noise.stem * shared + noise.own * np.array(own)
    losses += noise.length * np.array([_normals(1, draw, 2, tokens)[0] for tokens in layout.tokens])
    return layout.points(losses)


def achieved(shape: Shape, tokens: int, truth: Truth, noise: Noise, draw: int) -> float:
    """The loss of the run that was predicted, with noise of its own."""
    spread = np.array([noise.stem, noise.own, noise.length])
    return truth.loss(shape.counts, tokens) + float(spread @ _normals(3, draw, 3, tokens))


def _normals(number: int, *key: int) -> Array:
    return np.random.default_rng(key).standard_normal(number)


# -- what comes of it


@dataclass(frozen=True)
class Outcome:
    """One simulated study: what it predicts, what the target then gets, and what it says of the
    law.
    """

    truth: Truth
    predicted: float
    interval50: tuple[float, float]
    interval90: tuple[float, float]
    actual: float
    law: LossLaw  # fitted, of the true form and by the true count

    @property
    def error(self) -> float:
        """Relative, of the prediction."""
        return self.predicted / self.actual - 1


def simulate(
    layout: Layout,
    world: World,
    target: Shape,
    tokens: int,
    draws: Sequence[int],
    tell: Callable[[], None],
) -> list[Outcome]:
    """A study a draw, the truths in turn. Calls `tell` after each. Raises ValueError where no law
    can be fitted.
    """
    outcomes = []
    for draw in draws:
        truth = world.truths[draw % len(world.truths)]
        points = measured(layout, truth, world.noise, draw)
        predictor = choose(points, world.noise.seed_sd, _DRAWS)
        prediction = predictor.predict(
            {key: float(value) for key, value in target.params.items()}, float(tokens)
        )
        actual = achieved(target, tokens, truth, world.noise, draw)
        outcomes.append(
            Outcome(
                truth,
                prediction.loss,
                prediction.interval50,
                prediction.interval90,
                actual,
                _fit_of(truth, predictor),
            )
        )
        tell()
    return outcomes


def _fit_of(truth: Truth, predictor: Predictor) -> LossLaw:
    """The candidate of the true form and by the true count, or by one that is the same for these
    sizes.
    """
    params = predictor.points.params
    return next(
        c.law
        for c in predictor.candidates
        if c.form == truth.form and np.allclose(params[c.count], params[truth.count], rtol=1e-3)
    )


@dataclass(frozen=True)
class Expectation:
    """Over simulated studies: widths are relative to the loss, `error` the 5, 50 and 95%
    quantiles of the relative error, `coverage` the share of intervals that held what came.
    """

    studies: int
    width50: float  # median
    width90: float
    error: tuple[float, float, float]
    coverage50: float
    coverage90: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Expectation":
        low, middle, high = np.quantile([outcome.error for outcome in outcomes], [0.05, 0.5, 0.95])
        halves, nineties = (
            [(getattr(o, key), o.actual) for o in outcomes] for key in ("interval50", "interval90")
        )
        return cls(
            len(outcomes),
            _width(halves),
            _width(nineties),
            (float(low), float(middle), float(high)),
            _covered(halves),
            _covered(nineties),
        )


def _width(intervals: Sequence[tuple[tuple[float, float], float]]) -> float:
    return float(np.median([(high - low) / actual for (low, high), actual in intervals]))


def _covered(intervals: Sequence[tuple[tuple[float, float], float]]) -> float:
    return float(np.mean([low <= actual <= high for (low, high), actual in intervals]))


@dataclass(frozen=True)
class Parameter:
    """How a study would determine a number of the law: the true one, and the inner 90% of fitted
    ones.
    """

    truth: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of the inner 90%, relative to the truth."""
        return (self.high - self.low) / 2 / abs(self.truth) if self.truth else math.inf


# alpha c and beta c are the exponents of the loss where size, or data, is all that is missing
_PARAMETERS: dict[str, Callable[[LossLaw], float]] = {
    "N's exponent": lambda law: law.alpha * law.c,
    "D's exponent": lambda law: law.beta * law.c,
    "exponent of the best N": lambda law: law.beta / (law.alpha + law.beta),
    "E": lambda law: law.E,
}


def determined(outcomes: Sequence[Outcome]) -> dict[str, Parameter]:
    """By name, of outcomes that share a truth. Without E where the true form has none."""
    (truth,) = {outcome.truth for outcome in outcomes}
    found = {}
    for name, of in _PARAMETERS.items():
        if name == "E" and truth.form == "coupled":
            continue
        low, high = np.quantile([of(outcome.law) for outcome in outcomes], [0.05, 0.95])
        found[name] = Parameter(of(truth.law), float(low), float(high))
    return found
