"""`windtunnel scaling`: the table of losses by size and length that the laws are fitted to."""

from typing import Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.dry_run import STUDIES, dry, target_of
from windtunnel.cli.options import (
    DEFAULT_LAB,
    Corpora,
    Json,
    Lab,
    Shape,
    share_of,
    size_of,
    word_of,
)
from windtunnel.cli.study import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_tokens
from windtunnel.recipe import DECAY_SHAPES


@app.command()
def scaling(
    corpus: Corpora = "core",
    sizes: Annotated[
        str, typer.Option(help="WIDTHxDEPTH of the models in the fit; at least five over 16x.")
    ] = ("16x2,32x2,48x3,64x4,96x4"),
    shortest: Annotated[
        str, typer.Option(help="Tokens of the shortest branch; at least 400 steps.")
    ] = "240k",
    longest: Annotated[str, typer.Option(help="Tokens of the longest branch.")] = "1920k",
    points: Annotated[
        int, typer.Option(help="Lengths, evenly spaced in the logarithm.", min=2)
    ] = 7,
    decay: Annotated[str, typer.Option(help="The decay's share of each length.")] = "10%",
    shape: Shape = "exponential",
    floor: Annotated[float, typer.Option(help="Share of the peak rate at the decay's end.")] = 0.1,
    batch: Annotated[
        str,
        typer.Option(
            help="Tokens a step for all runs; 0: by the batch study's law, growing along the way."
        ),
    ] = "0",
    lr: Annotated[float, typer.Option(help="The base rate.")] = 0.01,
    lr_with_batch: Annotated[
        str, typer.Option(help="fixed, or sqrt: by the root of the batch over 2048.")
    ] = "fixed",
    seeds: Annotated[
        int, typer.Option(help="Of the smallest sizes, to measure the noise.", min=1)
    ] = 2,
    repeated: Annotated[int, typer.Option(help="How many of the sizes have all seeds.", min=0)] = 2,
    audit: Annotated[
        bool, typer.Option(help="Also train a larger and longer run, never in the fit.")
    ] = True,
    audit_size: Annotated[
        str, typer.Option(help="Its WIDTHxDEPTH; at least 4 times the largest in the fit.")
    ] = ("256x3"),
    audit_tokens: Annotated[
        str, typer.Option(help="Its length; at least twice the longest.")
    ] = "3840k",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Train nothing: simulate the study, and say what to expect of it."
        ),
    ] = False,
    budget: Annotated[
        str,
        typer.Option(
            help="With --dry-run: FLOPs (1e14), core-hours (2h) or tokens (20M), to look for a better one."
        ),
    ] = "",
    target: Annotated[
        str,
        typer.Option(
            help="With --dry-run: the run to be predicted, such as 512x8@20M; else the audit run."
        ),
    ] = "",
    simulations: Annotated[
        int, typer.Option(help="With --dry-run: how many studies to simulate.", min=2)
    ] = STUDIES,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Measure how the loss falls with size and data: one stem a size, branches at many lengths,
    and an audit run.
    """
    in_fit, audited = (
        [size_of("--sizes", part) for part in sizes.split(",")],
        size_of("--audit-size", audit_size),
    )
    lengths, share = (
        (parse_tokens(shortest), parse_tokens(longest), points),
        share_of("--decay", decay),
    )
    aim = target_of(target)
    if (budget or target) and not dry_run:
        raise InputError(
            "--budget and --target go with --dry-run: a study costs what its design says"
        )
    # these bring torch: what is wrong with an option is said before that
    from windtunnel.results.scaling import SCALING
    from windtunnel.tunnel.scaling.scaling import Design, LrWithBatch, Size
    from windtunnel.tunnel.scaling.scaling import scaling as run_scaling

    decay_shape = word_of("--shape", shape, DECAY_SHAPES)
    rule = word_of("--lr-with-batch", lr_with_batch, LrWithBatch)
    design = Design(
        [Size(*size) for size in in_fit],
        *lengths,
        share,
        decay_shape,
        floor,
        parse_tokens(batch),
        lr,
        rule,
        seeds,
        repeated,
        Size(*audited) if audit else None,
        parse_tokens(audit_tokens),
    )
    if dry_run:
        dry(lab, corpus, design, aim, budget, simulations, as_json)
    else:
        carry_out(
            lab,
            corpus,
            as_json,
            SCALING,
            lambda opened, watch: run_scaling(lab, opened, design, watch),
            lambda result: _print(result.model_dump(mode="json")),
        )


def _print(result: dict[str, Any]) -> None:
    numbers = result["numbers"]
    first, last = (about(numbers["lengths"][i]) for i in (0, -1))
    print(
        f"{'size':7} {'seeds':>5} {'params':>9} {'total':>9}  {f'loss at {first}':>13} {f'at {last}':>9} "
        f"{'a doubling':>10}  {'FLOPs':>9} {'as cosine':>9}"
    )
    for size in numbers["sizes"]:
        losses = [_number(size[key]) for key in ("first_loss", "last_loss", "gain_per_doubling")]
        print(
            f"{size['size']:7} {size['seeds']:5} {size['params']:9,} {size['params_total']:9,}  {losses[0]:>13} "
            f"{losses[1]:>9} {losses[2]:>10}  {size['flops']:9.2e} {size['flops_cosine']:9.2e}"
        )
    cost, batch = numbers["cost"], numbers["batch"]
    along = ", ".join(f"{s['batch']} from {about(s['begin'])}" for s in batch["segments"])
    print(f"\nbatch: {along} ({batch['origin']})")
    print(
        f"cost: {cost['flops']:.3e} FLOPs with stems and branches, {cost['flops_cosine']:.3e} as cosine runs from "
        f"scratch: {cost['ratio']:.3f}; {cost['core_minutes']} core-minutes"
    )
    _print_law(numbers["law"])
    if audit := numbers["audit"]:
        beyond = audit["beyond"]
        print(
            f"audit: {audit['params_total']:,} parameters ({beyond['params_total']:.1f} times the largest in the "
            f"fit), {about(audit['tokens'])} tokens ({beyond['tokens']:.1f} times the longest): loss "
            f"{_number(audit['loss'])}; {audit['flops']:.3e} FLOPs, {audit['core_minutes']} core-min."
        )


def _print_law(law: dict[str, Any]) -> None:
    if law["refused"]:
        print(f"no law: {law['refused']}")
        return
    print(
        f"\n{'form':14} {'N counted as':17} {'weight':>6} {'error ahead':>11} {'misfit':>7}  "
        "what the points pin down (90%)"
    )
    for form in sorted(law["forms"], key=lambda form: -form["weight"]):
        ahead = "-" if form["extrapolation_error"] is None else f"{form['extrapolation_error']:.2%}"
        doubt = "" if form["converged"] else "; not converged"
        print(
            f"{form['form']:14} {form['count']:17} {form['weight']:6.2f} {ahead:>11} {form['misfit']:7.2%}  "
            f"{', '.join(_pinned(name, found) for name, found in form['intervals'].items())}{doubt}"
        )
    paper = law["paper"]
    if paper["refused"]:
        print(f"the paper's way (curve_fit, additive): {paper['refused']}")
        return
    off = "" if paper["audit_error"] is None else f"audit run {paper['audit_error']:+.2%} off; "
    print(
        f"the paper's way (curve_fit, additive): E {paper['E']:.3g}, alpha {paper['alpha']:.3g}, beta "
        f"{paper['beta']:.3g}; {off}best at {paper['flops']:.1e} FLOPs: {paper['tokens_per_param']:.3g} tokens a "
        f"parameter{'; ' + paper['warning'] if paper['warning'] else ''}"
    )


def _pinned(name: str, found: dict[str, Any]) -> str:
    low, high = ("open" if end is None else f"{end:.3g}" for end in found["interval90"])
    value = f"{found['value']:.3g}" if found["identified"] else "not alone"
    return f"{name} {value} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
