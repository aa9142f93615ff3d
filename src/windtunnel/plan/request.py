"""What a person asks a plan for."""

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.recipe import ParametrizationName


@dataclass(frozen=True)
class Request:
    """What a person asked for; None where nothing was said."""

    flops: float | None = None
    hours: float | None = None
    device: str | None = None
    devices: int = 1
    share: float | None = None  # of the device's peak
    price: float | None = None  # of an hour of one device
    tokens: int | None = None
    epochs: float | None = None
    params: float | None = None
    shape: tuple[int, int] | None = None
    bytes_served: int | None = None
    quantisation: str = "q4"
    corpus: str | None = None
    vocab: int | None = None
    context: int | None = None
    lr: float | None = None
    parametrization: ParametrizationName | None = None
    name: str = ""

    def check(self) -> None:
        """Raises InputError for what contradicts itself."""
        for first, second in _CONTRADICTIONS:
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise InputError(
                    f"{_OPTION[first]} and {_OPTION[second]} contradict each other: give one of them"
                )
        if self.shape is not None and self.shape[0] % 16:
            asked = "{}x{}".format(*self.shape)
            raise InputError(
                f"--shape {asked}: the width must be a multiple of 16, so that heads are whole"
            )
        sized = self.params is not None or self.shape is not None
        if sized and self.tokens is not None and (self.flops is not None or self.hours is not None):
            raise InputError(
                "a size and its tokens already have their FLOPs: leave one of size, tokens and budget out"
            )
        if self.hours is not None and self.device is None:
            raise InputError("--hours: of which device? Give --device, such as h100 or cpu")
        if all(getattr(self, name) is None for name in _BUDGETS):
            raise InputError(
                f"no budget: give one of {', '.join(_OPTION[name] for name in _BUDGETS)}"
            )


_OPTION = {
    "flops": "--flops",
    "hours": "--hours",
    "tokens": "--tokens",
    "params": "--params",
    "shape": "--shape",
    "bytes_served": "--fit-device",
}
_BUDGETS = tuple(_OPTION)
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
