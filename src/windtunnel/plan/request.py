"""What a person asks a plan for."""

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.recipe import ParametrizationName


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; None where nothing was said."""

    flops: float | None = None  # of training
    hours: float | None = None  # of training
    device: str | None = None  # a name of devices.DEVICES
    devices: int = 1
    share: float | None = None  # of the device's peak
    price: float | None = None  # of an hour of one device
    tokens: int | None = None  # in hand
    epochs: float | None = None  # how often those may be read
    params: float | None = None  # without embeddings
    shape: tuple[int, int] | None = None  # width, depth
    bytes_served: int | None = None  # for the weights and a full cache
    quantisation: str = "q4"  # a name of devices.QUANTISATIONS
    corpus: str | None = None
    vocab: int | None = None
    context: int | None = None  # tokens of a window
    lr: float | None = None
    parametrization: ParametrizationName | None = None
    name: str = ""  # of the plan

    def check(self) -> None:
        """Raises InputError for what contradicts itself."""
        for first, second in _CONTRADICTIONS:
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise InputError(
                    f"{_OPTION[first]} and {_OPTION[second]} contradict each other: give only "
                    "one of them"
                )
        if self.shape is not None and self.shape[0] % 16:
            asked = "{}x{}".format(*self.shape)
            raise InputError(
                f"--shape {asked}: the width must be a multiple of 16, the smallest size of a head"
            )
        sized = self.params is not None or self.shape is not None
        if sized and self.tokens is not None and (self.flops is not None or self.hours is not None):
            raise InputError(
                "a size and its tokens already have their FLOPs: leave out one of size, tokens "
                "and budget"
            )
        if self.hours is not None and self.device is None:
            raise InputError("--hours: on which device? Give --device, such as h100 or cpu")
        if all(getattr(self, name) is None for name in _OPTION):
            raise InputError(f"no budget: give at least one of {', '.join(_OPTION.values())}")


# The options that say a budget.
_OPTION = {
    "flops": "--flops",
    "hours": "--hours",
    "tokens": "--tokens",
    "params": "--params",
    "shape": "--shape",
    "bytes_served": "--fit-device",
}
_CONTRADICTIONS = (
    ("flops", "hours"),
    ("params", "shape"),
    ("params", "bytes_served"),
    ("shape", "bytes_served"),
)


def asked_by(request: Request) -> str:
    """The options that say the budget."""
    return " ".join(
        option for name, option in _OPTION.items() if getattr(request, name) is not None
    )


def name_of(request: Request) -> str:
    """`flops-1e18`, `tokens-20M`, `params-1M-tokens-20M`."""
    parts = {
        "flops": request.flops and f"{request.flops:.4g}".replace("+", ""),
        "hours": request.hours and f"{request.hours:.4g}-{request.devices}-{request.device}",
        "params": request.params and about(request.params),
        "shape": request.shape and "{}x{}".format(*request.shape),
        "fit": request.bytes_served and f"{about(request.bytes_served)}-{request.quantisation}",
        "tokens": request.tokens and about(request.tokens),
    }
    return "-".join(f"{key}-{value}" for key, value in parts.items() if value)
