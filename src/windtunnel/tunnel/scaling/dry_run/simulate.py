"""A scaling study simulated before it is paid for: laws taken for true, the noise that runs have,
the very points of a design, the real choice of a law on each simulated table, and how far its
prediction is off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.error import relative_error
from windtunnel.laws.loss import Array, LossLaw
from windtunnel.laws.points import LossPoints
from windtunnel.results.dry_run import Expectation, ParameterFound, StudyNoise, Transient
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import Chain
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.assumptions import Assumptions, Truth
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts

_DRAWS = 100  # of each form's bootstrap: fewer than a prediction that counts, and soon done

Interval = tuple[float, float]


# -- what a design measures


@dataclass(frozen=True)
class PointGrid:
    """The points that a design measures, a row a stem and a column a length; a larger size is
    measured at the first lengths alone.
    """

    stems: Sequence[tuple[Size, int]]  # (size, seed)
    sizes: Sequence[SizeCounts]  # of the stems
    tokens: Sequence[int]  # of the lengths
    measured: NDArray[np.bool_]  # (stems, lengths)

    @classmethod
    def of(cls, design: Design, chain: Chain, sizes: Mapping[Size, SizeCounts]) -> "PointGrid":
        """The grid of a design. `sizes`: the counts of all its sizes, and maybe of others."""
        numbers = np.array([design.points_of(size) for size, _ in design.stems])
        return cls(
            design.stems,
            [sizes[size] for size, _ in design.stems],
            chain.lengths,
            np.arange(len(chain.lengths)) < numbers[:, None],
        )

    @property
    def totals(self) -> list[int]:
        """All parameters of each stem."""
        return [size.counts.params_total for size in self.sizes]

    def points(self, losses: Array) -> LossPoints:
        """With losses (stems, lengths), of which those that are measured count."""
        lengths = len(self.tokens)
        tokens = np.tile(np.array(self.tokens, float), len(self.stems))
        params = {}
        for count in self.sizes[0].params:
            params[count] = np.repeat(self._params(count), lengths)
        every = LossPoints.of(
            params,
            tokens,
            losses.ravel(),
            stem=list(np.repeat(np.arange(len(self.stems)), lengths)),
            seed=np.repeat([seed for _, seed in self.stems], lengths),
            flops=np.repeat([float(size.flops) for size in self.sizes], lengths) * tokens,
        )
        return every.select(self.measured.ravel())

    def losses(self, truth: Truth) -> Array:
        """(stems, lengths), without noise."""
        params = self._params(truth.count)
        return truth.law.at(params[:, None], np.array(self.tokens, float))

    def _params(self, count: str) -> Array:
        """Parameters of each stem by one count."""
        return np.array([float(size.params[count]) for size in self.sizes])


def measured(
    grid: PointGrid,
    truth: Truth,
    noise: StudyNoise,
    draw: int,
    transient: Transient | None = None,
) -> LossPoints:
    """One simulated table. What two designs have in common, a stem or a length, has the same
    noise in the same draw, so that designs are compared and not their luck.
    """
    losses = grid.losses(truth)
    if transient:
        losses += np.array([transient.at(tokens) for tokens in grid.tokens])
    for row, (size, seed) in enumerate(grid.stems):
        # keyed by what the stem is, so that every design draws the same noise for it
        shared, *own = _normals(len(grid.tokens) + 1, draw, 1, size.width, size.depth, seed)
        losses[row] += noise.stem * shared + noise.own * np.array(own)
        # and by the text, for what all stems share that read it up to a length
        texts = [_normals(1, draw, 2, tokens, seed)[0] for tokens in grid.tokens]
        losses[row] += noise.length * np.array(texts)
    return grid.points(losses)


def achieved(size: SizeCounts, tokens: int, truth: Truth, noise: StudyNoise, draw: int) -> float:
    """The loss of the run that was predicted, with noise of its own, nats/token."""
    spread = np.array([noise.stem, noise.own, noise.length])
    return truth.loss(size.counts, tokens) + float(spread @ _normals(3, draw, 3, tokens))


def _normals(number: int, *key: int) -> Array:
    """Standard normal numbers that follow from the key alone."""
    return np.random.default_rng(key).standard_normal(number)


# -- what comes of it


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """What one simulated study predicts, what the target then gets, and what it says of the
    law.
    """

    truth: Truth
    predicted: float
    interval50: Interval
    interval90: Interval
    actual: float
    law: LossLaw  # fitted, of the true form and by the true count

    @property
    def error(self) -> float:
        """Of the prediction."""
        return relative_error(self.predicted, self.actual)


def simulate(
    grid: PointGrid,
    assumed: Assumptions,
    target: SizeCounts,
    tokens: int,
    draws: Sequence[int],
    tell: Callable[[], None],
) -> list[SimulatedStudy]:
    """A study a draw, the truths in turn, without a transient and with it; each predicts a run of
    the target's size and length. Calls `tell` after each. Raises ValueError where no law can be
    fitted.
    """
    params = {count: float(value) for count, value in target.params.items()}
    studies = []
    for draw in draws:
        turn, of_truths = divmod(draw, len(assumed.truths))
        truth = assumed.truths[of_truths]
        transient = assumed.transient if turn % 2 else None
        points = measured(grid, truth, assumed.noise, draw, transient)
        predictor = choose(points, assumed.noise.seed_sd, _DRAWS)
        prediction = predictor.predict(params, float(tokens))
        studies.append(
            SimulatedStudy(
                truth=truth,
                predicted=prediction.loss,
                interval50=prediction.interval50,
                interval90=prediction.interval90,
                actual=achieved(target, tokens, truth, assumed.noise, draw),
                law=_law_of(truth, predictor),
            )
        )
        tell()
    return studies


def _law_of(truth: Truth, predictor: Predictor) -> LossLaw:
    """That of the true form and by the true count, or by one that is the same for these sizes."""
    params = predictor.points.params
    for candidate in predictor.candidates:
        same = np.allclose(params[candidate.count], params[truth.count], rtol=1e-3)
        if candidate.form == truth.form and same:
            return candidate.law
    raise AssertionError(f"no candidate of form {truth.form}")


def expectation_of(studies: Sequence[SimulatedStudy]) -> Expectation:
    """What the studies predicted, and how well."""
    errors = [study.error for study in studies]
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95])
    actual = [study.actual for study in studies]
    halves = [study.interval50 for study in studies]
    nineties = [study.interval90 for study in studies]
    return Expectation(
        studies=len(studies),
        width50=_width(halves, actual),
        width90=_width(nineties, actual),
        error=(float(low), float(middle), float(high)),
        coverage50=_covered(halves, actual),
        coverage90=_covered(nineties, actual),
    )


def _width(intervals: Sequence[Interval], actual: Sequence[float]) -> float:
    """Median, relative to the loss."""
    widths = [(high - low) / got for (low, high), got in zip(intervals, actual, strict=True)]
    return float(np.median(widths))


def _covered(intervals: Sequence[Interval], actual: Sequence[float]) -> float:
    """Share of the intervals that hold what came."""
    held = [low <= got <= high for (low, high), got in zip(intervals, actual, strict=True)]
    return float(np.mean(held))


# What is told of a law. alpha c and beta c are the exponents of the loss where size, or data, is
# all that is missing.
_PARAMETERS: dict[str, Callable[[LossLaw], float]] = {
    "N's exponent": lambda law: law.alpha * law.c,
    "D's exponent": lambda law: law.beta * law.c,
    "exponent of the best N": lambda law: law.beta / (law.alpha + law.beta + law.gamma),
    "E": lambda law: law.E,
}


def determined(studies: Sequence[SimulatedStudy]) -> dict[str, ParameterFound]:
    """How studies that share a truth determine the numbers of its law, by name. Without E where
    the true form has none.
    """
    (truth,) = {study.truth for study in studies}
    found = {}
    for name, value_of in _PARAMETERS.items():
        if name == "E" and truth.form == "coupled":
            continue
        low, high = np.quantile([value_of(study.law) for study in studies], [0.05, 0.95])
        found[name] = ParameterFound(truth=value_of(truth.law), low=float(low), high=float(high))
    return found
