"""What this process has compiled, and what it found that an earlier one had compiled."""

import sys
from dataclasses import dataclass

# torch's compiler takes longer to import than torch itself, and many runs compile nothing: it is
# imported where something is compiled.

_SHAPES = 256  # whose compiled code a process keeps


def keep_shapes() -> None:
    """Past its own limit of 8 shapes torch would quietly not compile any more."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = _SHAPES


@dataclass(frozen=True)
class Compiled:
    """`made` graphs were compiled anew, `found` were on the disk; `seconds` went into both,
    tracing included.
    """

    made: int = 0
    found: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Compiled") -> "Compiled":
        return Compiled(
            self.made + other.made, self.found + other.found, self.seconds + other.seconds
        )

    def __sub__(self, other: "Compiled") -> "Compiled":
        return Compiled(
            self.made - other.made, self.found - other.found, self.seconds - other.seconds
        )

    def __str__(self) -> str:
        if not self.made:
            found = f"{self.found} graphs found on the disk and loaded"
            return f"nothing compiled anew: {found} in {self.seconds:.0f} s"
        made = f"{self.made} graphs compiled anew and {self.found} found on the disk"
        return f"{made}, {self.seconds:.0f} s"


def so_far() -> Compiled:
    """Since this process began."""
    if "torch._dynamo" not in sys.modules:
        return Compiled()
    from torch._dynamo.utils import calculate_time_spent, counters

    graphs = counters["inductor"]
    seconds = calculate_time_spent()["total_wall_time"]
    return Compiled(graphs["fxgraph_cache_miss"], graphs["fxgraph_cache_hit"], seconds)
