"""What a model costs on a device: hours and money to train, bytes to train and to serve."""

from typing import Any

from windtunnel.devices import GB
from windtunnel.errors import InputError, did_you_mean
from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Model

# The paper's 2.4B on A100s comes to 78 to 87 TFLOP/s a device, 25 to 28% of the peak.
ASSUMED_SHARE = 0.25
# Bytes a weight. The small formats of GGUF keep a scale for each block: 4.5 and 8.5 bits a weight
# (q4_0, q8_0).
QUANTISATIONS = {"f32": 4.0, "f16": 2.0, "q8": 8.5 / 8, "q4": 4.5 / 8}
# Things that a model may have to fit, in bytes: half of the memory of what is named, the rest is
# the system's.
TARGETS = {
    "phone-6gb": 3 * GB,
    "phone-8gb": 4 * GB,
    "phone-12gb": 6 * GB,
    "laptop-8gb": 4 * GB,
    "laptop-16gb": 8 * GB,
    "raspberry-pi-4gb": 2 * GB,
    "raspberry-pi-8gb": 4 * GB,
}


def bytes_of(text: str) -> int:
    """`500MB`, `1.5GB`, `800000000` or a known target such as `phone-6gb`. Raises InputError."""
    key = text.strip().lower()
    if key in TARGETS:
        return TARGETS[key]
    for unit, size in (("kb", 10**3), ("mb", 10**6), ("gb", GB), ("tb", 10**12), ("b", 1), ("", 1)):
        if key.endswith(unit):
            try:
                value = float(key.removesuffix(unit)) * size
            except ValueError:
                break
            if 0 < value < 1e15:
                return round(value)
            break
    raise InputError(
        f"--fit-device {text}: expected bytes such as 500MB or 2GB, or one of {', '.join(TARGETS)}"
        f"{did_you_mean(key, TARGETS)}"
    )


def bytes_per_weight(quantisation: str) -> float:
    """Raises InputError for one that is not known."""
    if quantisation not in QUANTISATIONS:
        expected = (
            f"expected one of {', '.join(QUANTISATIONS)}{did_you_mean(quantisation, QUANTISATIONS)}"
        )
        raise InputError(f"--quantisation {quantisation}: {expected}")
    return QUANTISATIONS[quantisation]


def serving(model: Model, context: int) -> dict[str, Any]:
    """Bytes of the weights by quantisation and of a full cache of keys and values in f16; FLOPs
    of a token that is read or written at half of the context.
    """
    total = count(model).params_total
    return {
        "bytes": {name: round(total * each) for name, each in QUANTISATIONS.items()},
        "cache_bytes": 2 * 2 * model.depth * model.kv_heads * model.head_size * context,
        "flops_per_token": flops_per_token(model, context) // 3,  # the forward pass
    }
