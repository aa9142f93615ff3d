"""Precisions: in which number format products of matrices take their numbers. Weights, gradients
and what the optimiser remembers are fp32 whatever it is.

To add one, add its record to `PRECISIONS`.
"""

from dataclasses import dataclass
from typing import Annotated

from windtunnel.choices import Table


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One number format, or a mixture of them."""

    name: str
    help: str
    half: bool
    """Whether products take 16 bits: those of attention and of the head, and of layers too unless
    they take fewer."""
    narrow: bool = False
    """Whether products with the matrices of layers take 8 bits."""

    @property
    def bytes(self) -> int:
        """Of a number as the backward pass keeps it for a product."""
        return 2 if self.half else 4


PRECISIONS = Table(
    "precision",
    [
        # settled for the device before anything asks what it takes (`train.device.choose_engine`)
        Precision(name="auto", help="bf16 wherever the device has it, else fp32", half=False),
        Precision(name="fp32", help="32 bits throughout", half=False),
        Precision(name="bf16", help="products in 16 bits, by autocast", half=True),
        Precision(
            name="fp8",
            help="as bf16, but products with the matrices of layers take 8 bits, each tensor "
            "scaled to their range; on a GPU, from the generation of the H100 on",
            half=True,
            narrow=True,
        ),
    ],
)

PrecisionName = Annotated[str, PRECISIONS]
