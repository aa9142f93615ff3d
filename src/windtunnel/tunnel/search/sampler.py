"""Which point to try next: where the surface through the runs so far promises most below what it
knows.

Log expected improvement (Jones et al. 1998; in logarithms, Ament et al. 2023) over the best
posterior mean: with noise the best measured loss is a lucky one. What is running is believed to
end at its posterior mean (Ginsbourger et al. 2010). Why not one of Optuna's samplers:
`bench/search.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import erfcx, ndtr

from windtunnel.tunnel.search.space import Octaves, Space
from windtunnel.tunnel.search.surface import Surface, Vector, fit_surface

# Octaves, in some setting, between any two points: what lies closer differs by less than a run
# can tell, and a model that is wrong about its best point would ask for it for ever.
APART = 0.25
# The point that promises most is looked for in rounds: over the whole space and about the best
# points so far, then about the most promising of each round.
_WIDE = 512  # points over the whole space
_BEST = 4  # points tried so far, about which more are looked at
_ABOUT = 64  # points about each of them
_KEPT = 8  # most promising points, about which a round looks
_NEAR = 0.5  # octaves about the best so far
_REACHES = (0.3, 0.3, 0.1)  # octaves, of the rounds that refine
_LEAST_VARIANCE = 1e-12  # nats**2; rounding can bring it below zero


def suggest(
    where: Space, tried: Octaves, losses: Sequence[float], running: Octaves, seed: int
) -> Vector:
    """The next point, (settings,) octaves, from trials that ended and those that have not, (n,
    settings) each.

    Every trial has the same seed. One that diverged comes with the worst loss of those that did
    not.
    """
    surface = believing(fit_surface(tried, losses, [0] * len(tried)), running)
    rng = np.random.default_rng(seed)
    lowest = np.argsort(surface.mean(surface.points), kind="stable")
    best = surface.points[lowest[:_BEST]]
    near = where.clip(_around(best, _ABOUT, _NEAR, rng))
    at = np.vstack([where.spread(_WIDE, seed), near])
    for reach in _REACHES:
        order = np.argsort(-promise(surface, at), kind="stable")
        top = at[order[:_KEPT]]
        at = np.vstack([top, where.clip(_around(top, _ABOUT // 2, reach, rng))])
    return at[promise(surface, at).argmax()]


def believing(surface: Surface, running: Octaves) -> Surface:
    """As if the running trials had ended at their posterior means."""
    if not len(running):
        return surface
    points = np.vstack([surface.points, running])
    heights = np.concatenate([surface.heights, surface.mean(running)])
    return replace(surface, points=points, heights=heights, _seeds=np.zeros(len(points), np.int64))


def promise(surface: Surface, at: Octaves) -> Vector:
    """Log expected improvement at (n, settings), (n,); -inf too close to a point of the surface.

    Expected improvement over the best mean m is s (phi(z) + z Phi(z)), z = (m - mean) / s, with s
    the posterior's standard deviation.
    """
    deviation = np.sqrt(np.maximum(np.diag(surface.covariance(at)), _LEAST_VARIANCE))
    z = (surface.mean(surface.points).min() - surface.mean(at)) / deviation
    apart = cdist(at, surface.points, "chebyshev").min(axis=1)
    return np.where(apart < APART, -np.inf, np.log(deviation) + log_improvement(z))


def log_improvement(z: Vector) -> Vector:
    """log(phi(z) + z Phi(z)), phi and Phi the standard normal's density and distribution: how far
    below z such a number is on average. Below -1, phi (1 + z Phi / phi), with Phi / phi from the
    scaled erfc.
    """
    near, far = np.maximum(z, -1.0), np.minimum(z, -1.0)
    density = np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi)
    # Phi / phi = sqrt(pi / 2) erfcx(-z / sqrt 2); far out 1 + z Phi / phi can round to 0
    rest = 1 + far * np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2))
    log_rest = np.log(np.maximum(rest, np.finfo(float).tiny))
    tail = -0.5 * far**2 - 0.5 * np.log(2 * np.pi) + log_rest
    return np.where(z > -1, np.log(density + near * ndtr(near)), tail)


def _around(centres: Octaves, each: int, reach: float, rng: np.random.Generator) -> Octaves:
    """`each` normal draws about every centre, (centres each, settings)."""
    repeated = np.repeat(centres, each, axis=0)
    return repeated + reach * rng.standard_normal(repeated.shape)
