"""What speaks against a design: what it lacks at first sight, and what its simulation shows."""

import math
from collections.abc import Mapping

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.quantities import about
from windtunnel.results.dry_run import Expectation, ParameterFound
from windtunnel.tunnel.scaling.chain import Chain
from windtunnel.tunnel.scaling.design import (
    FEWEST_SIZES,
    FEWEST_STEPS,
    HIGHEST_COST,
    SMALLEST_SPAN,
    Design,
)
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid

COVERAGE = 0.9  # share of its 90% intervals that should hold the loss
# The longest length over the shortest: the spread of tokens per parameter at each size. A design
# in whole steps may miss it by a little.
_LENGTHS = 8
_NEARLY = 0.98
_LOOSE = 0.5  # half of the inner 90% of an exponent, relative: from here on it is not told


def shortcomings(design: Design, chain: Chain, grid: PointGrid, corpus: Corpus) -> list[str]:
    """What no simulation is needed for, a sentence each."""
    found = []
    sizes = len(set(design.sizes))
    if sizes < FEWEST_SIZES:
        found.append(f"{sizes} sizes: a law needs {FEWEST_SIZES} or more")
    span = max(grid.totals) / min(grid.totals)
    if span < SMALLEST_SPAN:
        found.append(
            f"sizes over {span:.3g}x in parameters: N's exponent needs {SMALLEST_SPAN}x or more"
        )
    if _on_one_ray(grid):
        found.append("size and length grow together, on one ray: their effects can't be told apart")
    reach = max(chain.lengths) / min(chain.lengths)
    if reach < _NEARLY * _LENGTHS:
        found.append(f"lengths over {reach:.3g}x: tokens a parameter need a spread of {_LENGTHS}x")
    if chain.fewest_steps < FEWEST_STEPS:
        found.append(
            f"{chain.fewest_steps} steps at the shortest length: it needs {FEWEST_STEPS} or more"
        )
    longest = max(*chain.lengths, design.audit_tokens if design.audit else 0)
    epochs = longest / corpus.train_tokens
    if epochs > 1:
        found.append(
            f"the longest run reads the corpus {epochs:.2f} times: a law is of text read once, so "
            f"--longest and --audit-tokens go up to {about(corpus.train_tokens)} here"
        )
    cost = chain.trained / chain.retrained
    if cost > HIGHEST_COST:
        found.append(
            f"stems and branches cost {cost:.2f} of retraining every point, where "
            f"{HIGHEST_COST:g} can be had: more lengths would make better use of the stems"
        )
    return found


def _on_one_ray(grid: PointGrid) -> bool:
    """Whether log N and log D of the points span less than two dimensions."""
    points = grid.points(np.ones((len(grid.stems), len(grid.tokens))))
    logs = np.log(np.column_stack([points.params["params_total"], points.tokens]))
    return int(np.linalg.matrix_rank(logs - logs.mean(0), tol=1e-3)) < 2


def doubts(
    expected: Expectation, parameters: Mapping[str, Mapping[str, ParameterFound]], doubled: float
) -> list[str]:
    """What the simulation shows, a sentence each. `doubled`: what twice the size and twice the
    data gain at the target, relative to the loss.
    """
    found = []
    for name in ("N's exponent", "D's exponent"):
        spread = max(named[name].spread for named in parameters.values())
        if spread > _LOOSE:
            found.append(
                f"this design can't tell {name}: it would come out within {spread:.0%} of the true "
                "one"
            )
    if expected.width90 > doubled:
        found.append(
            f"the 90% interval is {expected.width90:.1%} of the loss wide, more than the "
            f"{doubled:.1%} that four times the compute would gain: no plan can be judged by it"
        )
    # two standard deviations of a share counted in so many studies
    deviation = math.sqrt(COVERAGE * (1 - COVERAGE) / expected.studies)
    if expected.coverage90 < COVERAGE - 2 * deviation:
        found.append(
            f"the 90% intervals held the loss in only {expected.coverage90:.0%} of the studies: "
            "don't trust them"
        )
    return found
