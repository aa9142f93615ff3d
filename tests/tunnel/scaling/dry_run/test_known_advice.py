"""The advice where the outcome of every simulated study is known: what is counted, what is
compared, and which draws decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

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
)
from windtunnel.scaling_recipe import LAPTOP_BATCH
from windtunnel.train.loop import Watch
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.scaling.chain import lay_out
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run import advise as advisor
from windtunnel.tunnel.scaling.dry_run.advise import _improves, _preference, advise
from windtunnel.tunnel.scaling.dry_run.alternatives import Alternative
from windtunnel.tunnel.scaling.dry_run.assumptions import LAPTOP_TRUTHS
from windtunnel.tunnel.scaling.dry_run.cost import cost_of, counts_of, fit_cost, speed_of
from windtunnel.tunnel.scaling.dry_run.design import DryRun, Target
from windtunnel.tunnel.scaling.dry_run.simulate import PointGrid, SimulatedStudy

DESIGN = Design()
Widths = dict[int, tuple[float, float]]  # by a design's lengths: half an interval, how far off


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[range]]:
    """Have every simulated study of a design with so many lengths come out alike; the draws that
    were asked for.
    """
    asked: list[range] = []

    def set_up(widths: Widths) -> list[range]:
        def simulate(
            grid: PointGrid, assumed: Any, aim: Any, tokens: int, draws: range, tell: Any
        ) -> list[SimulatedStudy]:
            asked.append(draws)
            half, off = widths[len(grid.tokens)]
            studies = []
            for draw in draws:
                truth = assumed.truths[draw % 2]
                loss = truth.loss(aim.counts, tokens)
                studies.append(
                    SimulatedStudy(
                        truth=truth,
                        predicted=loss + off,
                        interval50=(loss + off - half / 2, loss + off + half / 2),
                        interval90=(loss + off - half, loss + off + half),
                        actual=loss,
                        law=truth.law,
                    )
                )
                tell()
            return studies

        monkeypatch.setattr(advisor, "simulate", simulate)
        return asked

    return set_up


def advice(
    lab: Any, corpus: Corpus, design: Design = DESIGN, watch: Watch | None = None, **more: Any
) -> Advice:
    return advise(lab.path, corpus, design, DryRun(**more), watch or Watch())


def test_a_design_is_judged_by_draws_that_nothing_was_chosen_by(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]]
) -> None:
    """A million on, as many as there are simulations, each told."""
    asked = known({7: (0.05, 0.0)})
    shown: list[tuple[Any, ...]] = []
    watch = Watch(show=lambda *told: shown.append(told))
    found = advice(lab, corpus, watch=watch, simulations=6)
    assert asked == [range(10**6, 10**6 + 6)]
    assert [told[1] for told in shown] == [0, 1, 2, 3, 4, 5, 6]
    assert shown[-1] == ("given design", 6, 6, "6 of 6")
    given = found.given
    assert given.expected and given.expected.studies == 6 and given.expected.coverage90 == 1
    # of a loss of 3.6 or so; the corpus of tests is too small for the lengths
    assert [line.split(":")[0] for line in given.against] == [
        f"the longest run reads the corpus {DESIGN.audit_tokens / corpus.train_tokens:.2f} times"
    ]
    assert not given.go and set(given.parameters) == {"additive", "coupled"}


def test_the_numbers_of_a_design_are_those_of_its_chain_and_its_sizes(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]]
) -> None:
    known({7: (0.05, 0.0)})
    found = advice(lab, corpus)
    given, chain = found.given, lay_out(DESIGN, LAPTOP_BATCH)
    counts = {size: counts_of(corpus, size) for size in (*DESIGN.sizes, DESIGN.audit_size)}
    totals = sorted(counts[size].counts.params_total for size in DESIGN.sizes)
    assert given.params_total == tuple(totals) and given.span == totals[-1] / totals[0]
    assert given.lengths == chain.lengths and given.fewest_steps == chain.fewest_steps
    assert given.points == 7 * 7, "seven stems, two sizes twice"
    speed = speed_of(lab.path, None)
    assert given.cost.fit == fit_cost(DESIGN, chain, counts, speed)
    batch = LAPTOP_BATCH.batch(DESIGN.audit_tokens)
    steps = DESIGN.audit_tokens / batch
    assert given.cost.audit == cost_of(
        speed, counts[DESIGN.audit_size], DESIGN.audit_tokens, steps=steps
    )
    assert given.cost.all.core_hours == pytest.approx(
        given.cost.fit.core_hours + given.cost.audit.core_hours
    )
    target = found.target
    assert (target.size, target.tokens) == ("256x3", DESIGN.audit_tokens)
    assert target.beyond.tokens == DESIGN.audit_tokens / max(chain.lengths)
    largest = max(counts[size].counts.params for size in DESIGN.sizes)
    assert target.beyond.params == counts[DESIGN.audit_size].counts.params / largest
    without = advice(lab, corpus, replace(DESIGN, audit=False), target=Target(Size(96, 4), 10**6))
    assert without.given.cost.audit == NOTHING
    assert (without.target.size, without.target.tokens) == ("96x4", 10**6)


def test_four_times_the_compute_is_twice_the_size_and_twice_the_data(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]]
) -> None:
    """What it gains on the mean of the truths bounds the interval."""
    aim = counts_of(corpus, DESIGN.audit_size)
    gains = []
    for truth in LAPTOP_TRUTHS:
        now = truth.loss(aim.counts, DESIGN.audit_tokens)
        later = truth.law.at(2 * aim.counts.params_total, 2 * DESIGN.audit_tokens)
        gains.append(1 - float(later) / now)
    mean = sum(gains) / 2
    losses = [truth.loss(aim.counts, DESIGN.audit_tokens) for truth in LAPTOP_TRUTHS]
    # the median of the relative widths is the mean of those of the two truths
    unit = sum(2 / loss for loss in losses) / 2
    for factor, doubted in ((0.99, False), (1.01, True)):
        known({7: (factor * mean / unit, 0.0)})
        given = advice(lab, corpus).given
        said = [line for line in given.against if "four times the compute" in line]
        assert bool(said) is doubted
        assert all(f"more than the {mean:.1%} that" in line for line in said)


@pytest.mark.parametrize(("factor", "dear"), [(1.0, False), (0.999, True), (0.5, True)])
def test_what_costs_more_than_the_budget_is_said(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]], factor: float, dear: bool
) -> None:
    known({7: (0.05, 0.0)})
    cost = advice(lab, corpus).given.cost.all
    budget = Budget(amount=factor * cost.tokens, unit="tokens")
    against = advice(lab, corpus, budget=budget).given.against
    said = [line for line in against if "times the budget" in line]
    assert said == [f"it costs {1 / factor:.2f} times the budget of {budget}"] * dear


def ranked(monkeypatch: pytest.MonkeyPatch, *points: int) -> None:
    """Have the alternatives be designs with so many lengths."""

    def alternatives(corpus: Any, given: Design, *_: Any) -> list[Alternative]:
        found = []
        for index, each in enumerate(points):
            design = replace(given, points=each, longest=given.longest + 20_000 * index)
            found.append(Alternative(design, lay_out(design, LAPTOP_BATCH), 0.01 * (index + 1)))
        return found

    monkeypatch.setattr(advisor, "alternatives", alternatives)


BUDGET = Budget(amount=1e15, unit="FLOPs")


@pytest.mark.parametrize(("simulations", "screened"), [(8, 4), (20, 5)])
def test_two_alternatives_are_simulated_and_the_narrower_proposed(
    lab: Any,
    corpus: Corpus,
    known: Callable[..., list[range]],
    monkeypatch: pytest.MonkeyPatch,
    simulations: int,
    screened: int,
) -> None:
    asked = known({7: (0.05, 0.0), 9: (0.04, 0.0), 12: (0.03, 0.0), 16: (0.01, 0.0)})
    ranked(monkeypatch, 9, 12, 16)
    found = advice(lab, corpus, budget=BUDGET, simulations=simulations)
    judged = range(10**6, 10**6 + simulations)
    assert asked == [range(screened), range(screened), judged, judged]
    assert found.within == 3
    assert [each.spread for each in found.tried] == [0.01, 0.02]
    assert found.proposed and "--points 12" in found.proposed.command


def test_an_alternative_whose_intervals_do_not_hold_comes_last(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known({7: (0.05, 0.0), 9: (0.04, 0.0), 12: (0.03, 0.1)})
    ranked(monkeypatch, 9, 12)
    found = advice(lab, corpus, budget=BUDGET)
    assert found.proposed and "--points 9" in found.proposed.command


def test_nothing_is_proposed_that_is_no_better(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known({7: (0.05, 0.0), 9: (0.05, 0.0)})
    ranked(monkeypatch, 9)
    assert advice(lab, corpus, budget=BUDGET).proposed is None
    ranked(monkeypatch)
    none = advice(lab, corpus, budget=BUDGET)
    assert (none.proposed, none.within, none.tried) == (None, 0, ())


def test_only_designs_within_the_budget_and_not_below_half_of_it_are_allowed(
    lab: Any, corpus: Corpus, known: Callable[..., list[range]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A design costs what it is fitted to, and the given audit run; the cheapest that meets the
    rules is told whatever the budget is.
    """
    known({7: (0.05, 0.0)})
    monkeypatch.setattr(advisor, "shortcomings", lambda design, *_: [""] * (design.points == 5))
    cost = advice(lab, corpus).given.cost.all.flops
    told: list[bool] = []

    def alternatives(
        corpus: Any, given: Design, law: Any, target: Any, assumed: Any, allowed: Any
    ) -> list[Alternative]:
        sizes = {size: counts_of(corpus, size) for size in given.sizes}
        for design in (given, replace(given, points=5)):
            told.append(allowed(design, lay_out(design, law), sizes))
        return []

    monkeypatch.setattr(advisor, "alternatives", alternatives)
    for share, allowed in ((0.999, False), (1.0, True), (2.0, True), (2.001, False)):
        told.clear()
        found = advice(lab, corpus, budget=Budget(amount=share * cost, unit="FLOPs"))
        assert told == [allowed, False], share
        assert found.cheapest == pytest.approx(cost)


def expectation(width: float, coverage: float = 0.9) -> Expectation:
    return Expectation(
        studies=8,
        width50=width / 3,
        width90=width,
        error=(-0.01, 0.0, 0.01),
        coverage50=0.5,
        coverage90=coverage,
    )


def test_intervals_that_hold_in_seven_of_ten_are_good_enough_to_be_compared() -> None:
    costed: Any = None
    pairs: Sequence[tuple[Expectation, Any]] = [
        (expectation(0.01, 0.699), costed),
        (expectation(0.03, 0.71), costed),
        (expectation(0.02, 0.71), costed),
    ]
    assert min(pairs, key=_preference) is pairs[2]
    assert min(pairs[:2], key=_preference) is pairs[1]


@pytest.mark.parametrize(
    ("proposed", "given", "better"),
    [
        ((0.02, True), (0.03, True), True),
        ((0.03, True), (0.03, True), False),
        ((0.04, True), (0.03, True), False),
        ((0.04, True), (0.03, False), True),  # good where the given one is not
        ((0.02, False), (0.03, True), False),
        ((0.02, False), (0.03, False), True),
        ((0.04, False), (0.03, False), False),
        ((0.04, False), (None, False), True),
        ((None, False), (0.03, False), False),
        ((None, False), (None, False), True),
    ],
)
def test_a_design_improves_on_another(
    proposed: tuple[float | None, bool], given: tuple[float | None, bool], better: bool
) -> None:
    def judged(width: float | None, go: bool) -> DesignAdvice:
        nothing = Cost(flops=0, tokens=0, core_hours=0.0)
        return DesignAdvice(
            command="",
            sizes=(),
            params_total=(),
            span=16.0,
            lengths=(),
            points=0,
            fewest_steps=400,
            cost=DesignCost(fit=nothing, audit=nothing, all=nothing),
            expected=None if width is None else expectation(width),
            parameters={},
            against=(),
            go=go,
        )

    assert _improves(judged(*proposed), judged(*given)) is better


def test_where_no_law_can_be_fitted_nothing_is_expected(
    lab: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> list[SimulatedStudy]:
        raise ValueError("too few points")

    monkeypatch.setattr(advisor, "simulate", refuse)
    given = advice(lab, corpus).given
    assert given.expected is None and given.parameters == {}
    assert given.against[-1] == "no law can be fitted to it: too few points"
    with pytest.raises(InputError, match="without an audit run, --target must say"):
        advice(lab, corpus, replace(DESIGN, audit=False))
