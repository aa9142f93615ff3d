"""The settings that a search can vary, each log-uniform between two bounds."""

import math
from dataclasses import dataclass, replace

from windtunnel.choices import Table

_DIGITS = 4  # of a setting's value in a recipe: nobody can use more
_WIDER, _FARTHEST = 4.0, 16.0  # factors


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a recipe. `low` to `high` bound what is searched: the value itself, or 1 - value
    where `complement`.
    """

    name: str
    help: str
    section: str  # of the recipe
    default: float  # the paper's (section A.1), or the recipe's where the paper did not search it
    low: float
    high: float
    most: float = math.inf  # that a search may widen `high` to
    complement: bool = False
    always: bool = False  # part of every search, as in the paper; else only where asked for

    @property
    def label(self) -> str:
        """What is searched, such as `lr` or `1-beta2`."""
        return f"1-{self.name}" if self.complement else self.name

    def searched(self, value: float) -> float:
        """From the recipe's value to what is searched, or back."""
        return float(f"{1 - value:.10g}") if self.complement else value

    def wider(self, below: bool, above: bool) -> "Setting":
        """The setting searched two octaves further at either end, but not beyond `most`, nor
        further than four octaves from where the table has its ends.
        """
        first = SETTINGS[self.name]
        low = max(self.low / _WIDER, first.low / _FARTHEST) if below else self.low
        high = min(self.high * _WIDER, first.high * _FARTHEST, self.most) if above else self.high
        return replace(self, low=low, high=high)

    def rounded(self, searched: float) -> float:
        """The recipe's value of what a sampler asked for."""
        return self.searched(float(f"{searched:.{_DIGITS}g}"))


# Two octaves about the paper's point; a smaller model may want a higher rate than the paper's.
SETTINGS = Table(
    "setting of a search",
    (
        Setting(
            name="lr",
            help="the base learning rate",
            section="optimizer",
            default=0.01,
            low=0.0025,
            high=0.08,
            always=True,
        ),
        Setting(
            name="scale_depth",
            help="the multiplier of a residual branch, times the root of the depth",
            section="model",
            default=1.4,
            low=0.35,
            high=5.6,
            always=True,
        ),
        Setting(
            name="scale_emb",
            help="the multiplier of the embedding's output",
            section="model",
            default=12.0,
            low=3.0,
            high=48.0,
            always=True,
        ),
        Setting(
            name="init_std",
            help="the standard deviation of initial weights",
            section="model",
            default=0.1,
            low=0.025,
            high=0.4,
            always=True,
        ),
        Setting(
            name="weight_decay",
            help="the weight decay",
            section="optimizer",
            default=1e-3,
            low=1e-4,
            high=1e-2,
            most=0.5,
        ),
        Setting(
            name="beta2",
            help="Adam's average of squared gradients",
            section="optimizer",
            default=0.95,
            low=0.003,
            high=0.2,
            most=0.5,
            complement=True,
        ),
        Setting(
            name="momentum",
            help="Muon's average of gradients",
            section="optimizer",
            default=0.95,
            low=0.0125,
            high=0.2,
            most=0.5,
            complement=True,
        ),
        Setting(
            name="warmup",
            help="the warm-up as a share of the run",
            section="schedule",
            default=0.02,
            low=0.005,
            high=0.16,
            most=0.5,
        ),
    ),
)


def optional_settings() -> Table[Setting]:
    """Those that a search varies only where it is asked to."""
    return Table(SETTINGS.kind, [each for each in SETTINGS.values() if not each.always])
