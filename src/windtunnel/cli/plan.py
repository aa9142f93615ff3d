"""`windtunnel plan`: what to train with a budget, what to expect of it, and how sure that is."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, number_of, size_of, word_of
from windtunnel.errors import InputError
from windtunnel.quantities import about, parse_length
from windtunnel.recipe import PARAMETRIZATIONS

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.plan.evidence import Evidence

_LEVELS = {"stop": "STOP", "caution": "care", "note": "note"}


@app.command()
def plan(
    flops: Annotated[str | None, typer.Option(help="Training FLOPs, such as 1e18.")] = None,
    hours: Annotated[float | None, typer.Option(help="Hours of training on --device.")] = None,
    device: Annotated[
        str | None, typer.Option(help="h100, a100, cpu and so on; cpu: as fast as the lab's runs.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many of the device.", min=1)] = 1,
    mfu: Annotated[
        str | None,
        typer.Option(help="Share of the device's peak that training reaches, such as 35%."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of one device for an hour.", min=0)] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Tokens in hand; with a size: to train it on.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="How often the tokens in hand may be read.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Parameters without embeddings, such as 20M.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="WIDTHxDEPTH instead of a number of parameters.")
    ] = None,
    fit_device: Annotated[
        str | None,
        typer.Option(
            help="What the model must fit with a full cache: 500MB, 2GB, phone-6gb and so on."
        ),
    ] = None,
    quantisation: Annotated[str, typer.Option(help="For --fit-device: f32, f16, q8 or q4.")] = "q4",
    corpus: Annotated[
        str | None, typer.Option(help="A corpus of the lab; else the one of the study.")
    ] = None,
    study: Annotated[
        str, typer.Option(help="The lab's study that the laws are fitted to.")
    ] = "scaling",
    table: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Instead: a CSV with params, tokens, loss, and lr and batch if known."
        ),
    ] = None,
    vocab: Annotated[
        int | None, typer.Option(help="Vocabulary, where no corpus says it.", min=2)
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a window.", min=2)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Another base rate than the laws were measured with.")
    ] = None,
    parametrization: Annotated[
        str | None,
        typer.Option(
            help=f"Parametrization of the model: {PARAMETRIZATIONS.listed}; "
            "if not given, that of the runs in the fit."
        ),
    ] = None,
    audit: Annotated[
        str | None, typer.Option(help="A trained run of a plan: add predicted against got.")
    ] = None,
    name: Annotated[str, typer.Option(help="A name for the plan.")] = "",
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Say what to train with a budget, what loss to expect, and how sure that is; write a recipe
    for `train`.

    Exit code 1: no-go.
    """
    if name and (Path(name).name != name or name.startswith(".")):
        raise InputError(f"--name {name}: expected a plain name")
    if audit is not None:
        folder = _audit(lab, audit, name)
    else:
        asked = {
            "flops": _number("--flops", flops),
            "hours": _above_zero("--hours", hours),
            "device": device,
            "devices": gpus,
            "share": _share(mfu),
            "price": price,
            "tokens": number_of("--tokens", tokens),
            "epochs": _above_zero("--epochs", epochs),
            "params": number_of("--params", params),
            "shape": size_of("--shape", shape) if shape else None,
            "quantisation": quantisation,
            "corpus": corpus,
            "vocab": vocab,
            "context": context,
            "lr": _above_zero("--lr", lr),
            "parametrization": parametrization,
            "name": name,
        }
        folder = _plan(lab, asked, fit_device, study, table)
    content = json.loads((folder / "plan.json").read_text())
    if as_json:
        print(json.dumps(content))
    else:
        _print(content)
    if content["go"] == "no-go" and audit is None:
        raise typer.Exit(1)


def _plan(
    lab: Path, asked: dict[str, Any], fit_device: str | None, study: str, table: Path | None
) -> Path:
    from windtunnel.devices import device_named
    from windtunnel.plan.devices import bytes_of, bytes_per_weight
    from windtunnel.plan.evidence import from_lab, from_table
    from windtunnel.plan.plan import plan as make
    from windtunnel.plan.request import Request

    bytes_per_weight(asked["quantisation"])
    if asked["parametrization"] is not None:
        word_of("--parametrization", asked["parametrization"], PARAMETRIZATIONS)
    if asked["device"] is not None:
        asked["device"] = device_named(asked["device"], f"--device {asked['device']}").name
    request = Request(bytes_served=bytes_of(fit_device) if fit_device else None, **asked)
    request.check()
    evidence = from_table(table) if table else from_lab(lab, study)
    return make(lab, evidence, request, _corpus(lab, request.corpus, evidence))


def _corpus(lab: Path, asked: str | None, evidence: "Evidence") -> "Corpus | None":
    """The corpus that was asked for, or the study's where the lab has it. A plan from a table
    needs none: the recipe then names it, to be built.
    """
    from windtunnel.data.shards import Corpus

    name = asked or evidence.corpus
    folder = lab / "corpora" / name if name else None
    if folder is None or (not folder.exists() and (evidence.lab is None or asked is None)):
        return None
    return Corpus.open(folder)


def _audit(lab: Path, reference: str, name: str) -> Path:
    from windtunnel.plan.audit import audit
    from windtunnel.train.run import find_run

    return audit(lab, find_run(lab, reference), name)


def _number(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 1e6 <= value <= 1e30):
        raise InputError(f"{option} {text}: expected a number such as 1e18, between 1e6 and 1e30")
    return value


def _above_zero(option: str, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InputError(f"{option} {value:g}: expected a number above zero")
    return value


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    share = parse_length(text).share if text.strip().endswith("%") else _float(text)
    if not 0 < share <= 1:
        raise InputError(
            f"--mfu {text}: expected a share of the device's peak, such as 35% or 0.35"
        )
    return share


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _print(plan: dict[str, Any]) -> None:
    """A page: what to train, what to expect, how sure, what it costs, what could be wrong."""
    shape, (low, high) = plan["shape"], plan["interval90"]
    print(
        f"train   {about(plan['params'])} parameters ({about(plan['params_total'])} with embeddings): "
        f"{shape['width']} wide, {shape['depth']} deep, {shape['heads']} heads, vocabulary "
        f"{shape['vocab']}"
    )
    epochs = (
        f", {plan['epochs']:.2g} epochs"
        if plan["epochs"] and abs(plan["epochs"] - 1) > 0.01
        else ""
    )
    print(
        f"        on {about(plan['tokens'])} tokens ({plan['tokens_per_param']:.3g} a parameter{epochs}): "
        f"{plan['steps']:,} steps of {plan['batch_tokens']} tokens{_between(plan['batch_interval'])}"
    )
    print(
        f"        lr {plan['lr']:g}, warm-up {about(plan['warmup_tokens'])}, {plan['decay_shape']} decay over the "
        f"last {about(plan['decay_tokens'])} to {plan['floor']:g}, weight decay "
        f"{plan['weight_decay']:g}"
    )
    print(
        f"expect  loss {plan['loss']:.4f} nats/token; half the time between {plan['interval50'][0]:.4f} and "
        f"{plan['interval50'][1]:.4f}, nine times in ten between {low:.4f} and {high:.4f}"
    )
    if audit := plan.get("audit"):
        inside = "50%" if audit["inside50"] else "90%" if audit["inside90"] else None
        print(
            f"got     {audit['loss']:.4f} (run {audit['run']}): the plan was {audit['error']:+.2%} off, "
            f"{f'inside its {inside} interval' if inside else 'OUTSIDE its 90% interval'}"
        )
    _print_sureness(plan)
    _print_cost(plan)
    print(f"\n{plan['go'].upper()}" + (":" if plan["flags"] else ": nothing speaks against it"))
    for flag in plan["flags"]:
        print(f"  {_LEVELS[flag['level']]:5} {flag['text']}")
    print(f"\nwindtunnel train {plan['recipe']}")


def _print_sureness(plan: dict[str, Any]) -> None:
    (fewest, most), beyond = plan["range_params"], plan["extrapolation"]
    print(
        f"sizes   from {about(fewest)} to {about(most)} parameters come within 0.5% of the best loss at this cost"
    )
    print(
        f"reach   {beyond['params']:.2g} times the largest and {beyond['tokens']:.2g} times the longest run in the "
        f"fit; by {_forms(plan['law']['candidates'])}"
    )


def _forms(candidates: list[dict[str, Any]]) -> str:
    weights: dict[str, float] = {}
    for candidate in candidates:
        weights[candidate["form"]] = weights.get(candidate["form"], 0) + candidate["weight"]
    told = sorted(
        ((weight, form) for form, weight in weights.items() if weight >= 0.005), reverse=True
    )
    return ", ".join(f"{form} {weight:.0%}" for weight, form in told)


def _print_cost(plan: dict[str, Any]) -> None:
    training, serving = plan["training"], plan["serving"]
    print(
        f"cost    {plan['flops']:.3g} FLOPs exactly, {plan['flops_6nd']:.3g} by 6ND{_hours(training)}; about "
        f"{_bytes(training['bytes']['total'])} of memory"
    )
    sizes = serving["bytes"]
    print(
        f"serve   {_bytes(sizes['f16'])} in f16, {_bytes(sizes['q8'])} in q8, {_bytes(sizes['q4'])} in q4, and "
        f"{_bytes(serving['cache_bytes'])} of cache; {serving['flops_per_token']:.3g} FLOPs a token"
    )
    if plan["over_trained"]:
        half = min(plan["over_trained"], key=lambda one: abs(one["serving"] - 0.5))
        print(
            f"smaller {about(half['params'])} parameters ({half['width']}x{half['depth']}) on "
            f"{about(half['tokens'])} tokens: {half['serving']:.2f} of the cost to serve, {half['training']:.2f} of "
            "the cost to train, and a loss within 0.5%"
        )


def _hours(training: dict[str, Any]) -> str:
    if training["hours"] is None:
        return ""
    hours = training["hours"]
    time = (
        f"{hours * 60:.3g} minutes"
        if hours < 1
        else f"{hours:,.3g} hours"
        if hours < 1000
        else f"{hours:,.0f} hours"
    )
    share = f" at {training['share']:.0%} of the peak" if training["share"] else ""
    cost = f", {training['cost']:,.2f} to pay" if training["cost"] is not None else ""
    return f": {time} on {training['devices']} {training['device']}{share}{cost}"


def _between(interval: list[float] | None) -> str:
    return f" (best between {about(interval[0])} and {about(interval[1])})" if interval else ""


def _bytes(size: float) -> str:
    return (
        f"{about(size)}B".replace("kB", " kB")
        .replace("MB", " MB")
        .replace("BB", " GB")
        .replace("TB", " TB")
    )
