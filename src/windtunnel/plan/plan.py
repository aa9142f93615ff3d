"""From laws to one recipe: size, tokens, batch, rate and schedule for a budget, the loss that
they should reach, and how sure that is. `windtunnel train` runs the recipe as it is.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from windtunnel.data.shards import Corpus
from windtunnel.devices import DEVICES
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.laws import laptop
from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.optimum import FLOPS, closed_form, ratio_interval
from windtunnel.laws.repetition import PUBLISHED
from windtunnel.model.memory import AT_ONCE, largest_part, tokens_that_fit, training_memory
from windtunnel.model.shape import flops_per_token
from windtunnel.plan import flags as flag
from windtunnel.plan.devices import ASSUMED_SHARE, bytes_per_weight, serving
from windtunnel.plan.evidence import BatchChoice, Evidence, Rate, Source, batch_at, rate
from windtunnel.plan.request import Request, asked_by, name_of
from windtunnel.plan.shapes import Band, Family
from windtunnel.plan.sizes import (
    Choice,
    Limits,
    Outlook,
    at_shape,
    best_for_flops,
    best_for_tokens,
    by_6nd,
    curve,
    largest_shape,
    nearest_shape,
    over_trained,
    tokens_for_size,
)
from windtunnel.quantities import about
from windtunnel.recipe import Recipe, dump, load, parse

# Without a run to take settings from: the tunnel's own below the paper's smallest model, the
# paper's from there on.
_LAPTOP_MODEL = {"base_width": laptop.BASE_WIDTH, "base_depth": laptop.BASE_DEPTH}
_WARMUP, _MOST_WARMUP_STEPS = 0.02, 2000
_DECAYED_STEPS = 2000  # of the runs that the default weight decay was found good for
_BRANCH_SHARES = (
    0.25,
    0.5,
)  # of the tokens: where a checkpoint stays for shorter branches, beside the decay's begin
_FEWEST_STEPS = 10
_DRAWS = 400  # laws, for the interval of the best ratio
_SHAPE = ("width", "depth", "heads", "kv_heads", "head_size", "ffn", "vocab")
_INHERITED = (
    "base_width",
    "base_depth",
    "parametrization",
    "scale_emb",
    "scale_depth",
    "init_std",
    "embedding_as",
    "tied",
    "rope_base",
    "norm_eps",
)


@dataclass(frozen=True)
class Setting:
    """Where the plan's run would take place, and what it is made of beside the size."""

    family: Family
    corpus: str | None  # its name
    unique: float | None  # tokens that there are to read
    assumed_vocab: int | None


def plan(lab: Path, evidence: Evidence, request: Request, corpus: Corpus | None) -> Path:
    """Make the plan and write `plans/NAME/plan.toml` and `plan.json`; returns its folder. The
    same request on the same evidence gives the same bytes. Raises InputError for a request that
    nothing can satisfy.
    """
    request.check()
    try:
        predictor = choose(evidence.points, evidence.seed_sd)
    except ValueError as error:
        raise InputError(f"{evidence.source.how}: {error}") from None
    name = request.name or name_of(request)
    recipe, content = work_out(evidence, predictor, request, corpus)
    recipe = recipe.change(name=name)
    folder = lab / "plans" / name
    content = {"plan": name, **content, "recipe": str(folder / "plan.toml")}
    write(folder, recipe, content)
    return folder


def work_out(
    evidence: Evidence, predictor: Predictor, request: Request, corpus: Corpus | None
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and everything that the plan says about it."""
    speed = _speed(evidence, request)
    budget = request.flops if request.flops is not None else _flops(request, speed)
    setting = _setting(evidence, request, corpus, budget)
    outlook = Outlook(predictor.loss, setting.family, setting.unique or math.inf)
    try:
        chosen = _choose(outlook, request, budget)
    except ValueError as error:
        raise InputError(f"{asked_by(request)}: {error}") from None
    model = setting.family.model(chosen.width, chosen.depth)
    params = {key: float(value[0]) for key, value in _costs(setting, chosen).params.items()}
    batch = batch_at(evidence, chosen.loss, chosen.tokens, params["params"])
    rated = rate(evidence, params["params"])
    recipe = _recipe(evidence, setting, chosen, batch, request.lr or rated.lr)
    tokens = recipe.total_tokens
    effective = float(outlook.effective(tokens))
    predicted = predictor.predict(params, effective)
    chosen = replace(chosen, tokens=tokens, loss=predicted.loss)
    flops = flops_per_token(model, recipe.data.context) * tokens
    extrapolation = predictor.extrapolation(params, tokens)
    law, loose = _law(predictor, flops), predictor.profiles(predictor.best)
    memory = _memory(recipe, request, speed)
    found = flag.by_weight(
        [
            *flag.of_extrapolation(extrapolation, tokens / params["params"], _sampled(predictor)),
            *flag.of_size(params["params"], request.params),
            *flag.of_law(loose, chosen.at_edge, law["ratio"]),
            *flag.of_data(tokens, setting.unique, flops / budget if budget else 1.0),
            *flag.of_settings(
                batch,
                recipe.train.batch,
                rated,
                recipe.optimizer.lr,
                tokens // recipe.train.batch,
                recipe.data.context,
            ),
            *flag.of_memory(memory["total"], speed),
            *flag.of_studies(evidence),
            *flag.of_model(evidence, model.parametrization, request.parametrization is not None),
            *flag.of_corpus(setting.corpus, evidence.corpus, setting.assumed_vocab),
        ]
    )
    return recipe, {
        "go": flag.outcome(found),
        **{key: round(value) for key, value in params.items()},
        "tokens": tokens,
        "flops": flops,
        "flops_6nd": FLOPS * round(params["params"]) * tokens,
        "shape": {key: getattr(model, key) for key in _SHAPE},
        **_settings(recipe, batch, rated),
        "loss": predicted.loss,
        "interval50": list(predicted.interval50),
        "interval90": list(predicted.interval90),
        "at_this_cost": curve(outlook, flops, chosen),
        "range_params": [round(value) for value in chosen.range_params],
        "tokens_per_param": tokens / params["params"],
        "sampled_tokens_per_param": list(_sampled(predictor)),
        "extrapolation": extrapolation,
        "unique_tokens": setting.unique,
        "epochs": tokens / setting.unique if setting.unique else None,
        "effective_tokens": effective,
        "best_by_6nd": _by_6nd(outlook, flops),
        "law": law | {"profiles": [asdict(one) for one in loose]},
        "training": _training(speed, request, flops) | {"bytes": memory},
        "serving": serving(model, recipe.data.context),
        "over_trained": [asdict(one) for one in over_trained(outlook, chosen)],
        "flags": [one.as_dict() for one in found],
        "provenance": _provenance(evidence, batch, rated, request, speed),
    }


def _settings(recipe: Recipe, batch: BatchChoice, rated: Rate) -> dict[str, Any]:
    """What the recipe sets beside the size and the tokens, and what else is known of it."""
    return {
        "context": recipe.data.context,
        "steps": recipe.total_tokens // recipe.train.batch,
        "batch_tokens": recipe.train.batch,
        "batch_best": batch.batch,
        "batch_interval": batch.interval and list(batch.interval),
        "lr": recipe.optimizer.lr,
        "lr_beside": [dict(one) for one in rated.beside],
        "warmup_tokens": recipe.warmup_tokens,
        "decay_tokens": recipe.decay_tokens,
        "decay_shape": recipe.schedule.decay_shape,
        "floor": recipe.schedule.floor,
        "weight_decay": recipe.optimizer.weight_decay,
        "branch_points": list(recipe.train.branch_points),
    }


def write(folder: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    """`plan.toml` and `plan.json`, each whole. The audit of a run that the same recipe made
    stays, against the new numbers. Raises InputError where they can't be written.
    """
    content = _rounded(content)
    low, high = content["interval90"]
    head = (
        f"# Made by `windtunnel plan`: expected loss {content['loss']:.4f}, 90% between {low:.4f} and {high:.4f}\n"
        "# nats/token. plan.json, beside this file, says what each number came from.\n"
    )
    audit = read_plan(folder).get("audit") if (folder / "plan.json").exists() else None
    if audit and load(folder / "plan.toml") == recipe:
        content = content | {"audit": compare(content, audit["run"], audit["loss"])}
    write_whole(folder / "plan.toml", head + dump(recipe), make_folder=True)
    write_plan(folder, content)


def compare(plan: dict[str, Any], run: str, loss: float) -> dict[str, Any]:
    """Predicted against got. `error` is relative to what was got, positive where the plan said
    too high a loss.
    """
    loss = _rounded(loss)
    inside = {
        f"inside{level}": plan[f"interval{level}"][0] <= loss <= plan[f"interval{level}"][1]
        for level in (50, 90)
    }
    error = plan["loss"] / loss - 1
    return _rounded({"run": run, "loss": loss, "predicted": plan["loss"], "error": error, **inside})


def plans(lab: Path) -> list[Path]:
    """Folders of the lab's plans, by name."""
    return sorted(file.parent for file in (lab / "plans").glob("*/plan.json"))


def read_plan(folder: Path) -> dict[str, Any]:
    """Raises InputError for one that is missing or damaged."""
    try:
        content = json.loads((folder / "plan.json").read_text())
        return content | {key: content[key] for key in ("loss", "interval50", "interval90")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'plan.json'}: missing or damaged: {error!r}") from None


def write_plan(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(_rounded(content), indent=1, allow_nan=False)
    write_whole(folder / "plan.json", text + "\n")


def _rounded(value: Any) -> Any:
    """Floats to ten digits: the last bits of a fit may differ from process to process."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _setting(
    evidence: Evidence, request: Request, corpus: Corpus | None, budget: float | None
) -> Setting:
    """The corpus's vocabulary and tokens, the measured runs' context and settings."""
    size = _guess(request, budget)
    known = (
        corpus.manifest.vocab
        if corpus
        else evidence.template.model.vocab
        if evidence.template
        else None
    )
    if corpus and request.vocab and request.vocab != known:
        raise InputError(
            f"--vocab {request.vocab}: corpus '{corpus.folder.name}' has a vocabulary of {known}"
        )
    vocab = request.vocab or known
    assumed = None if vocab else 2048 if size < laptop.LARGEST else 32_768
    template = evidence.template
    context = request.context or (
        template.data.context
        if template
        else 256
        if size < laptop.LARGEST
        else 1024
        if size < 1e8
        else 4096
    )
    if template:
        fixed = {key: getattr(template.model, key) for key in _INHERITED}
    else:
        fixed: dict[str, Any] = dict(_LAPTOP_MODEL) if size < laptop.LARGEST else {}
        if evidence.rates and evidence.lab is None:
            fixed["parametrization"] = "standard"  # whose rates are what the table says they are
    if request.parametrization:
        fixed["parametrization"] = request.parametrization
    held = sum(source.train.tokens for source in corpus.sources.values()) if corpus else math.inf
    unique = min(request.tokens or math.inf, held)
    if request.epochs is not None and not math.isfinite(unique):
        raise InputError("--epochs: of which tokens? Give --tokens, or a corpus of the lab")
    family = Family(vocab or assumed or 0, context, Band.of(evidence.sizes), fixed)
    name = corpus.folder.name if corpus else request.corpus
    return Setting(family, name, unique if math.isfinite(unique) else None, assumed)


def _guess(request: Request, budget: float | None) -> float:
    """Parameters, roughly: twenty tokens each."""
    if request.params or request.shape:
        width, depth = request.shape or (0, 0)
        return request.params or 11.5 * width**2 * depth
    if request.bytes_served:
        return request.bytes_served / bytes_per_weight(request.quantisation)
    if request.tokens:
        return request.tokens / 20
    return math.sqrt((budget or 1e18) / (FLOPS * 20))


def _speed(evidence: Evidence, request: Request) -> dict[str, Any] | None:
    """FLOP/s of training, and what is behind them; None where no device was named and the lab has
    no runs.
    """
    if request.device is None and evidence.speed is None:
        return None
    named = DEVICES[request.device or "cpu"]
    if not named.peak:
        if evidence.speed is None:
            raise InputError(
                "--device cpu: how fast it trains is read off a lab's runs, and there are none; give --flops"
            )
        if request.share is not None:
            raise InputError(
                "--mfu: a cpu's speed is what the lab's runs reached, not a share of a data sheet's peak"
            )
        (each, how), share = evidence.speed, None
    else:
        share = ASSUMED_SHARE if request.share is None else request.share
        why = (
            "assumed: the paper's own run reached 25 to 28% of an A100"
            if request.share is None
            else "asked for"
        )
        how = Source(f"{share:.0%} of the data sheet's {named.peak:.3g} bf16 FLOP/s, {why}")
        each = named.peak * share
    return {
        "device": named.name,
        "devices": request.devices,
        "share": share,
        "each": each,
        "source": how,
        "memory": named.memory or None,
    }


def _flops(request: Request, speed: dict[str, Any] | None) -> float | None:
    return (
        request.hours * 3600 * speed["each"] * speed["devices"] if request.hours and speed else None
    )


def _choose(outlook: Outlook, request: Request, budget: float | None) -> Choice:
    """The size and the tokens. Raises ValueError where the laws or the limits have none."""
    epochs = request.epochs or 1
    in_hand = request.tokens and request.tokens * epochs
    limits = Limits(
        request.bytes_served or math.inf,
        bytes_per_weight(request.quantisation),
        in_hand or (outlook.unique * epochs if request.epochs else math.inf),
    )
    size = request.shape or (nearest_shape(outlook, request.params) if request.params else None)
    if size is None and budget:
        return best_for_flops(outlook, budget, limits)
    if size is None and in_hand:
        best = best_for_tokens(outlook, in_hand, limits)
        fitting = (
            largest_shape(outlook, limits) if request.bytes_served else (best.width, best.depth)
        )
        size = min((best.width, best.depth), fitting, key=lambda shape: shape[0] ** 2 * shape[1])
    size = size or largest_shape(outlook, limits)
    own = outlook.family.costs([size[0]], [size[1]])
    if in_hand:
        return at_shape(outlook, *size, in_hand)
    if budget:
        return at_shape(outlook, *size, min(budget / float(own.flops[0]), limits.tokens))
    return at_shape(
        outlook, *size, min(tokens_for_size(outlook, float(own.params["params"][0])), limits.tokens)
    )


def _recipe(
    evidence: Evidence, setting: Setting, chosen: Choice, best: BatchChoice, lr: float
) -> Recipe:
    """In whole steps of a batch that is a power of two windows, or as near to one as the context
    allows.
    """
    family, template = setting.family, evidence.template
    model = family.model(chosen.width, chosen.depth)
    batch = family.context * 2 ** max(0, round(math.log2(best.batch / family.context)))
    steps = int(chosen.tokens // batch)
    if steps < _FEWEST_STEPS:
        raise InputError(
            f"too small a budget: {about(chosen.tokens)} tokens are {steps} steps of {batch} tokens, and "
            f"{_FEWEST_STEPS} are the fewest"
        )
    warmup = max(batch, min(round(_WARMUP * steps), _MOST_WARMUP_STEPS) * batch)
    decay = max(1, round(evidence.decay.share * steps)) * batch
    kept = [round(share * steps) * batch for share in _BRANCH_SHARES] + [steps * batch - decay]
    optimizer = template.optimizer.model_dump() if template else {"weight_decay": 1e-3}
    decayed = min(1.0, _DECAYED_STEPS / steps)
    values = {
        "name": "plan",
        "seed": 0,
        "model": model.model_dump(),
        "data": {
            "corpus": setting.corpus or "mine",
            "context": family.context,
            "mixture": template.data.mixture if template else {},
        },
        "optimizer": optimizer
        | {"lr": lr, "weight_decay": float(f"{optimizer['weight_decay'] * decayed:.3g}")},
        "schedule": {
            "tokens": steps * batch,
            "warmup": warmup,
            "decay": decay,
            "decay_shape": evidence.decay.shape,
            "floor": evidence.decay.floor,
        },
        "train": {
            "batch": batch,
            "branch_points": sorted({at for at in kept if warmup < at <= steps * batch - decay}),
        }
        | ({"evaluate_tokens": template.train.evaluate_tokens} if template else {}),
    }
    return parse(values, "the plan")


def _law(predictor: Predictor, flops: float) -> dict[str, Any]:
    """The laws behind the plan, and the best ratio of tokens to parameters with C = 6ND by the
    weightiest count.
    """
    best = predictor.best
    same = [candidate for candidate in predictor.candidates if candidate.count == best.count]
    weight = sum(candidate.weight for candidate in same)
    draws = [
        c.fit.frame.law(at)
        for c in same
        for at in c.draws.coordinates[: round(_DRAWS * c.weight / weight)]
    ]
    told = [law for law in draws if min(law.alpha, law.beta, law.A, law.B) > 0]
    interval = ratio_interval(told, flops) if len(told) > 0.9 * len(draws) else None
    value = closed_form(best.law, flops).ratio if min(best.law.alpha, best.law.beta) > 0 else None
    return {
        "candidates": [
            {
                "form": c.form,
                "count": c.count,
                "weight": c.weight,
                "score": c.score,
                **c.law.as_dict(),
            }
            for c in predictor.candidates
        ],
        "ratio": {"count": best.count, "value": value, "interval90": interval and list(interval)},
    }


def _sampled(predictor: Predictor) -> tuple[float, float]:
    """Tokens a parameter of the runs in the fit, by the first count."""
    ratios = predictor.points.tokens / predictor.points.size
    return float(ratios.min()), float(ratios.max())


def _by_6nd(outlook: Outlook, flops: float) -> dict[str, float]:
    best = by_6nd(outlook, flops)
    return {"params": best.params, "tokens": best.tokens, "loss": best.loss}


def _training(speed: dict[str, Any] | None, request: Request, flops: float) -> dict[str, Any]:
    if speed is None:
        return {"device": None, "hours": None, "cost": None}
    hours = flops / (speed["each"] * speed["devices"]) / 3600
    cost = hours * speed["devices"] * request.price if request.price is not None else None
    return {
        "device": speed["device"],
        "devices": speed["devices"],
        "share": speed["share"],
        "memory": speed["memory"],
        "flops_per_second": speed["each"] * speed["devices"],
        "hours": hours,
        "cost": cost,
    }


def _memory(recipe: Recipe, request: Request, speed: dict[str, Any] | None) -> dict[str, int]:
    """Of training, with as much going through the model at once as the engine would choose."""
    context, model, batch = recipe.data.context, recipe.model, recipe.train.batch
    room, recompute = math.inf, False
    if speed and speed["memory"]:
        room = tokens_that_fit(model, speed["memory"] * speed["devices"])
    kind = DEVICES[request.device or "cpu"].kind
    micro = largest_part(batch, context, min(AT_ONCE[kind], room))
    recompute = micro > room
    memory = training_memory(model, micro, recompute=recompute)
    return {"micro_batch": micro, **vars(memory), "total": memory.total}


def _costs(setting: Setting, chosen: Choice) -> Any:
    return setting.family.costs([chosen.width], [chosen.depth])


def _provenance(
    evidence: Evidence,
    batch: BatchChoice,
    rated: Rate,
    request: Request,
    speed: dict[str, Any] | None,
) -> dict[str, Any]:
    law, template = evidence.source, evidence.template
    asked = Source("asked for")
    same = "as in the runs of the fit" if template else "defaults"
    whose = "the measured" if evidence.sizes else "the tunnel's"
    shape = Source(
        f"the best real shape by the laws, width to depth as in {whose} and the paper's models",
        law.study,
        law.runs,
    )
    found = {
        "loss": law,
        "range_params": law,
        "over_trained": law,
        "extrapolation": law,
        "params": shape,
        "shape": shape,
        "tokens": asked if request.tokens else law,
        "batch_tokens": batch.source,
        "lr": asked if request.lr else rated.source,
        "decay_tokens": evidence.decay.source,
        "warmup_tokens": Source("2% of the tokens, at most 2,000 steps"),
        "weight_decay": Source(
            f"{same}; past {_DECAYED_STEPS} steps it falls as 1/steps, so that the average over "
            "past weights spans the same share of the run",
            law.study if template else None,
            law.runs if template else (),
        ),
        "effective_tokens": Source(
            f"R_D* = {PUBLISHED.tokens:.3g}, published (arXiv 2305.16264), not measured here"
        ),
    }
    if speed:
        found["hours"] = speed["source"]
    return {key: source.as_dict() for key, source in found.items()}
