"""`windtunnel scaling`: the table of losses by size and length that the laws are fitted to."""

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli.display import paragraph
from windtunnel.cli.dry_run import advise_on
from windtunnel.cli.options import DEFAULT_LAB, Corpora, Json, Lab
from windtunnel.cli.study import HERE, On, carry_out, study_command
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.design import DryRun

if TYPE_CHECKING:
    from windtunnel.results.scaling import (
        AuditRun,
        FormFound,
        LawInterval,
        ScalingNumbers,
        SizeLosses,
        StudyLaw,
    )
    from windtunnel.results.study import StudyResult

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
    numbers = result.numbers
    first = about(numbers.lengths[0])
    print(
        f"{'size':7} {'seeds':>5} {'params':>7} {'total':>7} {f'at {first}':>8} {'longest':>7} "
        f"{'loss':>7} {'a doubling':>10} {'FLOPs':>8}"
    )
    for size in numbers.sizes:
        _print_size(size, about(size.longest or numbers.lengths[-1]))
    _print_cost(numbers)
    _print_law(numbers.law)
    if numbers.audit:
        _print_audit(numbers.audit)


def _print_size(size: "SizeLosses", longest: str) -> None:
    first, last = _number(size.first_loss), _number(size.last_loss)
    print(
        f"{size.size:7} {size.seeds:5} {about(size.params):>7} {about(size.params_total):>7} "
        f"{first:>8} {longest:>7} {last:>7} {_number(size.gain_per_doubling):>10} "
        f"{size.flops:8.2e}"
    )


def _print_cost(numbers: "ScalingNumbers") -> None:
    cost, batch = numbers.cost, numbers.batch
    along = ", ".join(f"{part.batch} from {about(part.begin)}" for part in batch.segments)
    print(f"\nbatch: {along} ({batch.origin})")
    if numbers.rate:
        law, origin = numbers.rate.law, numbers.rate.origin
        print(
            f"learning rate: {law.lr:.3g} at {about(law.params)} parameters, {about(law.tokens)} "
            f"tokens and a batch of {about(law.batch)}, by {law.powers} ({origin})"
        )
    found = []
    for fields in numbers.settings.values():
        found += [f"{name} {value:g}" for name, value in fields.items()]
    if found:
        print(f"settings: {', '.join(found)} (the lab's search)")
    print(
        f"cost: {cost.flops:.3e} FLOPs with stems and branches, {cost.flops_cosine:.3e} as cosine "
        f"runs from scratch: {cost.ratio:.3f}; {cost.core_minutes} core-minutes"
    )


def _print_law(law: "StudyLaw") -> None:
    if law.refused:
        print(f"no law: {law.refused}")
        return
    print(
        f"\n{'form':20} {'N counted as':17} {'weight':>6} {'error ahead':>11} {'misfit':>7}\n"
        "  and what the points pin down (90%)"
    )
    for form in sorted(law.forms, key=lambda form: -form.weight):
        _print_form(form)
    _print_as_the_paper(law)


def _print_form(form: "FormFound") -> None:
    error = form.extrapolation_error
    ahead = "-" if error is None else f"{error:.2%}"
    pinned = ", ".join(_pinned(name, found) for name, found in form.intervals.items())
    doubt = "" if form.converged else "; not converged"
    print(f"{form.form:20} {form.count:17} {form.weight:6.2f} {ahead:>11} {form.misfit:7.2%}")
    paragraph(pinned + doubt, "  ")


def _print_as_the_paper(law: "StudyLaw") -> None:
    from windtunnel.results.scaling import PaperRefusal

    how = "the paper's way (curve_fit, additive)"
    paper = law.paper
    if paper is None:
        return
    if isinstance(paper, PaperRefusal):
        print(f"{how}: {paper.refused}")
        return
    off = "" if paper.audit_error is None else f"audit run {paper.audit_error:+.2%} off; "
    warning = f"; {paper.warning}" if paper.warning else ""
    print(
        f"{how}: E {paper.E:.3g}, alpha {paper.alpha:.3g}, beta {paper.beta:.3g}; {off}"
        f"best at {paper.flops:.1e} FLOPs: {paper.tokens_per_param:.3g} tokens a parameter{warning}"
    )


def _print_audit(audit: "AuditRun") -> None:
    print(
        f"audit: {audit.params_total:,} parameters ({audit.beyond.params_total:.1f} times the "
        f"largest in the fit), {about(audit.tokens)} tokens ({audit.beyond.tokens:.1f} times the "
        f"longest): loss {_number(audit.loss)}; {audit.flops:.3e} FLOPs, {audit.core_minutes} "
        "core-min."
    )


def _pinned(name: str, found: "LawInterval") -> str:
    low, high = ("open" if end is None else f"{end:.3g}" for end in found.interval90)
    value = f"{found.value:.3g}" if found.identified else "not alone"
    return f"{name} {value} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
