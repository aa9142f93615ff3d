"""What `windtunnel scaling --dry-run` prints: what to expect of a study before it is paid for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from windtunnel.cli.display import display, stopping
from windtunnel.cli.options import size_of
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_tokens

if TYPE_CHECKING:
    from windtunnel.tunnel.scaling.scaling import Design

STUDIES = 8


def target_of(text: str) -> tuple[tuple[int, int], int] | None:
    """`512x8@20M` -> ((width, depth), tokens); None for nothing. Raises InputError."""
    size, at, tokens = text.partition("@")
    if text and not at:
        raise InputError(f"--target {text}: expected WIDTHxDEPTH@TOKENS such as 512x8@20M")
    return (size_of("--target", size), parse_tokens(tokens)) if text else None


def dry(
    lab: Path,
    corpus: str,
    design: "Design",
    target: tuple[tuple[int, int], int] | None,
    budget: str,
    studies: int,
    as_json: bool,
) -> None:
    """Exit code 1 where something speaks against the design, 130 for an interruption. Raises
    InputError.
    """
    from windtunnel.data.shards import Corpus
    from windtunnel.train.loop import Watch
    from windtunnel.tunnel.fleet.fleet import Interrupted
    from windtunnel.tunnel.scaling.dry_run.advise import advise
    from windtunnel.tunnel.scaling.dry_run.cost import parse_budget
    from windtunnel.tunnel.scaling.dry_run.simulate import Target
    from windtunnel.tunnel.scaling.scaling import Size

    aim = Target(Size(*target[0]), target[1]) if target else None
    spending = parse_budget(budget) if budget else None
    opened = Corpus.open(lab / "corpora" / corpus)
    with display() as shown, stopping() as stop:
        try:
            advice = advise(
                lab,
                opened,
                design,
                aim,
                spending,
                studies,
                Watch(say=shown.say, stop=stop, show=shown.show),
            )
        except Interrupted:
            raise typer.Exit(130) from None
    print(json.dumps(advice)) if as_json else _print(advice)
    if not advice["given"]["go"]:
        raise typer.Exit(1)


def _print(advice: dict[str, Any]) -> None:
    target, noise, given = advice["target"], advice["noise"], advice["given"]
    seeds = (noise["stem"] ** 2 + noise["own"] ** 2) ** 0.5
    print(
        f"simulated, nothing trained: {target['size']} ({about(target['params_total'])} parameters) at "
        f"{about(target['tokens'])} tokens is to be predicted, {target['beyond']['params_total']:.1f} times the "
        f"largest in the fit and {target['beyond']['tokens']:.1f} times the longest"
    )
    for truth in advice["truths"]:
        law = ", ".join(f"{name} {value:.4g}" for name, value in truth["law"].items())
        print(f"taken for true: {truth['form']}, N as {truth['count']}: {law} ({truth['origin']})")
    print(
        f"noise: seeds {seeds:.4f} (SD), {noise['length']:.4f} shared by all sizes at a length ({noise['origin']})"
    )
    print("\nthe given design")
    _design(given)
    if advice["budget"]:
        _better(advice)


def _better(advice: dict[str, Any]) -> None:
    budget, proposed = advice["budget"], advice["proposed"]
    words = f"{budget['amount']:.3g} {budget['unit']}"
    if proposed:
        print(
            f"\nthe best of {advice['within']} other designs for {words}, judged on draws that it was not chosen by"
        )
        _design(proposed)
        print(f"\n{proposed['command']}")
    elif advice["within"]:
        print(f"\n{advice['within']} other designs for {words}: none is better")
    else:
        cheapest = advice["cheapest"]
        least = f"; the cheapest found costs {cheapest:.3g}" if cheapest else ""
        print(f"\nno other design for {words} meets what a law needs{least}")


def _design(judged: dict[str, Any]) -> None:
    cost, audit = judged["cost"]["all"], judged["cost"]["audit"]
    first, last = (about(judged["lengths"][i]) for i in (0, -1))
    print(
        f"  {len(judged['sizes'])} sizes ({', '.join(judged['sizes'])}) over {judged['span']:.1f}x, "
        f"{len(judged['lengths'])} lengths from {first} to {last}, {judged['points']} points, at least "
        f"{judged['fewest_steps']} steps"
    )
    print(
        f"  cost: {cost['flops']:.3e} FLOPs, {about(cost['tokens'])} tokens, {cost['core_hours']:.2f} core-hours; of "
        f"these the audit run {audit['flops']:.3e}, {about(audit['tokens'])}, {audit['core_hours']:.2f}"
    )
    if expected := judged["expected"]:
        low, middle, high = expected["error"]
        print(
            f"  the 90% interval at the target: {expected['width90']:.2%} of the loss wide (50%: "
            f"{expected['width50']:.2%}); it held the loss in {expected['coverage90']:.0%} of {expected['studies']} "
            f"studies (50%: {expected['coverage50']:.0%})"
        )
        print(
            f"  error of the prediction: {low:+.2%}, {middle:+.2%}, {high:+.2%} (5, 50 and 95% of the studies)"
        )
    for form, named in judged["parameters"].items():
        each = [
            f"{name} {found['truth']:.3g} comes out as {found['low']:.3g} to {found['high']:.3g}"
            for name, found in named.items()
        ]
        print(f"  where the law is {form}: {'; '.join(each)}")
    print("  GO" if judged["go"] else "  NO GO")
    for line in judged["against"]:
        print(f"    {line}")
