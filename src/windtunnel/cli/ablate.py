"""`windtunnel ablate`: which data is worth putting into the decay, and which base of RoPE for which
context.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.errors import InputError
from windtunnel.quantities import about, format_context
from windtunnel.tunnel.ablate.design import Design
from windtunnel.tunnel.ablate.longer_design import LongerDesign

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.ablate import AblateNumbers, ArmFound, Difference
    from windtunnel.results.ablate_longer import LengthFound, LongerArm, LongerNumbers
    from windtunnel.results.study import StudyResult
    from windtunnel.train.loop import Watch

Mixtures = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        help="A named mixture of the decay, to compare with the natural one, instead of --arms. "
        "May be given several times.",
        metavar="NAME=SOURCE=WEIGHT,...",
    ),
]


Longer = Annotated[
    bool,
    typer.Option(
        "--longer",
        help="Compare ways to set RoPE for a longer context instead. --tokens is then the length "
        "of the stem, in windows of 256 tokens, and --decay the share of each of --budgets.",
    ),
]


@study_command(Design, further=LongerDesign)
def ablate(
    design: Design,
    further: LongerDesign,
    arm: Mixtures = None,
    longer: Longer = False,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Compare several ways to decay, or to see farther.

    One stem is decayed with several mixtures, shapes or lengths, and the losses on each held-out
    source are compared. With --longer it goes on in longer windows instead, with several bases and
    scalings of RoPE, and the losses on long held-out documents are compared.
    """
    if longer:
        if arm or (design.arms, design.share) != (Design.arms, Design.share):
            raise InputError("--arm, --arms and --share are of decays; expected none with --longer")
        _longer(design, further, corpus, on, lab, as_json)
        return
    if further != LongerDesign():
        raise InputError("--to, --bases, --scalings and --budgets need --longer")
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


def _longer(
    design: Design, further: LongerDesign, corpus: str, on: str, lab: Path, as_json: bool
) -> None:
    from windtunnel.results.ablate_longer import ABLATE_LONGER

    def study(opened: "Corpus", watch: "Watch") -> Path:
        """On the corpus, once it is open."""
        from windtunnel.tunnel.ablate.longer import ablate_longer

        return ablate_longer(lab, opened, design, further, watch)

    carry_out(lab, corpus, as_json, ABLATE_LONGER, study, _print_longer, on)


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


def _print_longer(result: "StudyResult[LongerNumbers]") -> None:
    for place, found in enumerate(result.numbers.lengths):
        if place:
            print()
        _print_length(found, result.numbers.budgets)


def _print_length(found: "LengthFound", budgets: tuple[int, ...]) -> None:
    print(
        f"to {format_context(found.context)}, {found.documents} held-out texts: loss of the best "
        "base, and of the others minus it, nats/token; * marks a 90% interval without zero\n"
    )
    columns = []
    for tokens in budgets:
        after = f"after {about(tokens)}" if tokens else "untrained"
        columns += [f"{after:>12}", f"{'near':>10}"]
    print(f"{'RoPE':10} {'base':>8} {' '.join(columns)}")
    for arm in found.arms:
        base = about(arm.base) if arm.base else "-"
        print(f"{arm.name:10} {base:>8} {' '.join(_after(arm))}")
    print(f"\n{'rule':10} {'base':>8} {'price':>12}")
    for rule in found.rules:
        price = "not measured" if rule.price is None else f"{rule.price:+.4f}"
        print(f"{rule.name:10} {about(rule.base):>8} {price:>12}")


def _after(arm: "LongerArm") -> Iterator[str]:
    """Beyond the old context and below it, by budget."""
    for one in arm.after:
        for part, width in (("far", 12), ("near", 10)):
            text = _marked(one.over[part]) if one.over else f"{one.loss[part]:.4f} "
            yield f"{text:>{width}}"
