"""What several tests of a simulated scaling study share."""

from dataclasses import replace
from typing import Any

from windtunnel.laws.loss import LossLaw
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.assumptions import Truth
from windtunnel.tunnel.scaling.dry_run.cost import SizeCounts
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid

COUPLED = Truth(
    form="coupled",
    count="params_total",
    law=LossLaw.of(E=0, A=2e8, alpha=0.9, B=1.3e8, beta=0.7, c=0.163),
    origin="known",
)
# the default design's, and larger ones
SIZES = (*Design().sizes, Size(80, 4), Size(112, 4), Size(128, 4))


def grid_of(counts: dict[Size, SizeCounts], **changes: Any) -> PointGrid:
    """The points of the default design, or of one that differs from it by `changes`."""
    design = replace(Design(), **changes)
    return PointGrid.of(design, lay_out(design, LAPTOP_BATCH), counts)
