"""The paper's claims on the decay stage (section 4.4), held against the steps of a run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from windtunnel.results.dynamics import Claim, DynamicsRow, Interval, SameBatch

BLOCK = 10  # steps; neighbours may be alike, so the bootstrap draws stretches of them
_DRAWS = 1000
_END = 1 / 3  # of the decay: its last part, held against the stable phase
_POWER = (0.75, 1.25)  # what follows the rate grows with a power of it that lies between these


class Phases(NamedTuple):
    """The steps of a run that are held against each other."""

    stable: Sequence[DynamicsRow]  # before the decay, as many as it has
    decay: Sequence[DynamicsRow]
    end: Sequence[DynamicsRow]  # the last third of the decay


def phases_of(rows: Sequence[DynamicsRow], decay_begins: int) -> Phases:
    """The phases of a run whose decay begins at a token."""
    decay = [row for row in rows if row.tokens > decay_begins]
    stable = [row for row in rows if row.tokens <= decay_begins][-len(decay) :]
    return Phases(stable, decay, decay[-round(len(decay) * _END) :])


def judge(phases: Phases) -> list[Claim]:
    """The paper's claims. A claim is shown when its interval lies wholly on the claimed side."""
    return [
        _follows(
            "weight change", "the largest weight change follows the rate", "max_change", phases
        ),
        _level("gradient norm", "the gradient norm drops", "grad_norm", phases, _falls),
        _cosine(phases),
        _follows("|D1|", "the first directional derivative falls with the rate", "d1", phases),
        _level("|D2|", "the second directional derivative rises", "d2", phases, _rises),
        _level(
            "curvature",
            "the curvature along the path rises, about tenfold",
            "curvature",
            phases,
            _rises,
        ),
    ]


def _falls(ratio: Interval) -> bool:
    return ratio[2] < 1


def _rises(ratio: Interval) -> bool:
    return ratio[1] > 1


def _level(
    name: str, says: str, column: str, phases: Phases, shown: Callable[[Interval], bool]
) -> Claim:
    """That the mean size of a quantity changes: `shown` judges the ratio of its means."""
    before = np.abs(_values(phases.stable, column))
    after = np.abs(_values(phases.end, column))
    effect = interval(_ratio, before, after)
    return Claim(
        name=name,
        says=says,
        stable=interval(_mean, before),
        decay=interval(_mean, after),
        effect=effect,
        effect_is="ratio",
        shown=shown(effect),
    )


def _follows(name: str, says: str, column: str, phases: Phases) -> Claim:
    """That the size of a quantity grows with the rate: the power of the rate with which it does,
    by least squares of the logarithms, is about 1.
    """
    steps = [*phases.stable, *phases.decay]
    pairs = np.column_stack([_values(steps, "lr"), np.abs(_values(steps, column))])
    power = interval(_slope, np.log(pairs))
    return Claim(
        name=name,
        says=says,
        stable=interval(_mean, np.abs(_values(phases.stable, column))),
        decay=interval(_mean, np.abs(_values(phases.end, column))),
        effect=power,
        effect_is="power of the rate",
        shown=_POWER[0] < power[1] and power[2] < _POWER[1],
    )


def _cosine(phases: Phases) -> Claim:
    """That most steps of the decay's end, and more than before, have a cosine above zero."""
    before = (_values(phases.stable, "cosine") > 0).astype(float)
    after = (_values(phases.end, "cosine") > 0).astype(float)
    turned = interval(_difference, before, after)
    share = interval(_mean, after)  # of steps with a cosine above zero
    return Claim(
        name="cosine > 0",
        says="the cosine of successive gradients becomes mostly positive",
        stable=interval(_mean, before),
        decay=share,
        effect=turned,
        effect_is="difference",
        shown=share[1] > 0.5 and turned[1] > 0,
    )


def same_batch(phases: Phases) -> SameBatch:
    """D2 without the noise of two batches: its mean before and at the end of the decay, and their
    ratio.
    """
    before = _values(phases.stable, "d2_same_batch")
    after = _values(phases.end, "d2_same_batch")
    return SameBatch(
        stable=interval(_mean, before),
        decay=interval(_mean, after),
        ratio=interval(_ratio, before, after),
    )


def interval(statistic: Callable[..., float], *samples: NDArray[Any]) -> Interval:
    """(value, low, high), to four digits: the 95% interval by a bootstrap over blocks of
    neighbouring steps, each sample on its own.

    Samples: (steps,) or (steps, ...). Circular blocks (Politis and Romano 1992), always the same
    draws.
    """
    rng = np.random.default_rng(0)

    def draw(sample: NDArray[Any]) -> NDArray[Any]:
        """As many steps as the sample has, in blocks that begin anywhere and go round its end."""
        steps = len(sample)
        block = min(BLOCK, steps)
        starts = rng.integers(0, steps, -(-steps // block))
        places = (starts[:, None] + np.arange(block)).ravel()[:steps]
        return sample[places % steps]

    drawn = [statistic(*map(draw, samples)) for _ in range(_DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return _short(statistic(*samples)), _short(low), _short(high)


def summary_of(claims: Sequence[Claim], d2: SameBatch) -> str:
    """One sentence."""
    shown = [claim for claim in claims if claim.shown]
    rest = [claim for claim in claims if not claim.shown]
    return (
        f"of the paper's claims about the decay this run shows: {_listed(shown)}; it does not "
        f"show: {_listed(rest)}; with one batch at both ends of a step the ratio of D2 is "
        f"{_text(d2.ratio)}, and any rise beyond that comes from the noise between two batches"
    )


def _listed(claims: Sequence[Claim]) -> str:
    texts = [f"{claim.name} ({claim.effect_is} {_text(claim.effect)})" for claim in claims]
    return ", ".join(texts) or "none"


def _text(effect: Interval) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*effect)


def _short(number: float) -> float:
    """To four digits."""
    return float(f"{number:.4g}")


def _values(rows: Sequence[DynamicsRow], column: str) -> NDArray[np.float64]:
    return np.array([getattr(row, column) for row in rows], float)


def _mean(sample: NDArray[Any]) -> float:
    return float(sample.mean())


def _ratio(before: NDArray[Any], after: NDArray[Any]) -> float:
    return float(after.mean() / before.mean())


def _difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    return float(after.mean() - before.mean())


def _slope(points: NDArray[Any]) -> float:
    """Least squares of (steps, 2): y on x."""
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return float((x * y).sum() / (x * x).sum())
