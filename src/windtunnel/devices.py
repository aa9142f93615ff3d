"""Devices by name: processors to train on, as their makers' data sheets have them, and what a
trained model may have to fit. A run measures itself against these tables and a plan is priced by
them; they need no torch.
"""

import re
from dataclasses import dataclass
from typing import Literal

from windtunnel.choices import Table
from windtunnel.errors import InputError, did_you_mean

Kind = Literal["cpu", "cuda", "mps"]

GB = 10**9
# Words of a reported name that leave the peak as it is, where no device of the table has them.
_SAYS_NOTHING = re.compile(r"NVIDIA|GEFORCE|TESLA|SXM\d*|PCIE|HBM\d\w*|\d+GB")
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": GB, "tb": 10**12, "b": 1, "": 1}


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
    """The words by which its driver's name for it is known; empty where a driver reports none."""


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How the weights of a served model are held."""

    name: str
    help: str
    bytes: float
    """A weight. The small formats of GGUF keep a scale for each block of 32."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a served model may have to fit. Half of the memory is the system's."""

    name: str
    help: str
    gigabytes: int
    """Of memory."""

    @property
    def bytes(self) -> int:
        """For the model and its cache."""
        return self.gigabytes * GB // 2


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
        _gpu("b200", "B200", 2250, 180),
        _gpu("h200", "H200", 989, 141),
        _gpu("h200-nvl", "H200 NVL", 835, 141),
        _gpu("gh200", "GH200", 989, 96),
        _gpu("h100", "H100", 989, 80),
        _gpu("h100-pcie", "H100 PCIe", 756, 80),
        _gpu("h100-nvl", "H100 NVL", 835, 94),
        _gpu("a100", "A100", 312, 80),
        _gpu("a100-40gb", "A100", 312, 40),
        _gpu("l40s", "L40S", 362, 48),
        _gpu("rtx4090", "RTX 4090", 165, 24),
        Device(name="cpu", help="one core of this machine", kind="cpu"),
    ),
)


QUANTISATIONS = Table[Quantisation](
    "quantisation",
    (
        Quantisation(name="f32", help="32 bits a weight", bytes=4.0),
        Quantisation(name="f16", help="16 bits a weight", bytes=2.0),
        Quantisation(name="q8", help="8.5 bits a weight (q8_0)", bytes=8.5 / 8),
        Quantisation(name="q4", help="4.5 bits a weight (q4_0)", bytes=4.5 / 8),
    ),
)
TARGETS = Table[Target](
    "target",
    (
        Target(name="phone-6gb", help="a phone with 6 GB", gigabytes=6),
        Target(name="phone-8gb", help="a phone with 8 GB", gigabytes=8),
        Target(name="phone-12gb", help="a phone with 12 GB", gigabytes=12),
        Target(name="laptop-8gb", help="a laptop with 8 GB", gigabytes=8),
        Target(name="laptop-16gb", help="a laptop with 16 GB", gigabytes=16),
        Target(name="raspberry-pi-4gb", help="a Raspberry Pi with 4 GB", gigabytes=4),
        Target(name="raspberry-pi-8gb", help="a Raspberry Pi with 8 GB", gigabytes=8),
    ),
)


def device_named(text: str, where: str) -> Device:
    """The device that a person means by `h100`, `H100` or `RTX 4090`. Raises InputError that
    begins with `where`, such as `--device h10`.
    """
    return DEVICES.choose(text.lower().replace(" ", "").replace("_", "-"), where)


def known_peak(reported: str) -> float | None:
    """The peak, FLOP/s, of the GPU that a driver reports under this name, such as "NVIDIA H100
    80GB HBM3"; None where the table has no such GPU, and where the name says more than the table
    knows: a slice of a GPU ("MIG 1g.10gb") or a laptop's has another peak.
    """
    words = set(re.split(r"[\s-]+", reported.upper()))
    matching: dict[int, float] = {}  # peaks by how many words say so
    for device in DEVICES.values():
        own = set(device.reported_as.upper().split())
        if own and own <= words and all(_SAYS_NOTHING.fullmatch(word) for word in words - own):
            matching[len(own)] = device.peak
    return matching[max(matching)] if matching else None


def bytes_of(text: str) -> int:
    """`500MB`, `1.5GB`, `800000000` or a known target such as `phone-6gb`, in bytes. Raises
    InputError.
    """
    key = text.strip().lower()
    if key in TARGETS:
        return TARGETS[key].bytes
    unit = next(unit for unit in _UNITS if key.endswith(unit))
    try:
        size = float(key.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        size = 0.0
    if not 0 < size < 1e15:
        raise InputError(
            f"--fit-device {text}: expected bytes such as 500MB or 2GB, or one of "
            f"{', '.join(TARGETS)}{did_you_mean(key, TARGETS)}"
        )
    return round(size)
