"""From loss to the score of a task: over models of one family a score rises as a sigmoid while the
loss falls, from what guessing gives to 1 (as MiniCPM4's ScalingBench has it, arXiv 2506.07900):

    score = chance + (1 - chance) / (1 + exp(steepness (loss - middle)))

Loss is any that falls with the model's worth: bits a byte of right answers serve best, since they
fall long before an answer is right. Two numbers are fitted, so that few models are enough: the
steepness, and the log-odds at the mean loss of the models. Scores that do not follow the loss have
no middle; they have a steepness of 0 at some log-odds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

from windtunnel.errors import InputError

FEWEST = 4  # models
_DRAWS = 300
_SMALLEST_ERROR = 1e-3  # of a score: one that is always right has no error of its own
_SEED = 0
_SIDE = 1.645  # standard deviations: half of the 90% interval of a normal distribution


@dataclass(frozen=True, kw_only=True)
class ScorePoint:
    """A model on a task."""

    loss: float
    score: float
    """Between 0 and 1."""
    stderr: float
    """Of the score."""


@dataclass(frozen=True, kw_only=True)
class ScoreLaw:
    """A fitted sigmoid, and what it could have been."""

    chance: float
    """What guessing scores."""
    centre: float
    """The mean loss of the models."""
    level: float
    """The log-odds at this loss of the score's way from chance to 1."""
    steepness: float
    """Per unit of loss; above 0 where lower losses score higher."""
    scatter: float
    """How many times farther points lie from it than their own errors would have it, 1 at least."""
    draws: np.ndarray
    """(draws, 2): level and steepness of points drawn anew."""
    reach: tuple[float, float]
    """The lowest and the highest loss that it was fitted to."""

    def at(
        self, loss: float, interval90: tuple[float, float] | None = None
    ) -> tuple[float, float, float]:
        """The score at a loss, and its 90% interval; `interval90`: that of the loss, where it is
        itself not sure.
        """
        said = _scores(loss - self.centre, self.level, self.steepness, self.chance)
        low, high = interval90 or (loss, loss)
        sides = np.random.default_rng(_SEED).standard_normal(len(self.draws)) / _SIDE
        losses = loss + np.where(sides > 0, high - loss, loss - low) * sides
        drawn = _scores(losses - self.centre, self.draws[:, 0], self.draws[:, 1], self.chance)
        least, most = np.quantile(drawn, [0.05, 0.95])
        return float(said), float(least), float(most)

    @property
    def middle(self) -> float | None:
        """The loss at which the score is half-way between chance and 1; None where the law could be
        flat.
        """
        return None if self.flat else self.centre + self.level / self.steepness

    @property
    def flat(self) -> bool:
        """Whether the scores could as well be the same at every loss: then no law is seen."""
        least, most = self.steepness90
        return least <= 0 <= most

    @property
    def steepness90(self) -> tuple[float, float]:
        """The 90% interval of the steepness."""
        low, high = np.quantile(self.draws[:, 1], [0.05, 0.95])
        return float(low), float(high)


def fit_score(points: Sequence[ScorePoint], chance: float = 0.0) -> ScoreLaw:
    """The law of these models. Raises InputError for fewer than `FEWEST` with different losses, and
    for a chance that is none.
    """
    losses = np.array([point.loss for point in points])
    if len(np.unique(losses)) < FEWEST:
        raise InputError(
            f"a law of scores needs at least {FEWEST} models with different losses; there are "
            f"{len(np.unique(losses))}"
        )
    if not 0 <= chance < 1:
        raise InputError(f"chance {chance:g}: expected a share below 1, such as 0.25")
    scores = np.array([point.score for point in points])
    errors = np.maximum([point.stderr for point in points], _SMALLEST_ERROR)
    centre = float(losses.mean())
    off_centre = losses - centre
    level, steepness = _fitted(off_centre, scores, errors, chance)
    said = _scores(off_centre, level, steepness, chance)
    scatter = max(1.0, float(np.sqrt((((scores - said) / errors) ** 2).sum() / (len(points) - 2))))
    draw = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(_DRAWS):
        anew = said + scatter * errors * draw.standard_normal(len(points))
        drawn.append(_fitted(off_centre, anew, errors, chance, (level, steepness)))
    return ScoreLaw(
        chance=chance,
        centre=centre,
        level=level,
        steepness=steepness,
        scatter=scatter,
        draws=np.array(drawn),
        reach=(float(losses.min()), float(losses.max())),
    )


def _fitted(
    off_centre: np.ndarray,
    scores: np.ndarray,
    errors: np.ndarray,
    chance: float,
    start: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Level and steepness by weighted least squares, from several starts unless one is given."""

    def off(at: np.ndarray) -> np.ndarray:
        return (_scores(off_centre, at[0], at[1], chance) - scores) / errors

    def slope(at: np.ndarray) -> np.ndarray:
        said = expit(at[0] - at[1] * off_centre)
        steep = (1 - chance) * said * (1 - said) / errors
        return np.stack([steep, -steep * off_centre], axis=1)

    starts = [start] if start else []
    if not start:
        spread = float(np.ptp(off_centre))
        for level in (-4.0, 0.0, 4.0):
            starts += [(level, sign / spread) for sign in (1.0, 5.0, 25.0, -2.0)]
    # scipy's own annotation of `jac` knows no function
    found = [least_squares(off, one, jac=slope, method="lm") for one in starts]  # pyright: ignore
    best = min(found, key=lambda one: one.cost)
    return float(best.x[0]), float(best.x[1])


def _scores(
    off_centre: float | np.ndarray,
    level: float | np.ndarray,
    steepness: float | np.ndarray,
    chance: float,
) -> np.ndarray:
    return chance + (1 - chance) * expit(level - steepness * np.asarray(off_centre))
