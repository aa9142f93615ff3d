"""Options that several commands take."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.choices import Table
from windtunnel.data.formats import FORMATS
from windtunnel.errors import InputError
from windtunnel.recipe import DECAY_SHAPES
from windtunnel.tunnel.design import LENGTH, NUMBER, TOKENS, TOKENS_OR_ZERO, Kind

Lab = Annotated[
    Path,
    typer.Option(
        "--lab", help="The folder that holds corpora, runs, studies and plans.", metavar="DIR"
    ),
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run: its id, its name, its path, or the first digits of its id, four at least.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help=f"What the files are: {FORMATS.listed}; by default seen from what each of them holds.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Corpora = Annotated[str, typer.Option("--corpus", help="A corpus of the lab.", metavar="NAME")]
Shape = Annotated[
    str, typer.Option("--shape", metavar="WORD", help=f"Shape of the decay: {DECAY_SHAPES.listed}.")
]


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """What a run that was begun is computed with."""

    name: str
    help: str


_ENGINES = Table(
    "engine",
    (
        _Engine(name="kept", help="as it was when the run was begun"),
        _Engine(name="anew", help="as this machine chooses now, which gives other bits"),
    ),
)
EngineChoice = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="WORD",
        help="What the run is computed with (precision, compilation, tokens at once): "
        + "; ".join(f"{one.name}, {one.help}" for one in _ENGINES.values())
        + ".",
    ),
]
DEFAULT_LAB = Path("lab")


def typed(flag: str, kind: Kind[Any], help: str) -> Any:
    """An option whose value is typed as the options of studies are: what is out of its range, or
    no number at all, is refused in a line that names the flag and says what was expected.
    """
    return typer.Option(
        flag, help=help, metavar=kind.metavar, parser=lambda given: kind.parse(flag, str(given))
    )


# Of the commands that begin a run anew from another.
ParentRate = Annotated[
    float | None,
    typed(
        "--lr",
        NUMBER,
        "Base learning rate; by default the run's. An imported run has none, and needs this.",
    ),
]
ParentCorpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="NAME",
        help="The corpus to train on; by default the run's. An imported run has none, and needs "
        "this.",
    ),
]
NewDecay = Annotated[
    str,
    typer.Option(
        "--decay",
        metavar=LENGTH.metavar,
        help="The length of the decay at the end, in tokens or as a share; 0 makes "
        "a stem, which has none.",
    ),
]
InsteadOfEpochs = Annotated[
    str | None,
    typer.Option(
        "--tokens", metavar="TOKENS", help="How many tokens to read, instead of --epochs."
    ),
]
AtLast = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TOKENS",
        help="Begin with the checkpoint at this many tokens instead of the last.",
    ),
]
AtStable = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TOKENS",
        help="Begin with the checkpoint at this many tokens; by default with the last one before "
        "the decay, or the last of all if that is gone.",
    ),
]


def engine_anew(text: str) -> bool:
    """Whether `--engine` asks for a new choice. Raises InputError."""
    return _ENGINES.choose(text, f"--engine {text}").name == "anew"


def number_of(option: str, text: str | None) -> int | None:
    """`20M` -> a whole number above zero; None where the option was not given. Raises
    InputError.
    """
    return None if text is None else TOKENS.parse(option, text)


def position_of(option: str, text: str | None) -> int | None:
    """`20M` -> a number of tokens, which may be 0; None where the option was not given. Raises
    InputError.
    """
    return None if text is None else TOKENS_OR_ZERO.parse(option, text)


def share_of(text: str | None) -> float | None:
    """`35%` or `0.35` of the device's peak; None where `--mfu` was not given. Raises InputError."""
    if text is None:
        return None
    plain = text.strip()
    share = float_of(plain[:-1]) / 100 if plain.endswith("%") else float_of(plain)
    if not 0 < share <= 1:
        raise InputError(
            f"--mfu {text}: expected a share of the device's peak, such as 35% or 0.35"
        )
    return share


def float_of(text: str) -> float:
    """nan for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
