"""`windtunnel scaling`: the table of losses by size and length that the laws are fitted to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.display import paragraph
from windtunnel.cli.dry_run import advise_on
from windtunnel.cli.findings import forms_in_words
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.design import DryRun

if TYPE_CHECKING:
    from windtunnel.results.scaling import AuditRun, ScalingNumbers, SizeLosses, StudyLaw
    from windtunnel.results.study import StudyResult

# Lines for sizes; where there are more sizes, so many of them are for the smallest.
_MOST, _SMALLEST = 6, 2

Dry = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Train nothing. Simulate the study and say what to expect of it."
    ),
]


@study_command(Design, simulation=DryRun)
def scaling(
    design: Design,
    simulation: DryRun,
    dry_run: Dry = False,
    corpus: Corpora = "core",
    on: On = HERE,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Measure how the loss falls with size and data.

    One stem is trained for each size, with branches at many lengths. Laws are fitted to their
    losses, and tried on an audit run that is larger and longer than any in the fit.
    """
    if dry_run:
        advise_on(lab, corpus, design, simulation, as_json)
        return
    if simulation != DryRun():
        raise InputError(
            "--target, --budget and --simulations need --dry-run: what a study costs follows from "
            "its design"
        )
    from windtunnel.results.scaling import SCALING
    from windtunnel.tunnel.scaling.scaling import scaling as study

    carry_out(
        lab,
        corpus,
        as_json,
        SCALING,
        lambda opened, watch: study(lab, opened, design, watch),
        _print,
        on,
    )


def _print(result: "StudyResult[ScalingNumbers]") -> None:
    """What a screen holds; the page has every form of the law, and how the runs were trained."""
    from windtunnel.laws.copying import learns

    numbers = result.numbers
    first = about(numbers.lengths[0])
    print(
        f"{'size':7} {'seeds':>5} {'params':>7} {'total':>7} {f'at {first}':>8} {'longest':>7} "
        f"{'loss':>7} {'a doubling':>10} {'FLOPs':>8}"
    )
    shown = list(numbers.sizes)
    if len(shown) > _MOST:
        _print_sizes(shown[:_SMALLEST], numbers)
        print(f"... {len(shown) - _MOST + 1} sizes between these")
        shown = shown[_SMALLEST + 1 - _MOST :]
    _print_sizes(shown, numbers)
    print()
    paragraph(_law(numbers.law))
    if numbers.copying and not learns(numbers.copying.saved):
        paragraph(
            "copying: not learnt by the largest model; a longer run that learns it ends below this "
            "law"
        )
    if numbers.audit:
        paragraph(_audit(numbers.audit, numbers.law))


def _print_sizes(sizes: "Sequence[SizeLosses]", numbers: "ScalingNumbers") -> None:
    """A line for each of these."""
    for size in sizes:
        first, last = _number(size.first_loss), _number(size.last_loss)
        longest = about(size.longest or numbers.lengths[-1])
        print(
            f"{size.size:7} {size.seeds:5} {about(size.params):>7} {about(size.params_total):>7} "
            f"{first:>8} {longest:>7} {last:>7} {_number(size.gain_per_doubling):>10} "
            f"{size.flops:8.2e}"
        )


def _law(law: "StudyLaw") -> str:
    """Which forms a prediction is made of, and how far ahead the first of them was right."""
    if not law.forms:
        return f"no law: {law.refused}"
    best = max(law.forms, key=lambda form: form.weight)
    text = f"law: {forms_in_words(law.forms)}"
    if best.extrapolation_error is not None:
        text += (
            f"; {best.form}, fitted to the smaller and shorter runs, was "
            f"{best.extrapolation_error:.2%} off on the others"
        )
    return text


def _audit(audit: "AuditRun", law: "StudyLaw") -> str:
    text = (
        f"audit: a run {audit.beyond.params_total:.1f} times as large and "
        f"{audit.beyond.tokens:.1f} times as long as any in the fit"
    )
    if audit.loss is None:
        return f"{text} diverged"
    if law.audit is None or law.audit.error is None:
        return f"{text} reached {audit.loss:.4f}"
    where = "inside" if law.audit.inside90 else "OUTSIDE"
    return f"{text}: the law was {law.audit.error:+.2%} off, {where} its 90% interval"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
