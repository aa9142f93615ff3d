"""Sizes, lengths and laws of which tests make tables of losses."""

import numpy as np

from windtunnel.laws.loss import LossLaw

SIZES, LENGTHS = np.geomspace(3e4, 6e5, 5), np.geomspace(3e5, 3e6, 6)
N, D = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))
TRUTH: dict[str, LossLaw] = {
    "additive": LossLaw.of(E=2.4, A=30.0, alpha=0.3, B=300.0, beta=0.4),
    "coupled": LossLaw.of(E=0.0, A=7e4, alpha=0.37, B=8.6e6, beta=0.63, c=0.19),
    "coupled+floor": LossLaw.of(E=1.2, A=3e3, alpha=0.4, B=2e5, beta=0.6, c=0.4),
    "interacting": LossLaw.of(E=2.4, A=30.0, alpha=0.3, B=90.0, beta=0.4, gamma=0.1),
    "coupled+interacting": LossLaw.of(E=1.2, A=3e3, alpha=0.4, B=6e4, beta=0.6, c=0.4, gamma=0.1),
}
