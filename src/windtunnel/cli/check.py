"""`windtunnel check`: does everything keep its size as the model grows?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.display import paragraph
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab
from windtunnel.cli.study import study_command, watched
from windtunnel.tunnel.check.design import Design

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.check import CheckNumbers, Slope
    from windtunnel.results.study import StudyResult

Read = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="A corpus of the lab. By default `core` if the lab has it, and generated tokens if "
        "not.",
        metavar="NAME",
    ),
]


@study_command(Design)
def check(
    design: Design, corpus: Read = None, lab: Lab = DEFAULT_LAB, as_json: Json = False
) -> None:
    """Check that everything keeps its size as the model grows.

    This is the coordinate check: a few training steps at several widths and depths show whether
    what a model computes, and what it learns, grows or shrinks with the model. A rule of the
    parametrization that is broken is named.
    """
    from windtunnel.results.check import CHECK
    from windtunnel.tunnel.check.check import check as study

    opened = _corpus(lab, corpus)
    if not as_json:
        generated = "generated tokens: this lab has no corpus to read"
        source = f"corpus '{opened.folder.name}'" if opened else generated
        print(f"one window of {design.context} tokens, {source}")
    watched(lab, as_json, CHECK, lambda watch: study(lab, opened, design, watch), _print)


def _corpus(lab: Path, name: str | None) -> "Corpus | None":
    from windtunnel.data.shards import Corpus

    folder = lab / "corpora" / (name or "core")
    return Corpus.open(folder) if name or (folder / "manifest.json").exists() else None


def _print(result: "StudyResult[CheckNumbers]") -> None:
    """What the theory does not allow; the page has every quantity."""
    for axis, causes in result.numbers.causes:
        if any(slope.axis == axis for slope in result.numbers.quantities):
            _print_axis(result.numbers, axis)
            for cause in causes:
                paragraph(f"probable cause: {cause}")


def _print_axis(numbers: "CheckNumbers", axis: str) -> None:
    table: dict[str, dict[int, Slope]] = {}
    for slope in numbers.quantities:
        if slope.axis == axis:
            table.setdefault(f"{slope.quantity} {slope.statistic}", {})[slope.t] = slope
    broken = {
        name: by_step
        for name, by_step in table.items()
        if any(slope.verdict == "fail" for slope in by_step.values())
    }
    if not broken:
        print(f"{axis}: all {len(table)} quantities go with it as the theory says")
        return
    paragraph(
        f"{axis}: {len(broken)} of {len(table)} quantities do not go with it as the theory says: "
        f"their slopes, log2 of each on log2 of the {axis}, by steps trained; ! marks what is not "
        "allowed"
    )
    steps = numbers.design.steps
    print(f"{'':26}" + "".join(f"{t:>8}" for t in steps))
    for name, by_step in broken.items():
        print(f"{name:26}" + "".join(_cell(by_step.get(t)) for t in steps))


def _cell(slope: "Slope | None") -> str:
    if slope is None:
        return " " * 8
    number = "none" if slope.slope is None else f"{slope.slope:+.2f}"
    return f"{number:>7}{'!' if slope.verdict == 'fail' else ' '}"
