"""What was measured at the scale of a laptop: models of 20 thousand to 2 million parameters on two
cores. The tunnel and the plan fall back on these numbers where a lab has measured nothing itself.

Commands and dates are in docs/LOG.md.
"""

import numpy as np

from windtunnel.laws.batch import ByTokens, Optima

# Models with fewer parameters than this (the paper's smallest) follow these numbers, not the
# paper's.
LARGEST = 9e6

# Where the paper's base width of 256 would leave every tiny model below its base.
BASE_WIDTH = 32
BASE_DEPTH = 4

# Width over depth of the tunnel's own models, which are 16 to 96 wide.
WIDTH = 96
WIDTH_PER_DEPTH = (8.0, 24.0)

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
