"""What `windtunnel scaling --dry-run` prints: what to expect of a study before it is paid for."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from windtunnel.cli.study import following
from windtunnel.quantities import about
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.design import DryRun

if TYPE_CHECKING:
    from windtunnel.results.dry_run import Advice, AssumedLaw, Budget, DesignAdvice, Expectation
    from windtunnel.results.scaling import LawConstants


def advise_on(lab: Path, corpus: str, design: Design, dry_run: DryRun, as_json: bool) -> None:
    """Simulate the study and print what to expect. Exit code 1 where something speaks against the
    design, 130 for an interruption. Raises InputError.
    """
    from windtunnel.data.shards import Corpus
    from windtunnel.tunnel.scaling.dry_run.advise import advise

    opened = Corpus.open(lab / "corpora" / corpus)
    with following("interrupted; nothing of a dry run is kept") as watch:
        advice = advise(lab, opened, design, dry_run, watch)
    if as_json:
        print(advice.to_json())
    else:
        _print(advice)
    if not advice.given.go:
        raise typer.Exit(1)


def _print(advice: "Advice") -> None:
    target, noise = advice.target, advice.noise
    print(
        f"simulated, nothing trained: the run to be predicted is {target.size} "
        f"({about(target.params_total)} parameters) at {about(target.tokens)} tokens, "
        f"{target.beyond.params_total:.1f} times the largest in the fit and "
        f"{target.beyond.tokens:.1f} times the longest"
    )
    for truth in advice.truths:
        _print_truth(truth)
    print(
        f"noise: seeds {noise.seed_sd:.4f} (SD), {noise.length:.4f} shared by all sizes at a "
        f"length ({noise.origin})"
    )
    transient = advice.transient
    print(
        f"transient, in every second study: runs of {about(transient.tokens)} tokens lie "
        f"{transient.nats:g} nats above the law, and less by the square of the length (assumed)"
    )
    print("\nthe given design")
    _print_design(advice.given)
    if advice.budget:
        _print_search(advice, advice.budget)


def _print_truth(truth: "AssumedLaw") -> None:
    law = ", ".join(f"{name} {value:.4g}" for name, value in _constants(truth.law))
    print(f"assumed law: {truth.form}, N as {truth.count}: {law} ({truth.origin})")


def _constants(law: "LawConstants") -> list[tuple[str, float]]:
    """Names and values, A and B by their logarithms where no float holds them."""
    size = ("log A", law.log_A) if law.A is None else ("A", law.A)
    data = ("log B", law.log_B) if law.B is None else ("B", law.B)
    rest = (("beta", law.beta), ("c", law.c), ("gamma", law.gamma))
    told = (("E", law.E), size, ("alpha", law.alpha), data, *rest)
    return [(name, value) for name, value in told if value is not None]


def _print_search(advice: "Advice", budget: "Budget") -> None:
    if advice.proposed:
        print(
            f"\nthe best of {advice.within} other designs for {budget}, judged by other "
            "simulations than those it was chosen by"
        )
        _print_design(advice.proposed)
        print(f"\n{advice.proposed.command}")
    elif advice.within:
        print(f"\n{advice.within} other designs for {budget}: none is better")
    else:
        cheapest = advice.cheapest
        least = f"; the cheapest found costs {cheapest:.3g}" if cheapest else ""
        print(f"\nno other design for {budget} meets what a law needs{least}")


def _print_design(judged: "DesignAdvice") -> None:
    cost, audit = judged.cost.all, judged.cost.audit
    first, last = about(judged.lengths[0]), about(judged.lengths[-1])
    print(
        f"  {len(judged.sizes)} sizes ({', '.join(judged.sizes)}) over {judged.span:.1f}x, "
        f"{len(judged.lengths)} lengths from {first} to {last}, {judged.points} points, at least "
        f"{judged.fewest_steps} steps"
    )
    print(
        f"  cost: {cost.flops:.3e} FLOPs, {about(cost.tokens)} tokens, {cost.core_hours:.2f} "
        f"core-hours; of these the audit run {audit.flops:.3e}, {about(audit.tokens)}, "
        f"{audit.core_hours:.2f}"
    )
    if judged.expected:
        _print_expected(judged.expected)
    for form, named in judged.parameters.items():
        each = [
            f"{name} {found.truth:.3g} comes out as {found.low:.3g} to {found.high:.3g}"
            for name, found in named.items()
        ]
        print(f"  where the law is {form}: {'; '.join(each)}")
    print("  GO" if judged.go else "  NO GO")
    for line in judged.against:
        print(f"    {line}")


def _print_expected(expected: "Expectation") -> None:
    low, middle, high = expected.error
    print(
        f"  the 90% interval at the target: {expected.width90:.2%} of the loss wide (50%: "
        f"{expected.width50:.2%}); it held the loss in {expected.coverage90:.0%} of "
        f"{expected.studies} studies (50%: {expected.coverage50:.0%})"
    )
    print(
        f"  error of the prediction: {low:+.2%}, {middle:+.2%}, {high:+.2%} (5, 50 and 95% of the "
        "studies)"
    )
