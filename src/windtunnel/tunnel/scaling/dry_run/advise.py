"""The design advisor: what a scaling study would find, and at what cost, before anything is
trained; and a better spread of the same money if there is one. All of it is simulation (see
`simulate`): measured noise, an assumed law.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import ByTokens
from windtunnel.quantities import format_tokens
from windtunnel.train.loop import Watch
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.scaling.dry_run.alternatives import alternatives, varied
from windtunnel.tunnel.scaling.dry_run.cost import (
    NOTHING,
    Budget,
    Cost,
    Shape,
    Speed,
    fit_cost,
    shape_of,
    speed_of,
)
from windtunnel.tunnel.scaling.dry_run.simulate import (
    Expectation,
    Layout,
    Outcome,
    Parameter,
    Target,
    World,
    determined,
    simulate,
    world,
)
from windtunnel.tunnel.scaling.scaling import (
    FEWEST_SIZES,
    FEWEST_STEPS,
    HIGHEST_COST,
    SMALLEST_SPAN,
    BatchLaw,
    Chain,
    Design,
    Size,
    batch_law,
    lay_out,
)

_LENGTHS = 8  # the longest over the shortest: the spread of tokens per parameter at each size
_LOOSE = 0.5  # half of the inner 90% of an exponent, relative: from here on it is not told
_COVERAGE = 0.9
_FINALISTS, _SCREENED = 2, 4  # alternatives that are simulated, and in how many studies at least
_SPENT = 0.5  # share of a budget below which an alternative is not looked at
_FRESH = 10**6  # draws from here on are for judging, those before for choosing


@dataclass(frozen=True)
class Plan:
    """A design with all that follows from it without a simulation."""

    design: Design
    chain: Chain
    fitted: Cost
    audit: Cost
    layout: Layout

    @property
    def cost(self) -> Cost:
        return self.fitted + self.audit


@dataclass(frozen=True)
class _Setting:
    """What stays the same from design to design."""

    corpus: Corpus
    world: World
    speed: Speed
    law: BatchLaw
    target: Target
    shape: Shape  # of the target
    watch: Watch


def advise(
    lab: Path,
    corpus: Corpus,
    design: Design,
    target: Target | None,
    budget: Budget | None,
    studies: int,
    watch: Watch,
) -> dict[str, Any]:
    """What to expect of a design at the target (None: its audit run), over so many simulated
    studies; with a budget also the best alternative found, under `proposed`. For JSON. Raises
    InputError, and Interrupted.
    """
    if target is None and design.audit is None:
        raise InputError(
            "without an audit run, --target must say which run is to be predicted, such as 512x8@20M"
        )
    aim = target or Target(design.audit, design.audit_tokens)  # type: ignore[arg-type]
    result = _earlier(lab, corpus)
    law = BatchLaw(ByTokens(design.batch, 0.0), "given") if design.batch else batch_law(lab, corpus)
    setting = _Setting(
        corpus,
        world(lab, result),
        speed_of(lab, result),
        law,
        aim,
        shape_of(corpus, aim.size),
        watch,
    )
    given = _plan(setting, design, {size: shape_of(corpus, size) for size in design.sizes})
    search = _better(setting, given, budget, studies) if budget else _Search()
    report = {
        "corpus": corpus.folder.name,
        "target": _target_numbers(setting, given),
        "budget": budget and asdict(budget),
        "truths": [asdict(truth) for truth in setting.world.truths],
        "noise": asdict(setting.world.noise),
        "speed": asdict(setting.speed),
        "given": _judged(setting, given, budget, studies, "given design"),
        "tried": search.tried,
        "within": search.within,
        "cheapest": search.cheapest,
    }
    report["proposed"] = search.best and _judged(
        setting, search.best, budget, studies, "proposed design"
    )
    if report["proposed"] and not _improves(report["proposed"], report["given"]):
        report["proposed"] = None
    return report


def _earlier(lab: Path, corpus: Corpus) -> dict[str, Any] | None:
    """The result of the lab's scaling study, where it is of this corpus."""
    file = lab / "studies" / "scaling" / "result.json"
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text())
        return result if result["numbers"]["corpus"] == corpus.folder.name else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the result of a scaling study: {error!r}") from None


def _plan(setting: _Setting, design: Design, shapes: Mapping[Size, Shape]) -> Plan:
    chain = lay_out(design, setting.law)
    return Plan(
        design,
        chain,
        fit_cost(design, chain, shapes, setting.speed),
        _audit_cost(setting, design),
        Layout.of(design, chain, shapes),
    )


def _audit_cost(setting: _Setting, design: Design) -> Cost:
    if not design.audit:
        return NOTHING
    batch = design.batch or setting.law.batch(design.audit_tokens)
    shape = shape_of(setting.corpus, design.audit)
    return setting.speed.cost(shape, design.audit_tokens, design.audit_tokens / batch)


def _target_numbers(setting: _Setting, given: Plan) -> dict[str, Any]:
    """With how many times it is larger and longer than anything in the fit."""
    target, params = setting.target, setting.shape.params
    beyond = {
        key: params[key] / max(shape.params[key] for shape in given.layout.shapes) for key in params
    }
    beyond["tokens"] = target.tokens / max(given.layout.tokens)
    return {"size": str(target.size), **params, "tokens": target.tokens, "beyond": beyond}


# -- what a design lacks


def shortcomings(plan: Plan, corpus: Corpus) -> list[str]:
    """What no simulation is needed for."""
    layout, chain = plan.layout, plan.chain
    totals = [shape.counts.params_total for shape in layout.shapes]
    sizes, span = len(set(plan.design.sizes)), max(totals) / min(totals)
    reach = max(layout.tokens) / min(layout.tokens)
    longest = max(*layout.tokens, plan.design.audit_tokens if plan.design.audit else 0)
    epochs = longest / sum(source.train.tokens for source in corpus.sources.values())
    words = (
        (sizes < FEWEST_SIZES, f"{sizes} sizes: a law needs {FEWEST_SIZES} or more"),
        (
            span < SMALLEST_SPAN,
            f"sizes over {span:.3g}x in parameters: N's exponent needs {SMALLEST_SPAN}x or more",
        ),
        (
            _on_one_ray(layout),
            "size and length grow together, on one ray: their effects can't be told apart",
        ),
        (
            reach < 0.98 * _LENGTHS,
            f"lengths over {reach:.3g}x: tokens a parameter must spread over {_LENGTHS}x",
        ),
        (
            chain.fewest_steps < FEWEST_STEPS,
            f"{chain.fewest_steps} steps at the shortest length: it needs {FEWEST_STEPS} or more",
        ),
        (
            epochs > 1,
            f"the longest run reads the corpus {epochs:.2f} times: laws are of text read once",
        ),
        (
            chain.trained / chain.retrained > HIGHEST_COST,
            f"stems and branches cost {chain.trained / chain.retrained:.2f} of retraining: more lengths make better use",
        ),
    )
    return [text for short, text in words if short]


def _on_one_ray(layout: Layout) -> bool:
    points = layout.points(np.ones((len(layout.stems), len(layout.tokens))))
    logs = np.log(np.column_stack([points.params["params_total"], points.tokens]))
    return int(np.linalg.matrix_rank(logs - logs.mean(0), tol=1e-3)) < 2


def doubts(
    expected: Expectation, parameters: Mapping[str, Mapping[str, Parameter]], doubled: float
) -> list[str]:
    """What the simulation shows. `doubled`: what twice the size and twice the data gain at the
    target, relative.
    """
    words = []
    for name in ("N's exponent", "D's exponent"):
        spread = max(found[name].spread for found in parameters.values())
        if spread > _LOOSE:
            words.append(
                f"this budget can't tell {name}: it would come out within {spread:.0%} of the true one"
            )
    if expected.width90 > doubled:
        words.append(
            f"the 90% interval is {expected.width90:.1%} of the loss wide, more than the {doubled:.1%} that four times "
            "the compute would gain: no plan can be judged by it"
        )
    deviation = math.sqrt(_COVERAGE * (1 - _COVERAGE) / expected.studies)
    if expected.coverage90 < _COVERAGE - 2 * deviation:
        words.append(
            f"the 90% intervals held the loss in {expected.coverage90:.0%} of the studies only: don't trust them"
        )
    return words


# -- what it leads to


def _judged(
    setting: _Setting, plan: Plan, budget: Budget | None, studies: int, what: str
) -> dict[str, Any]:
    """Numbers, what speaks against the design, and whether it is worth its cost."""
    design, layout = plan.design, plan.layout
    totals = [shape.counts.params_total for shape in layout.shapes]
    against = shortcomings(plan, setting.corpus)
    if budget and not budget.covers(plan.cost):
        against.append(f"it costs {budget.share(plan.cost):.2f} times the budget of {budget}")
    numbers = {
        "command": command(setting.corpus, design),
        "sizes": [str(size) for size in design.sizes],
        "params_total": sorted(set(totals)),
        "span": max(totals) / min(totals),
        "lengths": list(layout.tokens),
        "points": len(layout.stems) * len(layout.tokens),
        "fewest_steps": plan.chain.fewest_steps,
        "cost": {"fit": asdict(plan.fitted), "audit": asdict(plan.audit), "all": asdict(plan.cost)},
        "expected": None,
        "parameters": {},
    }
    try:
        outcomes = _outcomes(setting, plan, range(_FRESH, _FRESH + studies), what)
    except ValueError as error:
        return numbers | {
            "against": [*against, f"no law can be fitted to it: {error}"],
            "go": False,
        }
    expected = Expectation.of(outcomes)
    parameters = {
        truth.form: determined([o for o in outcomes if o.truth is truth])
        for truth in setting.world.truths
    }
    against += doubts(expected, parameters, _doubling(setting))
    found = {
        form: {name: asdict(each) for name, each in named.items()}
        for form, named in parameters.items()
    }
    return numbers | {
        "expected": asdict(expected),
        "parameters": found,
        "against": against,
        "go": not against,
    }


def _outcomes(setting: _Setting, plan: Plan, draws: Sequence[int], what: str) -> list[Outcome]:
    done = 0
    setting.watch.show(what, 0, len(draws), "")

    def tell() -> None:
        nonlocal done
        done += 1
        setting.watch.show(what, done, len(draws), f"{done} of {len(draws)}")
        if setting.watch.stop():
            raise Interrupted

    return simulate(plan.layout, setting.world, setting.shape, setting.target.tokens, draws, tell)


def _doubling(setting: _Setting) -> float:
    """What a model twice as large with twice the data gains at the target, relative: mean over
    the truths.
    """
    target, gains = setting.target, []
    for truth in setting.world.truths:
        params, now = (
            setting.shape.params[truth.count],
            truth.loss(setting.shape.counts, target.tokens),
        )
        gains.append(1 - float(truth.law.at(2 * params, 2 * target.tokens)) / now)
    return sum(gains) / len(gains)


# -- a better spread of the same money


@dataclass
class _Search:
    best: Plan | None = None
    within: int = 0  # designs that meet the rules and the budget
    cheapest: float | None = None  # of those that meet the rules, in the budget's unit
    tried: list[dict[str, Any]] = field(default_factory=list)


def _better(setting: _Setting, given: Plan, budget: Budget, studies: int) -> _Search:
    """Every design of the grid to first order, the surest ones by simulation; the best is the
    narrowest whose intervals hold. Judged on few draws: the caller judges it again, on others.
    """
    found, corpus = _Search(), setting.corpus

    def allowed(design: Design, chain: Chain, shapes: Mapping[Size, Shape]) -> bool:
        plan = Plan(
            design,
            chain,
            fit_cost(design, chain, shapes, setting.speed),
            given.audit,
            Layout.of(design, chain, shapes),
        )
        if shortcomings(plan, corpus):
            return False
        share = budget.share(plan.cost)
        found.cheapest = min(found.cheapest or math.inf, share * budget.amount)
        return _SPENT <= share <= 1

    setting.watch.show("designs", 0, None, "")
    ranked = alternatives(corpus, given.design, setting.law, setting.target, setting.world, allowed)
    setting.watch.show("designs", 1, 1, "")
    found.within = len(ranked)
    plans = []
    for number, each in enumerate(varied(ranked, _FINALISTS), 1):
        plan = _plan(
            setting, each.design, {size: shape_of(corpus, size) for size in each.design.sizes}
        )
        draws = range(max(_SCREENED, studies // 4))
        expected = Expectation.of(_outcomes(setting, plan, draws, f"alternative {number}"))
        found.tried.append(
            {
                "command": command(corpus, each.design),
                "spread": each.spread,
                "expected": asdict(expected),
            }
        )
        plans.append((expected.coverage90 < _COVERAGE - 0.2, expected.width90, plan))
    found.best = min(plans, key=lambda each: each[:2])[2] if plans else None
    return found


def _improves(proposed: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Narrower, on draws that it was not chosen by, or good where the given design is not."""
    if not given["expected"] or (proposed["go"] and not given["go"]):
        return True
    return (
        proposed["expected"]["width90"] < given["expected"]["width90"]
        and proposed["go"] >= given["go"]
    )


def command(corpus: Corpus, design: Design) -> str:
    """The command line that runs a design."""
    usual = Design()
    options = {
        "corpus": corpus.folder.name,
        "sizes": ",".join(map(str, design.sizes)),
        "shortest": format_tokens(design.shortest),
        "longest": format_tokens(design.longest),
        "points": design.points,
        "seeds": design.seeds,
        "repeated": design.repeated,
    }
    for name in ("shape", "floor", "lr", "lr_with_batch"):
        if getattr(design, name) != getattr(usual, name):
            options[name.replace("_", "-")] = getattr(design, name)
    if design.decay != usual.decay:
        options["decay"] = f"{design.decay * 100:g}%"
    if design.batch:
        options["batch"] = format_tokens(design.batch)
    if design.audit:
        options |= {
            "audit-size": str(design.audit),
            "audit-tokens": format_tokens(design.audit_tokens),
        }
    words = [f"--{name} {value}" for name, value in options.items()]
    return " ".join(["windtunnel scaling", *words, *([] if design.audit else ["--no-audit"])])
