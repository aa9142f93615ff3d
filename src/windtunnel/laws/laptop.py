"""What was measured at the scale of a laptop: models of 20 thousand to 2 million parameters on two
cores. The tunnel and the plan fall back on these numbers where a lab has measured nothing itself.

Commands and dates are in docs/LOG.md.
"""

import numpy as np

from windtunnel.laws.batch import ByTokens, Optima
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.rate import RateLaw

# Models with fewer parameters than this (the paper's smallest) follow these numbers, not the
# paper's.
LARGEST = 9e6

# Where the paper's base width of 256 would leave every tiny model below its base.
BASE_WIDTH = 32
BASE_DEPTH = 4

# Of the held-out text, what may stand in the text to train on without a word: where documents are
# their own it is 1% at most.
MANY_REPEATS = 0.05

# Width over depth of the tunnel's own models, which are 16 to 96 wide.
WIDTH = 96
WIDTH_PER_DEPTH, SPREAD_OF_DEPTHS = 192**0.5, 3**0.5  # from 8 to 24

# Best batches of a 48x3 model at lr 0.01: the vertices of parabolas through half to four times the
# best one's loss (vocabulary 2048, context 256, one seed).
BATCH_OPTIMA = Optima(
    batch=np.array([1190.0, 1770.0, 2350.0]),
    loss=np.array([4.68, 4.45, 4.25]),
    tokens=np.array([0.8e6, 1.6e6, 3.2e6]),
    params=np.full(3, 79_824.0),
    error=np.full(3, 0.2),
)
# The law through them, rounded: tokens a step = c D^p.
BATCH_LAW = ByTokens(1.52, 0.49)
ORIGIN = "measured at laptop scale"

# Best rates of two widths (32 and 64, two layers) with a batch of 512, and of the first with one of
# 2,048, at four lengths from 240k to 1.92M tokens each.
RATE_LAW = RateLaw(
    lr=0.0147,
    params=37_600,
    tokens=679_000,
    batch=813,
    by_params=-0.078,
    by_tokens=-0.005,
    by_batch=0.143,
    covariance=1e-3
    * np.array(
        [
            [2.47, 0.49, 1.99, -0.74],
            [0.49, 3.75, 0.49, 1.57],
            [1.99, 0.49, 3.86, 0.07],
            [-0.74, 1.57, 0.07, 2.98],
        ]
    ),
    largest_batch=2048,
)

# Laws of four sizes (24k to 530k parameters) at five lengths (0.8M to 12.8M tokens) of a
# 2,048-word vocabulary, by form; N counts all parameters.
LOSS_LAWS: dict[str, LossLaw] = {
    "additive": LossLaw.of(E=2.955, A=446.4, alpha=0.5533, B=143.0, beta=0.3509),
    "coupled": LossLaw.of(E=0.0, A=2.346e8, alpha=0.9155, B=1.285e8, beta=0.6977, c=0.16265),
}

# What runs of so many tokens may lie above any law by, nats/token. Assumed: a quarter of what was
# feared of the shortest length of a study here, and what bends its law by a percent far out.
TRANSIENT, TRANSIENT_TOKENS = 0.05, 240_000

# Standard deviations of a loss about such a law, nats/token: of two sizes with two seeds at seven
# lengths, and of what all five sizes of that study had in common beside the law.
STEM_NOISE = 0.004  # a seed moves all branches of a stem together
OWN_NOISE = 0.0094  # and each branch by itself
LENGTH_NOISE = 0.013  # all stems depart from any law together at a length

# Seconds of one core that training takes, through 41 runs of widths 16 to 256, depths 2 to 4,
# batches of 512 to 2048 tokens, two at once on two cores.
SECONDS_A_FLOP = 8.9e-12
SECONDS_A_TOKEN = 8.8e-7  # and layer, beside the matrix products
SECONDS_A_STEP = 2.05e-2  # and layer, beside the matrix products
