"""When a batch study tells a law, which law, and what it is told from."""

from typing import Any

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.laws.batch import Optima
from windtunnel.results.batch import (
    ArmFound,
    BatchNumbers,
    BestBatch,
    FittedLaw,
    Regrets,
    SizeBatches,
)
from windtunnel.tunnel.batch.batch import (
    _Best,
    _chosen,
    _longest_left_out,
    _sizes_left_out,
    formula,
    judge,
)
from windtunnel.tunnel.batch.design import Design
from windtunnel.tunnel.batch.regret import MeasuredSizes
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.valley import LossGrid

LAW = FittedLaw(constants={"c": 1.75, "p": 0.5}, intervals={"c": (1.0, 2.0), "p": (0.4, 0.6)})
NAMES = ("tokens", "loss", "constant")


def regrets(**told: float | None) -> dict[str, float | None]:
    return dict.fromkeys(NAMES) | told


def arm(inside: list[int], total: int, chosen: str | None = "tokens", **regret: Any) -> ArmFound:
    """Sizes of which so many lengths of `total` have their best batch inside."""
    sizes = []
    for index, number in enumerate(inside):
        where = ["inside"] * number + ["above"] * (total - number)
        levels = [
            BestBatch(loss=4.0, where=each, batch=None, interval=None, tokens=1e6)  # type: ignore[arg-type]
            for each in where
        ]
        sizes.append(
            SizeBatches(width=32 + index, depth=2, params=1, levels=tuple(levels), best=())
        )
    found = {"size": regrets(tokens=0.0012), "longest": regrets(tokens=0.0034)} | regret
    return ArmFound(
        noise=0.002,
        sizes=tuple(sizes),
        laws={"tokens": LAW},
        three_term=None,
        regret=Regrets(**found),
        chosen=chosen,
    )


def numbers(*arms: ArmFound) -> BatchNumbers:
    names = ("fixed", "sqrt")
    return BatchNumbers(
        sizes=(),
        batches=(),
        lengths=(),
        lr=0.01,
        laws=arms[0].laws,
        chosen=arms[0].chosen,
        arms=dict(zip(names, arms, strict=False)),
    )


@pytest.mark.parametrize(
    ("inside", "chosen", "verdict"),
    [
        ([3, 3, 0], "tokens", "pass"),
        ([3, 2, 2], "tokens", None),
        ([5, 2], "tokens", None),
        ([3, 3], None, None),
    ],
)
def test_three_lengths_of_two_sizes_tell_a_law(
    inside: list[int], chosen: str | None, verdict: str | None
) -> None:
    found, said = judge(numbers(arm(inside, 5, chosen)))
    assert found == verdict
    total = 5 * len(inside)
    assert said.startswith(f"{sum(inside)} of {total} best batches lie inside the sampled range")
    lacking = "too few to trust a law, which needs 3 lengths of each of 2 sizes: sample more"
    assert (lacking in said) is (verdict is None)


def test_where_all_best_batches_are_inside_no_more_batches_are_asked_for() -> None:
    assert "sample more" not in judge(numbers(arm([2, 2], 2)))[1]
    assert "sample more" in judge(numbers(arm([2, 2], 3)))[1]


def test_every_arms_law_is_said_with_its_regret_and_the_first_is_judged() -> None:
    verdict, said = judge(numbers(arm([3, 3], 3), arm([0, 0], 3)))
    assert verdict == "pass"
    assert said.count("(0.0012 nats of regret where held out)") == 2
    assert "; lr fixed: bs = 1.75 D^0.50 (" in said and "; lr sqrt: bs = " in said
    by_length = arm([3, 3], 3, size=regrets())
    assert "(0.0034 nats of regret where held out)" in judge(numbers(by_length))[1]
    assert "lr" not in judge(numbers(arm([3, 3], 3, None)))[1].split("; ", 1)[-1]
    assert formula("tokens", LAW) == "bs = 1.75 D^0.50"


def test_the_law_of_least_regret_on_a_size_left_out_is_chosen() -> None:
    size, longest = regrets(tokens=0.003, loss=0.002), regrets(tokens=0.001, loss=0.004)
    assert _chosen(("tokens", "loss"), Regrets(size=size, longest=longest)) == "loss"
    assert _chosen(("tokens",), Regrets(size=size, longest=longest)) == "tokens"
    assert _chosen(("tokens", "loss"), Regrets(size=regrets(), longest=longest)) == "tokens"
    # one batch for all is no law that was fitted
    constant = regrets(constant=0.0, tokens=0.1)
    assert _chosen(("tokens",), Regrets(size=constant, longest=constant)) == "tokens"
    assert _chosen((), Regrets(size=size, longest=longest)) is None
    assert _chosen(("tokens",), Regrets(size=regrets(), longest=regrets())) is None


@pytest.fixture
def measured() -> tuple[Design, MeasuredSizes, _Best]:
    """Two best batches of the first size, at the shortest and the longest of three lengths, and one
    of the second.
    """
    design = Design(sizes=(Size(32, 2), Size(64, 2)), lengths=(163_840, 327_680, 655_360))
    ends = np.array([end for _, end in design.points], float)
    batches = np.array(design.batches, float)
    losses = np.arange(15.0).reshape(5, 3)
    grids = {size: LossGrid(batches, ends, losses + 100 * i) for i, size in enumerate(design.sizes)}
    optima = Optima(
        batch=np.array([700.0, 1400.0, 1000.0]),
        loss=np.array([4.0, 3.8, 3.9]),
        tokens=np.array([163_840.0, 655_360.0, 327_680.0]),
        params=np.array([1.0, 1.0, 2.0]),
        error=np.full(3, 0.1),
    )
    best = _Best(optima=optima, redrawn=[], size=np.array([0, 0, 1]))
    return design, MeasuredSizes(grids, dict.fromkeys(design.sizes, 1)), best


def test_a_size_is_left_out_with_its_best_batches_and_tried_at_all_lengths(
    measured: tuple[Design, MeasuredSizes, _Best],
) -> None:
    first, second = _sizes_left_out(*measured)
    one, other = measured[0].sizes
    assert (first.kept.tolist(), second.kept.tolist()) == (
        [False, False, True],
        [True, True, False],
    )
    assert (list(first.grids), list(second.grids)) == ([other], [one])
    assert (first.tried, second.tried) == ([(one, None)], [(other, None)])


def test_the_longest_length_is_left_out_and_tried(
    measured: tuple[Design, MeasuredSizes, _Best],
) -> None:
    design, grids, _ = measured
    fold = _longest_left_out(*measured)
    assert fold.kept.tolist() == [True, False, True], "up to the second length"
    assert fold.tried == [(size, 2) for size in design.sizes]
    for size, shorter in fold.grids.items():
        assert shorter.tokens.tolist() == [163_840, 327_680]
        assert shorter.loss.tolist() == grids.grids[size].loss[:, :2].tolist()


# the design


def test_branches_leave_and_end_in_whole_steps_of_the_largest_batch() -> None:
    design = Design(batches=(1000, 2000, 4000, 8000), lengths=(99_000, 203_000))
    assert design.largest == 8000 and design.warmup == 8000
    # 96,000 and 200,000; decays of a tenth are 8,000 and 16,000 or 24,000
    assert design.points == [(88_000, 96_000), (176_000, 200_000)]
    long = Design(lengths=(163_840, 983_040), batches=(512, 1024, 2048, 4096))
    assert long.warmup == round(0.02 * 983_040)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batches": (512, 1024, 2048)}, "--batches 512,1024,2048: expected 4 or more"),
        ({"batches": (512, 1000, 2048, 4096)}, "the largest of them a multiple"),
        ({"lengths": (163_840,)}, "--tokens 163840: expected two or more lengths"),
        ({"lengths": (163_840, 164_000)}, "differ by whole batches of 8192"),
        # 1 step before its decay, and the warm-up takes 2
        ({"lengths": (16_384, 983_040)}, "more than the warm-up of 19661 tokens before"),
    ],
)
def test_a_design_that_tells_no_law_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Design(**changes)


def test_the_shortest_may_leave_where_the_warm_up_ends() -> None:
    """Of a step of 8,192 where the longest is short."""
    assert Design(lengths=(16_384, 32_768)).points[0] == (8192, 16_384)


def test_a_usual_study_trains_30_million_tokens_of_runs() -> None:
    """As its docstring says; arms that agree on the rate of a batch share its stem."""
    design = Design()
    stems = len(
        {(batch, design.rate(arm, batch)) for arm in design.arms for batch in design.batches}
    )
    tokens = 3 * stems * design.points[-1][0]
    for arm in design.arms:
        for batch in design.batches:
            if arm == "fixed" or design.rate(arm, batch) != design.rate("fixed", batch):
                tokens += 3 * sum(end - at for at, end in design.points)
    assert tokens == pytest.approx(30e6, rel=0.02)
    assert (design.lr, design.lr_batch, design.seed) == (0.01, 2048, 0)
    assert [design.rate("sqrt", batch) for batch in (512, 2048, 8192)] == [0.005, 0.01, 0.02]
    assert design.rate("sqrt", 1024) == 0.00707107, "six digits"
