"""Processors as their makers' data sheets have them: the one table that a run measures itself
against and that a plan is priced by. It needs no torch.
"""

from dataclasses import dataclass
from typing import Literal

from windtunnel.choices import Table

Kind = Literal["cpu", "cuda", "mps"]

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Device:
    """A processor. A peak or a memory of 0 is not known: it depends on the machine."""

    name: str
    help: str
    kind: Kind
    peak: float = 0.0
    """Dense matrix products in bf16 without sparsity, FLOP/s."""
    memory: int = 0
    """Bytes."""
    reported_as: str = ""
    """A part of the name that its driver reports; empty where a driver reports no such name."""


def _gpu(name: str, reported_as: str, teraflops: float, gigabytes: int) -> Device:
    return Device(
        name=name,
        help=f"NVIDIA {reported_as}, {gigabytes} GB",
        kind="cuda",
        peak=teraflops * 1e12,
        memory=gigabytes * GB,
        reported_as=reported_as,
    )


DEVICES = Table[Device](
    "device",
    (
        _gpu("h200", "H200", 989, 141),
        _gpu("h100", "H100", 989, 80),
        _gpu("a100", "A100", 312, 80),
        _gpu("a100-40gb", "A100", 312, 40),
        _gpu("l40s", "L40S", 362, 48),
        _gpu("rtx4090", "RTX 4090", 165, 24),
        Device(name="cpu", help="one core of this machine", kind="cpu"),
    ),
)


def device_named(text: str, where: str) -> Device:
    """The device that a person means by `h100`, `H100` or `RTX 4090`. Raises InputError that
    begins with `where`, such as `--device h10`.
    """
    return DEVICES.choose(text.lower().replace(" ", "").replace("_", "-"), where)


def known_peak(reported: str) -> float | None:
    """The peak, FLOP/s, of the GPU that a driver reports under this name, such as "NVIDIA H100
    80GB HBM3"; None where the table has no such GPU.
    """
    for device in DEVICES.values():
        if device.reported_as and device.reported_as in reported:
            return device.peak
    return None
