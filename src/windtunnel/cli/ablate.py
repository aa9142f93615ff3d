"""`windtunnel ablate`: which data is worth putting into the decay."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.tunnel.ablate.design import Design

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.ablate import AblateNumbers, ArmFound, Difference
    from windtunnel.results.study import StudyResult
    from windtunnel.train.loop import Watch

Mixtures = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        help="A mixture of the decay, NAME=SOURCE=WEIGHT,SOURCE=WEIGHT,..., to compare with "
        "the natural one, instead of --arms. May be given several times.",
        metavar="MIXTURE",
    ),
]


@study_command(Design)
def ablate(
    design: Design,
    arm: Mixtures = None,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Compare several ways to decay.

    One stem is decayed with several mixtures, shapes or lengths, and the losses on each held-out
    source are compared.
    """
    mixtures = [_mixture(text) for text in arm or ()]
    from windtunnel.results.ablate import ABLATE

    def study(opened: "Corpus", watch: "Watch") -> Path:
        """On the corpus, once it is open."""
        from windtunnel.tunnel.ablate.ablate import ablate
        from windtunnel.tunnel.ablate.arms import Arm, arms_of, base_arm

        if mixtures:
            arms = [base_arm(design)]
            for name, mixture in mixtures:
                given = Arm(name=name, decay=design.decay, shape=design.shape, mixture=mixture)
                arms.append(given)
        else:
            arms = arms_of(design, opened)
        return ablate(lab, opened, design, arms, watch)

    carry_out(lab, corpus, as_json, ABLATE, study, _print, on)


def _mixture(text: str) -> tuple[str, dict[str, float]]:
    """`NAME=SOURCE=WEIGHT,...` -> the name and the weights. Raises InputError."""
    name, _, listed = text.partition("=")
    weights: dict[str, float] = {}
    for part in listed.split(","):
        source, _, weight = part.partition("=")
        try:
            weights[source.strip()] = float(weight)
        except ValueError:
            weights[source.strip()] = math.nan
    good = all(source and 0 <= weight < math.inf for source, weight in weights.items())
    if not (name.strip() and good):
        raise InputError(
            f"--arm {text}: expected NAME=SOURCE=WEIGHT,... with weights of zero or more"
        )
    return name.strip(), weights


def _print(result: "StudyResult[AblateNumbers]") -> None:
    numbers = result.numbers
    print(f"loss minus that of {numbers.base}, nats/token; * marks a 90% interval without zero\n")
    _print_line("arm", "decay", [f"{source[:10]:>10}" for source in numbers.sources])
    for arm in numbers.arms:
        cells = [f"{_cell(arm, source):>10}" for source in numbers.sources]
        _print_line(arm.name[:14], about(arm.decay), cells)
    if numbers.noise and numbers.noise["all"] is not None:
        noise = [f"{numbers.noise[source]:9.4f} " for source in numbers.sources]
        _print_line("noise (SD)", "", noise)


def _print_line(name: str, decay: str, cells: list[str]) -> None:
    print(f"{name:14} {decay:>6} {' '.join(cells)}")


def _cell(arm: "ArmFound", source: str) -> str:
    """The difference to the base arm; the loss of the base arm itself."""
    if arm.difference:
        return _marked(arm.difference[source])
    return f"{arm.loss[source]:.4f} " if arm.loss else "none "


def _marked(difference: "Difference") -> str:
    interval = difference.interval
    clear = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return f"{difference.mean:+.4f}{'*' if clear else ' '}"
