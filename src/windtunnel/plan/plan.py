"""From laws to one recipe: size, tokens, batch, rate and schedule for a budget, the loss that
they should reach, and how sure that is. `windtunnel train` runs the recipe as it is.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.devices import QUANTISATIONS
from windtunnel.errors import InputError
from windtunnel.laws.choice import Prediction, Predictor, choose
from windtunnel.laws.copying import yet_to_save
from windtunnel.laws.intervals import Profile
from windtunnel.laws.optimum import FLOPS
from windtunnel.laws.repetition import PUBLISHED
from windtunnel.model.shape import flops_per_token
from windtunnel.plan import flags
from windtunnel.plan.devices import Speed, serving, speed_of, training
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.forecasts import seal
from windtunnel.plan.premises import Premises, premises_of
from windtunnel.plan.record import recipe_path, write_plan
from windtunnel.plan.request import Request, asked_by, name_of
from windtunnel.plan.scores import expected_scores
from windtunnel.plan.settings import BatchChoice, PlannedRun, RateChoice, batch_for, rate_for
from windtunnel.plan.sizes import (
    Limits,
    Outlook,
    SizeChoice,
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
from windtunnel.recipe import Recipe, parse
from windtunnel.results.plan import (
    BestRatio,
    ExpectedScore,
    Flag,
    LawProfile,
    PlanLaws,
    PlanResult,
    Provenance,
    Reach,
    Shape,
    SizeLoss,
    Training,
    WeighedLaw,
)

if TYPE_CHECKING:  # a corpus is opened by whoever has one
    from windtunnel.data.shards import Corpus

_WARMUP, _MOST_WARMUP_STEPS = 0.02, 2000
# Of the tokens: where a checkpoint stays for shorter branches, beside the decay's begin.
_BRANCH_SHARES = (0.25, 0.5)
_FEWEST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """All that was worked out for a plan, before it is told."""

    evidence: Evidence
    predictor: Predictor
    request: Request
    premises: Premises
    outlook: Outlook
    speed: Speed | None
    budget: float | None  # FLOPs
    chosen: SizeChoice
    params: dict[str, float]  # by each count
    batch: BatchChoice
    rate: RateChoice
    recipe: Recipe
    effective_tokens: float  # fresh ones that would be worth as much
    predicted: Prediction

    @property
    def tokens(self) -> int:
        """To train on: whole steps."""
        return self.recipe.total_tokens

    @property
    def flops(self) -> int:
        """Of training, exactly."""
        return flops_per_token(self.recipe.model, self.recipe.data.context) * self.tokens

    @property
    def tokens_per_param(self) -> float:
        """By the paper's N."""
        return self.tokens / self.params["params"]

    @property
    def sampled(self) -> tuple[float, float]:
        """Lowest and highest tokens a parameter of the runs in the fit, by the first count."""
        points = self.predictor.points
        ratios = points.tokens / points.size
        return float(ratios.min()), float(ratios.max())

    @property
    def reach(self) -> Reach:
        """How far the plan lies beyond the runs in the fit."""
        return Reach(**self.predictor.extrapolation(self.params, self.tokens))


def plan(lab: Path, evidence: Evidence, request: Request, corpus: "Corpus | None") -> Path:
    """Make the plan, seal what it predicts, and write `plans/NAME/plan.toml` and `plan.json`;
    returns its folder. The same request on the same evidence gives the same bytes, and no second
    seal. Without a corpus nothing is sealed: there is no run yet that could be trained. Raises
    InputError for a request that nothing can satisfy.
    """
    request.check()
    predictor = fitted(evidence)
    folder = folder_of(lab, request)
    recipe, result = work_out(evidence, predictor, request, corpus, folder)
    if corpus:
        # before the recipe is there: it can't be trained without a seal
        forecast = seal(lab, recipe, result, corpus.digest, evidence.points)
        result = result.model_copy(update={"forecast": forecast.id})
    write_plan(folder, recipe, result)
    return folder


def fitted(evidence: Evidence) -> Predictor:
    """The laws through the points that a plan rests on: what takes longest of a plan, and is the
    same for every request. Raises InputError where the points tell no law.
    """
    copying = evidence.copying
    unlearnt = yet_to_save(copying.saved, copying.copyable) if copying else 0.0
    try:
        return choose(evidence.points, evidence.seed_sd, unlearnt=unlearnt)
    except ValueError as error:
        raise InputError(f"{evidence.provenance.how}: {error}") from None


def folder_of(lab: Path, request: Request) -> Path:
    """Where a lab keeps the plan of this request."""
    return lab / "plans" / (request.name or name_of(request))


def work_out(
    evidence: Evidence,
    predictor: Predictor,
    request: Request,
    corpus: "Corpus | None",
    folder: Path,
) -> tuple[Recipe, PlanResult]:
    """The recipe and everything that the plan says about it, named after the folder that it is
    for. Raises InputError for a request that nothing can satisfy.
    """
    draft = _draft(evidence, predictor, request, corpus, folder.name)
    laws, profiles = _laws(predictor, draft.flops)
    costs = training(draft.recipe, draft.flops, draft.speed, request)
    found = flags.by_weight(_flags(draft, laws.ratio, profiles, costs))
    result = _result(draft, laws, costs, found, folder)
    if scores := _scores(draft):
        result = result.model_copy(update={"scores": scores})
    return draft.recipe, result


def _draft(
    evidence: Evidence,
    predictor: Predictor,
    request: Request,
    corpus: "Corpus | None",
    name: str,
) -> _Draft:
    """Choose the size, then the settings for it, then whole steps, and predict their loss."""
    speed, budget = speed_of(evidence, request), request.flops
    if budget is None and request.hours and speed:
        budget = speed.flops_in(request.hours)
    premises = premises_of(evidence, request, corpus, budget)
    outlook = Outlook(
        law=predictor.loss, family=premises.family, unique=premises.unique or math.inf
    )
    try:
        chosen = _choose(outlook, request, budget)
    except ValueError as error:
        raise InputError(f"{asked_by(request)}: {error}") from None
    costs = premises.family.costs([chosen.width], [chosen.depth])
    params = {count: float(value[0]) for count, value in costs.params.items()}
    wanted = PlannedRun(chosen.loss, chosen.tokens, params["params"])
    batch = batch_for(evidence, wanted)
    each = _batch_tokens(batch, premises.family.context)
    rate = rate_for(evidence, wanted, each)
    recipe = _recipe(name, evidence, premises, chosen, each, request.lr or rate.lr)
    tokens = recipe.total_tokens
    effective = float(outlook.effective(tokens))
    predicted = predictor.predict(params, effective)
    return _Draft(
        evidence=evidence,
        predictor=predictor,
        request=request,
        premises=premises,
        outlook=outlook,
        speed=speed,
        budget=budget,
        chosen=replace(chosen, tokens=tokens, loss=predicted.loss),
        params=params,
        batch=batch,
        rate=rate,
        recipe=recipe,
        effective_tokens=effective,
        predicted=predicted,
    )


def _choose(outlook: Outlook, request: Request, budget: float | None) -> SizeChoice:
    """The size and the tokens. Raises ValueError where the laws or the limits have none."""
    epochs = request.epochs or 1
    in_hand = request.tokens and request.tokens * epochs
    limits = Limits(
        bytes_served=request.bytes_served or math.inf,
        bytes_per_weight=QUANTISATIONS[request.quantisation].bytes,
        tokens=in_hand or (outlook.unique * epochs if request.epochs else math.inf),
    )
    # 1. the size, where one was asked for
    size = request.shape
    if request.params:
        size = nearest_shape(outlook, request.params)
    # 2. else the best for the budget, or for the tokens, or the largest that fits
    if size is None and budget:
        return best_for_flops(outlook, budget, limits)
    if size is None and in_hand:
        best = best_for_tokens(outlook, in_hand, limits)
        size = best.width, best.depth
        if request.bytes_served:
            size = min(size, largest_shape(outlook, limits), key=lambda one: one[0] ** 2 * one[1])
    size = size or largest_shape(outlook, limits)
    # 3. its tokens: those in hand, what the budget buys, or what it is the best size for
    if in_hand:
        return at_shape(outlook, *size, in_hand)
    own = outlook.family.costs([size[0]], [size[1]])
    if budget:
        tokens = budget / float(own.flops[0])
    else:
        tokens = tokens_for_size(outlook, float(own.params["params"][0]))
    return at_shape(outlook, *size, min(tokens, limits.tokens))


def _recipe(
    name: str,
    evidence: Evidence,
    premises: Premises,
    chosen: SizeChoice,
    batch: int,
    lr: float,
) -> Recipe:
    """In whole steps of `batch` tokens."""
    context, template = premises.family.context, evidence.template
    steps = int(chosen.tokens // batch)
    if steps < _FEWEST_STEPS:
        raise InputError(
            f"too small a budget: {about(chosen.tokens)} tokens are {steps} steps of {batch} "
            f"tokens, and {_FEWEST_STEPS} are the fewest"
        )
    warmup = max(batch, min(round(_WARMUP * steps), _MOST_WARMUP_STEPS) * batch)
    decay = max(1, round(evidence.decay.share * steps)) * batch
    stable_end = steps * batch - decay
    branch_points = {round(share * steps) * batch for share in _BRANCH_SHARES} | {stable_end}
    # The law is that of its runs' own optimiser, weight decay among it, at every length. A default
    # is kept, too: falling as 1 / steps past 2,000 steps, it cost 0.8% of the loss at 4,590
    # (docs/LOG.md, 2026-11-29).
    optimizer = template.optimizer.model_dump() if template else {}
    values = {
        "name": name,
        "seed": 0,
        "model": premises.family.model(chosen.width, chosen.depth).model_dump(),
        "data": {
            "corpus": premises.corpus or "mine",
            "context": context,
            "mixture": template.data.mixture if template else {},
        },
        "optimizer": optimizer | {"lr": lr},
        "schedule": {
            "tokens": steps * batch,
            "warmup": warmup,
            "decay": decay,
            "decay_shape": evidence.decay.shape,
            "floor": evidence.decay.floor,
        },
        "train": {
            "batch": batch,
            "branch_points": sorted(at for at in branch_points if warmup < at <= stable_end),
        },
    }
    if template:
        values["train"]["evaluate_tokens"] = template.train.evaluate_tokens
    return parse(values, "the plan")


def _batch_tokens(best: BatchChoice, context: int) -> int:
    """Tokens a step: a power of two windows, the nearest to the best batch."""
    return context * 2 ** max(0, round(math.log2(best.batch / context)))


def _laws(predictor: Predictor, flops: float) -> tuple[PlanLaws, list[Profile]]:
    """The laws behind the plan, and what the runs pin down of the weightiest."""
    profiles = predictor.pinned
    candidates = tuple(
        WeighedLaw(
            form=candidate.form,
            count=candidate.count,
            weight=candidate.weight,
            score=candidate.score,
            **candidate.law.as_dict(),
        )
        for candidate in predictor.candidates
    )
    told = tuple(LawProfile(**asdict(profile)) for profile in profiles)
    value, interval = predictor.ratio(flops)
    ratio = BestRatio(count=predictor.best.count, value=value, interval90=interval)
    return PlanLaws(candidates=candidates, ratio=ratio, profiles=told), profiles


def _flags(draft: _Draft, ratio: BestRatio, profiles: list[Profile], costs: Training) -> list[Flag]:
    premises, evidence, request = draft.premises, draft.evidence, draft.request
    spent = draft.flops / draft.budget if draft.budget else 1.0
    asked = request.parametrization is not None
    return [
        *flags.of_reach(draft.reach, draft.tokens_per_param, draft.sampled),
        *flags.of_points(draft.predictor),
        *flags.of_held_out(evidence.held_out_excess),
        *flags.of_repeats(evidence.held_out_repeats),
        *flags.of_size(draft.params["params"], request.params),
        *flags.of_law(profiles, draft.chosen.at_edge, ratio),
        *flags.of_data(draft.tokens, premises.unique, spent),
        *flags.of_depth(evidence, draft.recipe),
        *flags.of_copying(evidence.copying, draft.reach),
        *flags.of_unmeasured_batch(evidence, draft.reach),
        *flags.of_settings(draft.recipe, draft.batch, draft.rate),
        *flags.of_memory(costs.bytes.total, draft.speed),
        *flags.of_studies(evidence, draft.recipe),
        *flags.of_weight_decay(evidence, draft.recipe),
        *flags.of_model(evidence, draft.recipe.model.parametrization, asked),
        *flags.of_corpus(premises.corpus, evidence.corpus, premises.assumed_vocab),
    ]


def _result(
    draft: _Draft, laws: PlanLaws, costs: Training, found: tuple[Flag, ...], folder: Path
) -> PlanResult:
    recipe, model = draft.recipe, draft.recipe.model
    unique, tokens, flops = draft.premises.unique, draft.tokens, draft.flops
    params = {count: round(value) for count, value in draft.params.items()}
    best = by_6nd(draft.outlook, flops)
    return PlanResult(
        plan=folder.name,
        go=flags.outcome(found),
        params=params["params"],
        params_with_head=params["params_with_head"],
        params_total=params["params_total"],
        tokens=tokens,
        flops=flops,
        flops_6nd=FLOPS * params["params"] * tokens,
        shape=Shape(**{name: getattr(model, name) for name in Shape.model_fields}),
        context=recipe.data.context,
        steps=tokens // recipe.train.batch,
        batch_tokens=recipe.train.batch,
        batch_best=draft.batch.batch,
        batch_interval=draft.batch.interval,
        lr=recipe.optimizer.lr,
        lr_beside=draft.rate.beside,
        warmup_tokens=recipe.warmup_tokens,
        decay_tokens=recipe.decay_tokens,
        decay_shape=recipe.schedule.decay_shape,
        floor=recipe.schedule.floor,
        weight_decay=recipe.optimizer.weight_decay,
        branch_points=recipe.train.branch_points,
        loss=draft.predicted.loss,
        interval50=draft.predicted.interval50,
        interval90=draft.predicted.interval90,
        at_this_cost=curve(draft.outlook, flops, draft.chosen),
        range_params=_whole(draft.chosen.range_params),
        tokens_per_param=draft.tokens_per_param,
        sampled_tokens_per_param=draft.sampled,
        extrapolation=draft.reach,
        unique_tokens=unique,
        epochs=tokens / unique if unique else None,
        effective_tokens=draft.effective_tokens,
        best_by_6nd=SizeLoss(params=best.params, tokens=best.tokens, loss=best.loss),
        law=laws,
        training=costs,
        serving=serving(model, recipe.data.context),
        over_trained=over_trained(draft.outlook, draft.chosen),
        flags=found,
        provenance=_provenance(draft),
        recipe=str(recipe_path(folder)),
    )


def _scores(draft: _Draft) -> tuple[ExpectedScore, ...]:
    """Where the laws' losses are of the corpus that the plan's run will read."""
    lab, corpus = draft.evidence.lab, draft.evidence.corpus
    if lab is None or corpus is None or draft.premises.corpus != corpus:
        return ()
    return expected_scores(lab, corpus, draft.predicted.loss, draft.predicted.interval90)


def _whole(interval: tuple[float, float]) -> tuple[int, int]:
    low, high = interval
    return round(low), round(high)


def _provenance(draft: _Draft) -> dict[str, Provenance]:
    """Where each number came from, by its name in the plan."""
    evidence, request = draft.evidence, draft.request
    law, asked = evidence.provenance, Provenance(how="asked for")
    whose = "the measured" if evidence.sizes else "the tunnel's"
    shape = law.but(
        f"the best real shape by the laws, width to depth as in {whose} and the paper's models"
    )
    if evidence.template:
        weight_decay = law.but("as in the runs of the fit: the expected loss holds for it")
    else:
        weight_decay = Provenance(how="the default of a recipe, at every length")
    found = {
        "loss": law,
        "range_params": law,
        "over_trained": law,
        "extrapolation": law,
        "params": shape,
        "shape": shape,
        "tokens": asked if request.tokens else law,
        "batch_tokens": draft.batch.provenance,
        "lr": asked if request.lr else draft.rate.provenance,
        "decay_tokens": evidence.decay.provenance,
        "warmup_tokens": Provenance(how="2% of the tokens, at most 2,000 steps"),
        "weight_decay": weight_decay,
        "effective_tokens": Provenance(
            how=f"R_D* = {PUBLISHED.tokens:.3g}, published (arXiv 2305.16264), not measured here"
        ),
    }
    if draft.speed:
        found["hours"] = draft.speed.provenance
    return found
