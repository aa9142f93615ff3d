"""The advisor: bad designs are called bad before they cost anything, and a better one is better
on fresh draws.
"""

import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.results.dry_run import Advice, Budget, DesignAdvice
from windtunnel.train.loop import Watch
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.scaling.design import Design
from windtunnel.tunnel.scaling.dry_run.advise import advise, command
from windtunnel.tunnel.scaling.dry_run.design import DryRun, Target

STUDIES = 2  # each truth once
NARROW = Design(
    sizes=(Size(64, 3), Size(64, 4), Size(80, 4)),
    shortest=480_000,
    longest=960_000,
    points=4,
    seeds=1,
)


def advice(
    lab: Any, corpus: Corpus, design: Design, watch: Watch | None = None, **more: Any
) -> Advice:
    dry_run = DryRun(simulations=STUDIES, **more)
    return advise(lab.path, corpus, design, dry_run, watch or Watch())


def said(judged: DesignAdvice) -> str:
    return "; ".join(judged.against)


def test_a_narrow_design_is_called_bad_and_why(lab: Any, corpus: Corpus) -> None:
    before = lab.files()
    given = advice(lab, corpus, NARROW).given
    assert lab.files() == before
    assert not given.go
    for words in (
        "3 sizes",
        "needs 16x or more",
        "need a spread of 8x",
        "reads the corpus",
        "four times the compute",
    ):
        assert words in said(given)
    assert given.expected and given.expected.width90 > 0.05


def test_one_size_or_one_ray_is_told_without_a_simulation(lab: Any, corpus: Corpus) -> None:
    given = advice(lab, corpus, replace(NARROW, sizes=(Size(64, 4),))).given
    assert "on one ray" in said(given)
    assert "no law can be fitted" in said(given)
    assert given.expected is None and not given.go


def test_the_default_design_tells_much_more_at_the_same_target(lab: Any, corpus: Corpus) -> None:
    report = advice(lab, corpus, Design())
    given = report.given
    assert given.expected and given.expected.width90 < 0.06
    assert max(abs(error) for error in given.expected.error) < 0.04
    assert "exponent" not in said(given)
    assert report.target.beyond.tokens == pytest.approx(2, rel=0.01)
    cost = given.cost
    assert cost.all.flops == cost.fit.flops + cost.audit.flops
    assert set(given.parameters) == {"additive", "coupled"}


def test_a_budget_that_pays_for_nothing_says_what_the_cheapest_design_costs(
    lab: Any, corpus: Corpus
) -> None:
    one_size = replace(NARROW, sizes=(Size(64, 4),))
    report = advice(
        lab,
        corpus,
        one_size,
        target=Target(Size(96, 4), 10**6),
        budget=Budget(amount=1e9, unit="FLOPs"),
    )
    assert "times the budget of 1e+09 FLOPs" in said(report.given)
    assert report.proposed is None and report.within == 0


def test_without_an_audit_run_a_target_is_needed(lab: Any, corpus: Corpus) -> None:
    with pytest.raises(InputError, match="--target must say"):
        advice(lab, corpus, replace(Design(), audit=False))


def test_a_person_can_stop_it(lab: Any, corpus: Corpus) -> None:
    with pytest.raises(Interrupted):
        advice(lab, corpus, NARROW, watch=Watch(stop=lambda: True))


def test_the_command_is_the_design(lab: Any, corpus: Corpus) -> None:
    line = command(corpus, replace(NARROW, decay=0.15, batch=1024, audit=False))
    assert line == (
        "windtunnel scaling --corpus tiny --sizes 64x3,64x4,80x4 --shortest 480k --longest 960k "
        "--points 4 --decay 15% --batch 1024 --seeds 1 --no-audit"
    )


@pytest.mark.slow
def test_what_is_proposed_is_better_on_draws_that_it_was_not_chosen_by(tmp_path: Path) -> None:
    words = ["".join(pair) for pair in product("bdfglmnprs", "aeiou")]
    texts = [" ".join(random.Random(seed).choices(words, k=200)) for seed in range(25_000)]
    corpus = build(
        tmp_path / "corpora" / "text",
        {"all": Documents(read=lambda: iter(texts), origin="generated", licence="words")},
        vocab=320,
    )
    assert corpus.sources["all"].train.tokens > Design().audit_tokens, "one epoch"
    sparse = replace(Design(), points=5)
    budget = Budget(amount=1.1e14, unit="FLOPs")
    report = advise(tmp_path, corpus, sparse, DryRun(budget=budget, simulations=8), Watch())
    given, proposed = report.given.expected, report.proposed
    assert report.within >= 3 and given and proposed and proposed.expected
    assert proposed.expected.width90 < 0.95 * given.width90
    assert proposed.expected.coverage90 >= 0.75
    assert proposed.cost.all.flops <= 1.1e14
    assert "--points 5 " not in proposed.command
