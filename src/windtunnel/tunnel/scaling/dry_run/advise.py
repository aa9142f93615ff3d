"""The design advisor: what a scaling study would find, and at what cost, before anything is
trained; and a better spread of the same money if there is one. All of it is simulation (see
`simulate`): measured noise, an assumed law.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.results.dry_run import (
    NOTHING,
    Advice,
    Budget,
    Cost,
    DesignAdvice,
    DesignCost,
    Expectation,
    Speed,
    TargetRun,
    TriedDesign,
)
from windtunnel.results.experiments import study_of
from windtunnel.results.scaling import SCALING, Beyond
from windtunnel.scaling_recipe import BatchRule, batch_rule
from windtunnel.train.loop import Watch
from windtunnel.tunnel.design import Size, typed
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.scaling.chain import Chain, lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.against import COVERAGE, doubts, shortcomings
from windtunnel.tunnel.scaling.dry_run.alternatives import alternatives, best_of, varied
from windtunnel.tunnel.scaling.dry_run.assumptions import Assumptions, assumptions_of
from windtunnel.tunnel.scaling.dry_run.cost import (
    SizeCounts,
    cost_of,
    counts_of,
    fit_cost,
    speed_of,
)
from windtunnel.tunnel.scaling.dry_run.design import Best, DryRun, Target
from windtunnel.tunnel.scaling.dry_run.simulate import (
    PointGrid,
    SimulatedStudy,
    determined,
    expectation_of,
    simulate,
)

_FINALISTS = 2  # alternatives that are simulated
_SCREENED = 4  # in so many studies at least
_SPENT = 0.5  # share of a budget below which an alternative is not looked at
# An alternative whose 90% intervals hold the loss less often than this counts after all others.
_HELD = COVERAGE - 0.2
_FRESH = 10**6  # draws from here on are for judging, those before for choosing


def advise(lab: Path, corpus: Corpus, design: Design, dry_run: DryRun, watch: Watch) -> Advice:
    """What to expect of a design at the target, which is its audit run unless another one is
    given; with a budget also the best alternative found. Raises InputError, and Interrupted.
    """
    setup = _Setup.of(lab, corpus, design, dry_run, watch)
    sizes = {size: counts_of(corpus, size) for size in design.sizes}
    given = _costed(setup, design, lay_out(design, setup.batch), sizes)
    search = _better(setup, given, dry_run.budget) if dry_run.budget else _Search()
    judged = _judged(setup, given, dry_run.budget, "given design")
    proposed = None
    if search.best:
        proposed = _judged(setup, search.best, dry_run.budget, "proposed design")
    return Advice(
        corpus=corpus.folder.name,
        target=_target_run(setup, given),
        budget=dry_run.budget,
        truths=tuple(truth.as_record() for truth in setup.assumed.truths),
        noise=setup.assumed.noise,
        transient=setup.assumed.transient,
        speed=setup.speed,
        given=judged,
        tried=tuple(search.tried),
        within=search.within,
        cheapest=search.cheapest,
        proposed=proposed if proposed and _improves(proposed, judged) else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What stays the same from design to design."""

    corpus: Corpus
    assumed: Assumptions
    speed: Speed
    batch: BatchRule
    target: Target
    aim: SizeCounts  # of the target
    simulations: int
    watch: Watch

    @classmethod
    def of(
        cls, lab: Path, corpus: Corpus, design: Design, dry_run: DryRun, watch: Watch
    ) -> "_Setup":
        """Raises InputError for a design without an audit run where no target is given."""
        target = dry_run.target
        if target is None:
            if not design.audit:
                raise InputError(
                    "without an audit run, --target must say which run is to be predicted, such as "
                    "512x8@20M"
                )
            target = Target(design.audit_size, design.audit_tokens)
        earlier = study_of(lab, SCALING, corpus.folder.name)
        assumed = assumptions_of(lab, earlier)
        if isinstance(target, Best):
            target = best_of(corpus, target, assumed.truths)
        return cls(
            corpus=corpus,
            assumed=assumed,
            speed=speed_of(lab, earlier),
            batch=batch_rule(lab, corpus.folder.name, design.batch),
            target=target,
            aim=counts_of(corpus, target.size),
            simulations=dry_run.simulations,
            watch=watch,
        )


@dataclass(frozen=True, kw_only=True)
class _Costed:
    """A design with all that follows from it without a simulation."""

    design: Design
    chain: Chain
    grid: PointGrid
    fit: Cost
    audit: Cost

    @property
    def cost(self) -> Cost:
        """Of all of it."""
        return self.fit + self.audit


def _costed(
    setup: _Setup, design: Design, chain: Chain, sizes: Mapping[Size, SizeCounts]
) -> _Costed:
    return _Costed(
        design=design,
        chain=chain,
        grid=PointGrid.of(design, chain, sizes),
        fit=fit_cost(design, chain, sizes, setup.speed),
        audit=_audit_cost(setup, design),
    )


def _audit_cost(setup: _Setup, design: Design) -> Cost:
    if not design.audit:
        return NOTHING
    tokens = design.audit_tokens
    size = counts_of(setup.corpus, design.audit_size)
    return cost_of(setup.speed, size, tokens, steps=tokens / setup.batch.batch(tokens))


def _target_run(setup: _Setup, given: _Costed) -> TargetRun:
    target, params = setup.target, setup.aim.params
    beyond = {}
    for name, value in params.items():
        beyond[name] = value / max(size.params[name] for size in given.grid.sizes)
    return TargetRun(
        size=str(target.size),
        **params,
        tokens=target.tokens,
        beyond=Beyond(**beyond, tokens=target.tokens / max(given.chain.lengths)),
    )


# -- what a design leads to


def _judged(setup: _Setup, costed: _Costed, budget: Budget | None, what: str) -> DesignAdvice:
    """What to expect of a design, and whether it is worth its cost. `what` names it where
    progress is shown.
    """
    against = shortcomings(costed.design, costed.chain, costed.grid, setup.corpus)
    if budget and budget.share(costed.cost) > 1:
        against.append(f"it costs {budget.share(costed.cost):.2f} times the budget of {budget}")
    expected, parameters = None, {}
    # not the draws that alternatives are chosen by: the best of many would look better than it is
    draws = range(_FRESH, _FRESH + setup.simulations)
    try:
        studies = _simulated(setup, costed, draws, what)
    except ValueError as error:
        against.append(f"no law can be fitted to it: {error}")
    else:
        expected = expectation_of(studies)
        for truth in setup.assumed.truths:
            own = [study for study in studies if study.truth is truth]
            parameters[truth.form] = determined(own)
        against += doubts(expected, parameters, _doubling(setup))
    totals = costed.grid.totals
    return DesignAdvice(
        command=command(setup.corpus, costed.design),
        sizes=tuple(map(str, costed.design.sizes)),
        params_total=tuple(sorted(set(totals))),
        span=max(totals) / min(totals),
        lengths=costed.chain.lengths,
        points=int(costed.grid.measured.sum()),
        fewest_steps=costed.chain.fewest_steps,
        cost=DesignCost(fit=costed.fit, audit=costed.audit, all=costed.cost),
        expected=expected,
        parameters=parameters,
        against=tuple(against),
        go=not against,
    )


def _simulated(
    setup: _Setup, costed: _Costed, draws: Sequence[int], what: str
) -> list[SimulatedStudy]:
    done = 0
    setup.watch.show(what, 0, len(draws), "")

    def tell() -> None:
        """After each simulated study."""
        nonlocal done
        done += 1
        setup.watch.show(what, done, len(draws), f"{done} of {len(draws)}")
        if setup.watch.stop():
            raise Interrupted

    return simulate(costed.grid, setup.assumed, setup.aim, setup.target.tokens, draws, tell)


def _doubling(setup: _Setup) -> float:
    """What a model twice as large with twice the data gains at the target, relative: mean over
    the truths.
    """
    tokens = setup.target.tokens
    gains = []
    for truth in setup.assumed.truths:
        params = setup.aim.params[truth.count]
        now = truth.loss(setup.aim.counts, tokens)
        gains.append(1 - float(truth.law.at(2 * params, 2 * tokens)) / now)
    return sum(gains) / len(gains)


def command(corpus: Corpus, design: Design) -> str:
    """The command line that runs a design."""
    return " ".join(["windtunnel scaling --corpus", corpus.folder.name, *typed(design)])


# -- a better spread of the same money


@dataclass
class _Search:
    """What was found in search of a better design."""

    best: _Costed | None = None
    within: int = 0  # designs that meet the rules and the budget
    cheapest: float | None = None  # of those that meet the rules, in the budget's unit
    tried: list[TriedDesign] = field(default_factory=list)


def _better(setup: _Setup, given: _Costed, budget: Budget) -> _Search:
    """Every design of the grid to first order, the surest ones by simulation; the best is the
    narrowest whose intervals hold. Judged on few draws: the caller judges it again, on others.
    """
    found = _Search()
    corpus = setup.corpus

    def allowed(design: Design, chain: Chain, sizes: Mapping[Size, SizeCounts]) -> bool:
        """Whether it meets what a law needs, and the budget."""
        if shortcomings(design, chain, PointGrid.of(design, chain, sizes), corpus):
            return False
        # the audit run stays the same from design to design
        share = budget.share(fit_cost(design, chain, sizes, setup.speed) + given.audit)
        found.cheapest = min(found.cheapest or math.inf, share * budget.amount)
        return _SPENT <= share <= 1

    setup.watch.show("designs", 0, None, "")
    ranked = alternatives(corpus, given.design, setup.batch, setup.target, setup.assumed, allowed)
    setup.watch.show("designs", 1, 1, "")
    found.within = len(ranked)
    draws = range(max(_SCREENED, setup.simulations // 4))
    simulated: list[tuple[Expectation, _Costed]] = []
    for number, each in enumerate(varied(ranked, _FINALISTS), 1):
        sizes = {size: counts_of(corpus, size) for size in each.design.sizes}
        costed = _costed(setup, each.design, each.chain, sizes)
        expected = expectation_of(_simulated(setup, costed, draws, f"alternative {number}"))
        line = command(corpus, each.design)
        found.tried.append(TriedDesign(command=line, spread=each.spread, expected=expected))
        simulated.append((expected, costed))
    if simulated:
        _, found.best = min(simulated, key=_preference)
    return found


def _preference(simulated: tuple[Expectation, _Costed]) -> tuple[bool, float]:
    """Less is better."""
    expected, _ = simulated
    return expected.coverage90 < _HELD, expected.width90


def _improves(proposed: DesignAdvice, given: DesignAdvice) -> bool:
    """Narrower, on draws that it was not chosen by, or good where the given design is not."""
    if given.expected is None or (proposed.go and not given.go):
        return True
    if proposed.expected is None:
        return False
    narrower = proposed.expected.width90 < given.expected.width90
    return narrower and proposed.go >= given.go
