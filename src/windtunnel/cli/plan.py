"""`windtunnel plan`: what to train with a budget, what to expect of it, and how sure that is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.findings import forms_in_words
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, float_of, number_of, share_of, typed
from windtunnel.cli.standing import next_for
from windtunnel.devices import DEVICES, QUANTISATIONS, bytes_of, device_named
from windtunnel.errors import InputError
from windtunnel.quantities import about, about_bytes, about_hours
from windtunnel.recipe import PARAMETRIZATIONS
from windtunnel.tunnel.design import AMOUNT, CONTEXT, NUMBER, SIZE

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.plan.evidence import Evidence
    from windtunnel.plan.request import Request
    from windtunnel.results.plan import Audit, PlanResult, Training

_LEVELS = {"stop": "STOP", "caution": "care", "note": "note"}


@app.command()
def plan(
    flops: Annotated[
        str | None, typer.Option(metavar="FLOPS", help="Training FLOPs to spend, such as 1e18.")
    ] = None,
    hours: Annotated[
        float | None,
        typed("--hours", NUMBER, "Hours of training to spend, on the device that --device names."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help=f"The device to train on: {DEVICES.listed}. "
            "A cpu is as fast as the lab's own runs were.",
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="How many of these devices.", min=1)] = 1,
    mfu: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="The share of the device's peak that training reaches, such as 35%. Without it, "
            "25% is assumed.",
        ),
    ] = None,
    price: Annotated[
        float | None, typed("--price", AMOUNT, "The price of one device for an hour.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="The tokens that you have, such as 20M. With a size: the tokens to train it on.",
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typed("--epochs", NUMBER, "How many times the tokens that you have may be read."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="PARAMETERS",
            help="The size to train: parameters without embeddings, such as 20M.",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxDEPTH",
            help="The size to train as width x depth, such as 64x4, instead of --params.",
        ),
    ] = None,
    fit_device: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES|WORD",
            help="What the model must fit once it is trained, with the cache of a full context: "
            "bytes such as 500MB or 2GB, or a device such as phone-6gb.",
        ),
    ] = None,
    quantisation: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help=f"The precision of the weights on --fit-device: {QUANTISATIONS.listed}.",
        ),
    ] = "q4",
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The corpus of the lab to train on. Without it, the study's."
        ),
    ] = None,
    study: Annotated[
        str, typer.Option(metavar="NAME", help="The study of the lab that the laws are fitted to.")
    ] = "scaling",
    table: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A table to fit the laws to instead of a study: parameters, tokens and loss of "
            "each run, by their usual names (such as N, D and L), and lr and batch where they are "
            "known.",
        ),
    ] = None,
    vocab: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The size of the vocabulary, where no corpus gives it.", min=2
        ),
    ] = None,
    context: Annotated[
        int | None, typed("--context", CONTEXT, "The context to train with, in tokens.")
    ] = None,
    lr: Annotated[
        float | None,
        typed(
            "--lr",
            NUMBER,
            "A base learning rate other than the one that the laws were measured with.",
        ),
    ] = None,
    parametrization: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help=f"The parametrization of the model: {PARAMETRIZATIONS.listed}. Without it, that "
            "of the runs in the fit.",
        ),
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A trained run of a plan: open the forecast that was sealed of it, and compare "
            "that with what the run reached.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="A name for the plan. Without it, the budget is the name."
        ),
    ] = "",
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Plan what to train, and predict the loss.

    The plan is a recipe that `windtunnel train` runs as it is, and a report of where each number
    came from. What it predicts is sealed in the lab's ledger of forecasts. Give a budget (--flops,
    --hours or --tokens), a size (--params or --shape), a device that the model must fit
    (--fit-device), or several of these. Exit code 1: the plan is a no-go.
    """
    from windtunnel.plan.record import read_plan

    if name and (Path(name).name != name or name.startswith(".")):
        raise InputError(f"--name {name}: expected a plain name, without slashes")
    if audit is not None:
        _audit(lab, audit, name, as_json)
    else:
        from windtunnel.plan.request import Request

        request = Request(
            flops=_number("--flops", flops),
            hours=hours,
            device=_device(device),
            devices=gpus,
            share=share_of(mfu),
            price=price,
            tokens=number_of("--tokens", tokens),
            epochs=epochs,
            params=number_of("--params", params),
            shape=SIZE.parse("--shape", shape) if shape else None,
            bytes_served=bytes_of(fit_device) if fit_device else None,
            quantisation=QUANTISATIONS.choose(quantisation, f"--quantisation {quantisation}").name,
            corpus=corpus,
            vocab=vocab,
            context=context,
            lr=lr,
            parametrization=_parametrization(parametrization),
            name=name,
        )
        made = read_plan(_plan(lab, request, study, table))
        print(made.to_json()) if as_json else _print(made)
        if made.go == "no-go":
            raise typer.Exit(1)


def _plan(lab: Path, request: "Request", study: str, table: Path | None) -> Path:
    from windtunnel.plan.plan import plan as make

    request.check()
    evidence = _evidence(lab, study, table)
    return make(lab, evidence, request, _corpus(lab, request.corpus, evidence))


def _evidence(lab: Path, study: str, table: Path | None) -> "Evidence":
    """From the table where one was given, else from the lab's study."""
    if table:
        from windtunnel.plan.evidence import from_table

        return from_table(table)
    from windtunnel.plan.studies import from_lab

    return from_lab(lab, study)


def _corpus(lab: Path, asked: str | None, evidence: "Evidence") -> "Corpus | None":
    """The corpus that was asked for, or the study's where the lab has it. A plan from a table
    needs none: the recipe then names it, to be built.
    """
    name = asked or evidence.corpus
    folder = lab / "corpora" / name if name else None
    if folder is None or (not folder.exists() and (evidence.lab is None or asked is None)):
        return None
    from windtunnel.data.shards import Corpus

    return Corpus.open(folder)


def _audit(lab: Path, reference: str, name: str, as_json: bool) -> None:
    """Audit and print the plan, or where that is no longer the run's, what was found alone."""
    from windtunnel.plan.audit import audit
    from windtunnel.plan.record import read_plan
    from windtunnel.train.run import find_run

    run = find_run(lab, reference)
    found = audit(lab, run, name)
    if as_json:
        print((read_plan(found.folder) if found.folder else found.audit).to_json())
    elif found.folder:
        _print(read_plan(found.folder), next_for("chat", run))
    else:
        _say("got", *_got(found.audit))
        print(f"\n{next_for('chat', run)}")


def _device(name: str | None) -> str | None:
    return None if name is None else device_named(name, f"--device {name}").name


def _parametrization(name: str | None) -> str | None:
    if name is None:
        return None
    return PARAMETRIZATIONS.choose(name, f"--parametrization {name}").name


def _number(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    value = float_of(text)
    if not 1e6 <= value <= 1e30:
        raise InputError(f"{option} {text}: expected a number such as 1e18, between 1e6 and 1e30")
    return value


def _print(plan: "PlanResult", following: str = "") -> None:
    """A page: what to train, what to expect, how sure that is, what it costs, what could be
    wrong; and the command that follows, by default the plan's training.
    """
    _print_recipe(plan)
    _print_loss(plan)
    _print_cost(plan)
    print()
    print(
        f"{plan.go.upper()}: {'' if plan.flags else 'nothing speaks against this plan.'}".rstrip()
    )
    for flag in plan.flags:
        print(f"  {_LEVELS[flag.level]:5} {flag.text}")
    print(f"\n{following or f'windtunnel train {plan.recipe}'}")


def _say(label: str, *lines: str) -> None:
    """A paragraph of the page: its label, and its lines beside it."""
    for line in lines:
        print(f"{label:7} {line}")
        label = ""


def _print_recipe(plan: "PlanResult") -> None:
    shape, epochs, best = plan.shape, "", ""
    if plan.epochs and abs(plan.epochs - 1) > 0.01:
        epochs = f", {plan.epochs:.3g} epochs"
    if plan.batch_interval:
        low, high = plan.batch_interval
        best = f" (the best batch is between {about(low)} and {about(high)})"
    _say(
        "train",
        f"{about(plan.params)} parameters ({about(plan.params_total)} with embeddings): width "
        f"{shape.width}, depth {shape.depth}, {shape.heads} heads, vocabulary {shape.vocab}",
        f"on {about(plan.tokens)} tokens ({plan.tokens_per_param:.3g} per parameter{epochs}): "
        f"{plan.steps:,} steps of {plan.batch_tokens} tokens{best}",
        f"learning rate {plan.lr:g}, warm-up over {about(plan.warmup_tokens)} tokens, "
        f"{plan.decay_shape} decay to {plan.floor:g} over the last {about(plan.decay_tokens)}, "
        f"weight decay {plan.weight_decay:g}",
    )


def _print_loss(plan: "PlanResult") -> None:
    from windtunnel.results.plan import expected_in_words

    (low50, high50), (low90, high90) = plan.interval50, plan.interval90
    (fewest, most), reach = plan.range_params, plan.extrapolation
    _say(
        "expect",
        f"a loss of {plan.loss:.4f} nats/token: half the time between {low50:.4f} and "
        f"{high50:.4f}, nine times in ten between {low90:.4f} and {high90:.4f}",
    )
    if plan.scores:
        _say("score", *(expected_in_words(one, plan.loss) for one in plan.scores))
    if plan.audit:
        _say("got", *_got(plan.audit))
    elif plan.forecast:
        _say(
            "sealed",
            f"as forecast {plan.forecast}; `windtunnel record` says how forecasts came out",
        )
    else:
        _say("sealed", "nothing: the lab has no corpus to train this on")
    _say(
        "sizes",
        f"from {about(fewest)} to {about(most)} parameters come within 0.5% of the best loss at "
        "this cost",
    )
    _say(
        "reach",
        f"{about(reach.params)} times the parameters of the largest and {about(reach.tokens)} "
        "times the tokens of the longest run in the fit",
    )
    _say("laws", forms_in_words(plan.law.candidates))


def _got(audit: "Audit") -> list[str]:
    """What came out, and in a line what speaks against the comparison."""
    inside = "50%" if audit.inside50 else "90%"
    where = f"inside its {inside} interval" if audit.inside90 else "OUTSIDE its 90% interval"
    what = f"the forecast {audit.forecast}" if audit.forecast else "the plan"
    lines = [
        f"a loss of {audit.loss:.4f} (run {audit.run}): {what} of {audit.predicted:.4f} was "
        f"{audit.error:+.2%} off, {where}"
    ]
    if audit.remarks:
        lines.append("; ".join(audit.remarks))
    return lines


def _print_cost(plan: "PlanResult") -> None:
    training, serving = plan.training, plan.serving
    each = " on each device" if (training.devices or 1) > 1 else ""
    _say(
        "cost",
        f"{plan.flops:.3g} FLOPs of training ({plan.flops_6nd:.3g} by 6ND){_hours(training)}; "
        f"about {about_bytes(training.bytes.total)} of memory{each}",
    )
    sizes = {name: about_bytes(size) for name, size in serving.bytes.items()}
    _say(
        "serve",
        f"{sizes['f16']} in f16, {sizes['q8']} in q8, {sizes['q4']} in q4, and "
        f"{about_bytes(serving.cache_bytes)} of cache; {serving.flops_per_token:.3g} FLOPs per "
        "token",
    )
    if plan.over_trained:
        half = min(plan.over_trained, key=lambda smaller: abs(smaller.serving - 0.5))
        _say(
            "smaller",
            f"{about(half.params)} parameters ({half.width}x{half.depth}) on {about(half.tokens)} "
            f"tokens come within 0.5% of the loss, at {half.serving:.2f} times the cost to serve "
            f"and {half.training:.2f} times the cost to train",
        )


def _hours(training: "Training") -> str:
    hours = training.hours
    if hours is None:
        return ""
    share = f" at {training.share:.0%} of the peak" if training.share else ""
    cost = f", {training.cost:,.2f} to pay" if training.cost is not None else ""
    return f": {about_hours(hours)} on {training.devices} {training.device}{share}{cost}"
