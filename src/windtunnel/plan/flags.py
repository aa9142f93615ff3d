"""What could be wrong with a plan: each a short sentence with a level."""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from windtunnel.laws import laptop
from windtunnel.laws.choice import Predictor
from windtunnel.laws.copying import learns
from windtunnel.laws.intervals import Profile
from windtunnel.laws.optimum import outside
from windtunnel.plan.devices import Speed
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.settings import BatchChoice, RateChoice
from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.results.plan import BestRatio, Flag, Level, Reach, StudiedRate, Verdict
from windtunnel.results.scaling import Copying

FAR, TOO_FAR = 10, 100  # times the largest or longest run in the fit
FAR_IN_TOKENS = 3  # beyond it, runs came out below the 90% interval (docs/LOG.md)
# Times the largest or longest run in the fit: nearer by, a batch costs what it costs in the fit.
_BEYOND = 1.5
_MANY_EPOCHS, _TOO_MANY_EPOCHS = 4, 16
_ANOTHER = 0.1  # more than this from the size that was asked for: neighbouring shapes lie nearer
_STEPS = 400  # fewer, and the warm-up and the decay are too coarse for what the laws say
# Of a run's steps: what the average over past weights should span at least. In the runs that laws
# were fitted to it spans all or most of them.
_AVERAGED = 0.1
_UNLIKE = 0.05  # of the loss: between seeds and batches it is a few thousandths
_SPENT = 0.9  # of the budget: less is worth saying
# How grave it is that a study of the lab failed.
_FAILED: Mapping[str, Level] = {
    "check": "stop",
    "scaling": "stop",
    "search": "caution",
    "transfer": "caution",
    "batch": "caution",
}


def stop(about: str, text: str) -> Flag:
    """A flag that makes the plan a no-go."""
    return Flag(level="stop", about=about, text=text)


def caution(about: str, text: str) -> Flag:
    """A flag that asks for care."""
    return Flag(level="caution", about=about, text=text)


def note(about: str, text: str) -> Flag:
    """A flag that only tells."""
    return Flag(level="note", about=about, text=text)


def outcome(flags: Iterable[Flag]) -> Verdict:
    """What the gravest of the flags makes of a plan."""
    levels = {flag.level for flag in flags}
    if "stop" in levels:
        return "no-go"
    return "caution" if "caution" in levels else "go"


def by_weight(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """The gravest first."""
    levels = get_args(Level)  # in the order of their weight
    return tuple(sorted(flags, key=lambda flag: levels.index(flag.level)))


def of_reach(reach: Reach, ratio: float, sampled: tuple[float, float]) -> Iterator[Flag]:
    """How far the plan lies from the runs in the fit. `ratio`: its tokens a parameter; `sampled`:
    lowest and highest of the runs.
    """
    for times, word in ((reach.params, "larger"), (reach.tokens, "longer")):
        if times > FAR:
            far = stop if times > TOO_FAR else caution
            text = f"The planned run is {about(times)} times {word} than any run in the fit."
            yield far("extrapolation", text)
        elif word == "longer" and times > FAR_IN_TOKENS:
            yield caution(
                "extrapolation",
                f"The planned run is {about(times)} times longer than any run in the fit: this "
                "far out, intervals have been too narrow.",
            )
    if warning := outside(ratio, sampled):
        yield caution("ratio", f"{warning}.")


def of_law(profiles: Iterable[Profile], at_edge: bool, ratio: BestRatio) -> Iterator[Flag]:
    """How well the laws say which size is best. `at_edge`: of all shapes."""
    if at_edge:
        yield stop(
            "optimum",
            "The best size lies at the edge of all shapes: the laws give no best size here.",
        )
    loose = [profile.name for profile in profiles if not profile.identified]
    if loose:
        are = "is" if len(loose) == 1 else "are"
        yield note(
            "law",
            f"{' and '.join(loose)} {are} not pinned down by these runs: do not quote the value "
            "alone. Far from the runs this uncertainty matters.",
        )
    if ratio.interval90 is None:
        yield caution(
            "ratio",
            "Many laws that fit as well have no best size, so the size is not pinned down.",
        )


def of_points(predictor: Predictor) -> Iterator[Flag]:
    """Runs of the table that the law can't be right about."""
    points = predictor.points
    for outlier in predictor.outliers():
        at = outlier.point
        run = f"{about(points.size[at])} parameters on {about(points.tokens[at])} tokens"
        side = "above" if outlier.error > 0 else "below"
        yield caution(
            "outlier",
            f"The loss {points.loss[at]:.4g} of the run of {run} lies {abs(outlier.error):.1%} "
            f"{side} the law, {outlier.times:.0f} times what runs scatter by. Look at it, or "
            "leave it out: it widens no interval, and may bend the law.",
        )


def of_held_out(excess: float | None) -> Iterator[Flag]:
    """Whether the loss that the law is of is one of text like that which is trained on."""
    if excess is None or abs(excess) <= _UNLIKE:
        return
    side, why = (
        ("above", "is unlike what was trained on, or training has learnt its own text by heart")
        if excess > 0
        else ("below", "is easier than what was trained on")
    )
    yield caution(
        "held-out",
        f"Held-out losses lie {abs(excess):.0%} {side} those of training: the held-out text {why}. "
        "The law and the expected loss are of the held-out text.",
    )


def of_repeats(shares: Mapping[str, float]) -> Iterator[Flag]:
    """Whether what is held out is read in training, too."""
    found = [
        f"{share:.0%} of {name}" for name, share in shares.items() if share > laptop.MANY_REPEATS
    ]
    if found:
        yield note(
            "repeats",
            f"Of the held-out text, {', '.join(found)} stands word for word in the text to train "
            "on: the losses are partly of what is learnt by heart.",
        )


def of_size(params: float, asked: float | None) -> Iterator[Flag]:
    """Whether the model has about the parameters that were asked for."""
    if asked and not 1 - _ANOTHER < params / asked < 1 + _ANOTHER:
        yield caution(
            "size",
            f"{about(asked)} parameters were asked for; the nearest shape has {about(params)}.",
        )


def of_data(tokens: float, unique: float | None, spent: float) -> Iterator[Flag]:
    """Whether the tokens that there are to read suffice. `spent`: the share of the budget that is
    used.
    """
    epochs = tokens / unique if unique else 1.0
    if epochs > _MANY_EPOCHS:
        many = stop if epochs > _TOO_MANY_EPOCHS else caution
        yield many(
            "epochs",
            f"The data is read {epochs:.3g} times: beyond {_MANY_EPOCHS} epochs, repeated tokens "
            "soon teach little. What they are worth is a published number, not measured here.",
        )
    elif epochs > 1.005:
        text = f"The data is read {epochs:.3g} times, priced by a published law of repeated data."
        yield note("epochs", text)
    if spent < _SPENT:
        text = f"Only {spent:.0%} of the budget is used, because the tokens in hand run out."
        yield caution("budget", text)


def of_depth(evidence: Evidence, recipe: Recipe) -> Iterator[Flag]:
    """Whether the model has more layers than any that was measured: a law knows of sizes alone, and
    a third layer was worth 5% of the loss beside two (docs/LOG.md, 2026-11-30).
    """
    deepest = max((depth for _, depth in evidence.sizes), default=recipe.model.depth)
    if recipe.model.depth > deepest:
        yield caution(
            "depth",
            f"The planned model has {recipe.model.depth} layers, and no model in the fit has more "
            f"than {deepest}: what further layers are worth is not in the law, and the loss may "
            "end well below what is expected. Measure sizes as deep as the one you plan.",
        )


def of_copying(copying: Copying | None, reach: Reach) -> Iterator[Flag]:
    """Whether the run may learn on the way what none in the fit has learnt: on C code, whose names
    come back, such runs ended 10 to 24% below what was expected (docs/LOG.md, 2026-11-30).
    """
    if copying and not learns(copying.saved) and max(reach.params, reach.tokens) > _BEYOND:
        yield caution(
            "copying",
            "The largest model in the fit has not learnt to copy what stands before: a text of "
            f"random tokens costs it {max(copying.saved, 0.0):.1%} less when it is read for the "
            "second time. A larger or longer run may learn it at once, and then saves a part of "
            f"the {copying.copyable:.0%} of the loss that lies on tokens that copying may tell. "
            "The expected loss is lower by some of it, and the intervals reach down for the rest.",
        )


def of_unmeasured_batch(evidence: Evidence, reach: Reach) -> Iterator[Flag]:
    """Whether the runs in the fit had a batch that is right for this corpus."""
    beyond = max(reach.params, reach.tokens)
    if evidence.recipe and evidence.recipe.batch.origin == laptop.ORIGIN and beyond > _BEYOND:
        yield note(
            "batch",
            "The batch of the runs in the fit was not measured on this corpus. Where it is too "
            "small for the longest of them, losses further out are predicted too high. `windtunnel "
            "transfer --widths 32 --depths 2` finds the best batch at each length, and `windtunnel "
            "scaling` trains by it.",
        )


def of_settings(recipe: Recipe, batch: BatchChoice, rate: RateChoice) -> Iterator[Flag]:
    """Whether the batch, the steps and the rate are what the laws were measured with."""
    lr, steps = recipe.optimizer.lr, recipe.total_tokens // recipe.train.batch
    if not batch.inside:
        yield caution("batch", f"The law of the batch is extrapolated: {batch.provenance.how}.")
    if batch.beside and not 0.5 <= recipe.train.batch / batch.beside <= 2:
        yield caution(
            "batch",
            f"The best batch by the lab's own study is {about(batch.beside)} tokens, not "
            f"{recipe.train.batch}, as the runs in the fit have it. `windtunnel scaling` measures "
            "the law again, with the best batch.",
        )
    if recipe.train.batch <= recipe.data.context:
        yield note(
            "batch", "The batch is a single window; a shorter context would let it be smaller."
        )
    if steps < _STEPS:
        yield caution(
            "steps", f"{steps} steps are few: the laws were never measured below {_STEPS}."
        )
    if lr != rate.lr:
        yield caution(
            "lr",
            f"A learning rate of {lr:g} was asked for; the expected loss is that of {rate.lr:g}.",
        )
    if rate.held_at:
        yield caution(
            "lr",
            f"The best learning rate was measured at up to {about(rate.held_at)} tokens a step, "
            f"and is not raised for {about(recipe.train.batch)}. `windtunnel transfer --batches` "
            "measures it there.",
        )
    for found in rate.beside:
        if not _agrees(found, lr):
            yield caution(
                "lr",
                f"The best learning rate of the {found.study} study is {found.lr:.3g} "
                f"({found.at}), not {lr:g}. To measure the law with it, run `windtunnel scaling "
                f"--lr {found.lr:.2g}`.",
            )


def of_weight_decay(evidence: Evidence, recipe: Recipe) -> Iterator[Flag]:
    """Whether a weight decay that is the same at every length suits so long a run."""
    steps, decay = recipe.total_tokens // recipe.train.batch, recipe.optimizer.weight_decay
    if decay * _AVERAGED * steps > 1:
        whose = "as in the runs of the fit" if evidence.template else "the default of a recipe"
        yield caution(
            "weight_decay",
            f"A weight decay of {decay:g}, {whose}, averages weights over about "
            f"{about(1 / decay)} steps, {1 / (decay * steps):.1%} of this run. A lower one may "
            "reach a lower loss; no run here has measured it.",
        )


def _agrees(found: StudiedRate, lr: float) -> bool:
    """Whether another study's rate says nothing against this one: within its interval, or within
    twice and half of it.
    """
    low, high = found.interval or (found.lr / 2, found.lr * 2)
    return low <= lr <= high or found.outcome == "ties"


def of_memory(needed: int, speed: Speed | None) -> Iterator[Flag]:
    """Whether training fits a device; `needed`: bytes on each of them."""
    if speed and speed.memory and needed > speed.memory:
        each = f" on each of {speed.devices} devices" if speed.devices > 1 else ""
        yield stop(
            "memory",
            f"Training needs about {about(needed)} bytes of memory{each}; 1 {speed.device.name} "
            f"has {about(speed.memory)}.",
        )


def of_studies(evidence: Evidence, recipe: Recipe) -> Iterator[Flag]:
    """What the lab's studies found wrong with models that are trained as the recipe says."""
    bearing = {
        name: study.result
        for name, study in sorted(evidence.verdicts.items())
        if study.bears_on(recipe)
    }
    for name, study in bearing.items():
        if study.verdict == "fail" and name in _FAILED:
            reason = study.summary.split(";")[0]
            text = f"The {name} study failed: {reason}."
            yield Flag(level=_FAILED[name], about=name, text=text)
    if evidence.lab and "check" not in bearing:
        how = f"{recipe.model.parametrization} with {recipe.optimizer.kind}"
        yield note(
            "check",
            f"This lab has no coordinate check of {how} yet: `windtunnel check` takes half a "
            "minute.",
        )


def of_model(evidence: Evidence, parametrization: str, asked: bool) -> Iterator[Flag]:
    """Whether the model is what the law was measured with. `asked`: the parametrization was."""
    measured = evidence.template.model.parametrization if evidence.template else None
    if measured and measured != parametrization:
        yield caution(
            "parametrization",
            f"The law was measured with the parametrization {measured}, not {parametrization}.",
        )
    if evidence.lab and evidence.template is None:
        yield caution(
            "model",
            "The runs of the study are not in this lab: they are taken to have been trained with "
            "the default settings.",
        )
    if evidence.rates and not evidence.lab and not asked:
        yield note(
            "parametrization",
            "The table's learning rates are taken as those of ordinary networks, so the recipe "
            "has the standard parametrization; --parametrization chooses another.",
        )


def of_corpus(
    corpus: str | None, measured: str | None, assumed_vocab: int | None
) -> Iterator[Flag]:
    """Whether the corpus is the one that the law was measured on."""
    if measured and corpus and corpus != measured:
        yield caution(
            "corpus", f"The law was measured on the corpus '{measured}', not on '{corpus}'."
        )
    if assumed_vocab:
        yield note(
            "vocab",
            f"A vocabulary of {about(assumed_vocab)} is assumed; --vocab or --corpus says another.",
        )
