"""What could be wrong with a plan: each a short sentence with a level."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from windtunnel.laws.intervals import Profile
from windtunnel.laws.optimum import outside
from windtunnel.plan.evidence import BatchChoice, Evidence, Rate
from windtunnel.quantities import about

Level = Literal["stop", "caution", "note"]
FAR, TOO_FAR = 10, 100  # times the largest or longest run in the fit
FAR_IN_TOKENS = 3  # beyond it, runs came out below the 90% interval (docs/LOG.md)
_EPOCHS, _WORTHLESS = 4, 16
_ANOTHER = 0.1  # more than this from the size that was asked for: neighbouring shapes lie nearer
_STEPS = 400  # fewer, and the warm-up and the decay are too coarse for what the laws say
_MATTERS = {
    "check": "stop",
    "scaling": "stop",
    "search": "caution",
    "transfer": "caution",
    "batch": "caution",
}


@dataclass(frozen=True)
class Flag:
    level: Level
    about: str
    text: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def outcome(flags: list[Flag]) -> Literal["go", "caution", "no-go"]:
    levels = {flag.level for flag in flags}
    return "no-go" if "stop" in levels else "caution" if "caution" in levels else "go"


def by_weight(flags: Iterable[Flag]) -> list[Flag]:
    """The gravest first."""
    return sorted(flags, key=lambda flag: get_args(Level).index(flag.level))


def of_extrapolation(
    extrapolation: dict[str, float], ratio: float, sampled: tuple[float, float]
) -> Iterator[Flag]:
    """`ratio`: tokens a parameter of the plan; `sampled`: of the runs in the fit."""
    for key, word in (("params", "larger"), ("tokens", "longer")):
        times = extrapolation[key]
        if times > FAR:
            level: Level = "stop" if times > TOO_FAR else "caution"
            yield Flag(level, "extrapolation", f"{times:.3g} times {word} than any run in the fit")
        elif key == "tokens" and times > FAR_IN_TOKENS:
            yield Flag(
                "caution",
                "extrapolation",
                f"{times:.3g} times longer than any run in the fit: this far, "
                "intervals have been too narrow",
            )
    if warning := outside(ratio, sampled):
        yield Flag("caution", "ratio", warning)


def of_law(profiles: list[Profile], at_edge: bool, ratio: dict[str, Any]) -> Iterator[Flag]:
    if at_edge:
        yield Flag(
            "stop",
            "optimum",
            "the best size lies at the edge of all shapes: the laws give no best size here",
        )
    loose = [profile.name for profile in profiles if not profile.identified]
    if loose:
        names = ", ".join(loose)
        yield Flag(
            "note",
            "law",
            f"{names} not pinned down by these runs: not to be quoted alone, and felt far out",
        )
    if ratio["interval90"] is None:
        yield Flag(
            "caution",
            "ratio",
            "many laws that fit as well have no best size: the size is not pinned down",
        )


def of_size(params: float, asked: float | None) -> Iterator[Flag]:
    if asked and not 1 - _ANOTHER < params / asked < 1 + _ANOTHER:
        yield Flag(
            "caution",
            "size",
            f"{about(asked)} parameters were asked for; the nearest shape has {about(params)}",
        )


def of_data(tokens: float, unique: float | None, spent: float) -> Iterator[Flag]:
    """`spent`: the share of the budget that is used."""
    epochs = tokens / unique if unique else 1.0
    if epochs > _EPOCHS:
        level: Level = "stop" if epochs > _WORTHLESS else "caution"
        yield Flag(
            level,
            "epochs",
            f"{epochs:.3g} epochs: beyond {_EPOCHS} repeated tokens soon teach little; what "
            "they are worth is a published number, not measured here",
        )
    elif epochs > 1.005:
        yield Flag(
            "note", "epochs", f"{epochs:.3g} epochs, priced by a published law of repeated data"
        )
    if spent < 0.9:
        yield Flag(
            "caution",
            "budget",
            f"only {spent:.0%} of the budget is used: the tokens in hand are used up",
        )


def of_settings(
    batch: BatchChoice, chosen_batch: int, rate: Rate, lr: float, steps: int, context: int
) -> Iterator[Flag]:
    if not batch.inside:
        yield Flag("caution", "batch", f"the batch law is extrapolated: {batch.source.how}")
    if chosen_batch <= context:
        yield Flag(
            "note", "batch", "the batch is one window: a shorter context would let it be smaller"
        )
    if steps < _STEPS:
        yield Flag(
            "caution",
            "steps",
            f"{steps} steps are few: below {_STEPS} the laws were never measured",
        )
    if lr != rate.lr:
        yield Flag(
            "caution", "lr", f"lr {lr:g} was asked for; the expected loss is that of {rate.lr:g}"
        )
    for found in rate.beside:
        low, high = found["interval"] or (found["lr"] / 2, found["lr"] * 2)
        if not low <= lr <= high and found.get("outcome") != "ties":
            yield Flag(
                "caution",
                "lr",
                f"the {found['study']} study's best rate is {found['lr']:.3g} ({found['at']}), "
                f"not {lr:g}: measure the law with it, `windtunnel scaling --lr {found['lr']:.2g}`",
            )


def of_memory(needed: int, speed: dict[str, Any] | None) -> Iterator[Flag]:
    """`speed`: the devices, as the plan has them."""
    if speed and speed["memory"] and needed > speed["memory"] * speed["devices"]:
        have = (
            f"{speed['devices']} {speed['device']} have {about(speed['memory'] * speed['devices'])}"
        )
        yield Flag(
            "stop", "memory", f"training needs about {about(needed)} bytes of memory, and {have}"
        )


def of_studies(evidence: Evidence) -> Iterator[Flag]:
    for name, (verdict, summary) in evidence.verdicts.items():
        if verdict == "fail" and name in _MATTERS:
            yield Flag(_MATTERS[name], name, f"the {name} study failed: {summary.split(';')[0]}")  # type: ignore[arg-type]
    if evidence.lab and "check" not in evidence.verdicts:
        yield Flag(
            "note",
            "check",
            "no coordinate check in this lab: `windtunnel check` takes half a minute",
        )


def of_model(evidence: Evidence, parametrization: str, asked: bool) -> Iterator[Flag]:
    measured = evidence.template.model.parametrization if evidence.template else None
    if measured and measured != parametrization:
        yield Flag(
            "caution",
            "parametrization",
            f"the law was measured with {measured}, not with {parametrization}",
        )
    if evidence.lab and evidence.template is None:
        yield Flag(
            "caution",
            "model",
            "the runs of the study are not in this lab: what they were trained with is "
            "taken to be the defaults",
        )
    if evidence.rates and not evidence.lab and not asked:
        yield Flag(
            "note",
            "parametrization",
            "the table's rates are taken as those of ordinary networks, so the "
            "recipe has the standard parametrization; --parametrization says another",
        )


def of_corpus(
    corpus: str | None, measured: str | None, assumed_vocab: int | None
) -> Iterator[Flag]:
    if measured and corpus and corpus != measured:
        yield Flag(
            "caution", "corpus", f"the law was measured on corpus '{measured}', not on '{corpus}'"
        )
    if assumed_vocab:
        yield Flag(
            "note",
            "vocab",
            f"a vocabulary of {about(assumed_vocab)} is assumed; --vocab or --corpus says another",
        )
