"""The coordinate check, held against models whose rules are broken one by one.

What it can't see, and why:
- a factor that is wrong by a constant (the paper's init_std of 0.1 set to 0.05; gains that
decay): the check reads how things change with the size, and a constant does not change;
- 1/head_size for 1/sqrt(head_size) in attention: the head size is fixed over the sizes, so both
are constants;
- any broken weight decay or Adam eps by its effect on activations: in 30 steps there is none at
usual values. Decay is therefore read off a step without a gradient, and eps is judged by its
share of the gradient, where that is above 1%.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from drawn import each_of

from windtunnel.errors import InputError
from windtunnel.recipe import PARAMETRIZATIONS, Model, Parametrization, Role, Rule
from windtunnel.report.experiments.check import figures
from windtunnel.results.check import CHECK, Axis
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.tunnel.check.check import check, generated_window, measure
from windtunnel.tunnel.check.design import Design
from windtunnel.tunnel.check.judge import causes_of, judge

SMALL: dict[str, Any] = {"widths": (32, 256), "depths": (4, 16), "steps": (0, 1, 2, 3)}
VOCAB = 512


class Mutation(NamedTuple):
    """A change of the table: of a field of a role's rule, or of a multiplier."""

    cause: str  # what the check must say
    axis: Axis
    factor: Callable[[Model], float]
    field: str
    role: Role | None = None  # None: a multiplier
    plan: dict[str, Any] = {}  # noqa: RUF012


def width(model: Model) -> float:
    return model.width / model.base_width


def root_width(model: Model) -> float:
    return math.sqrt(width(model))


def depth(model: Model) -> float:
    return model.depth / model.base_depth


def root_depth(model: Model) -> float:
    return math.sqrt(depth(model))


def one_over(growth: Callable[[Model], float]) -> Callable[[Model], float]:
    return lambda model: 1 / growth(model)


COMPLETEP = {"parametrization": "completep"}
UNTIED = COMPLETEP | {"tied": False}
LARGE_EPS = COMPLETEP | {"eps": 1e-4}
MUON = {"optimizer": "muon"}
MUTATIONS = {
    "Muon's lr with 1/m": Mutation(
        "hidden lr not 1/m", "width", one_over(width), "lr", "matrix", MUON
    ),
    "Muon's lr with sqrt(L)": Mutation(
        "hidden lr not constant in the depth", "depth", root_depth, "lr", "matrix", MUON
    ),
    "logits without 1/m": Mutation("logit multiplier not 1/m", "width", width, "logits"),
    "logits with 1/sqrt(m)": Mutation("logit multiplier not 1/m", "width", root_width, "logits"),
    "hidden lr without 1/m": Mutation("hidden lr not 1/m", "width", width, "lr", "matrix"),
    "hidden lr with 1/sqrt(m)": Mutation("hidden lr not 1/m", "width", root_width, "lr", "matrix"),
    "hidden init without 1/sqrt(m)": Mutation(
        "hidden init not 1/sqrt(m)", "width", root_width, "std", "matrix"
    ),
    "hidden init with 1/m": Mutation(
        "hidden init not 1/sqrt(m)", "width", one_over(root_width), "std", "matrix"
    ),
    "embedding init with 1/sqrt(m)": Mutation(
        "embedding init not constant", "width", one_over(root_width), "std", "embedding"
    ),
    "embedding lr with 1/m": Mutation(
        "embedding lr not constant", "width", one_over(width), "lr", "embedding"
    ),
    "embedding lr with 1/sqrt(m)": Mutation(
        "embedding lr not constant", "width", one_over(root_width), "lr", "embedding"
    ),
    "embedding multiplier with sqrt(m)": Mutation(
        "embedding multiplier not constant", "width", root_width, "embedding"
    ),
    "residual multiplier with 1/sqrt(m)": Mutation(
        "residual multiplier not constant", "width", one_over(root_width), "residual"
    ),
    "attention scale with 1/sqrt(m)": Mutation(
        "attention scale not constant", "width", one_over(root_width), "attention"
    ),
    "gain lr with 1/m": Mutation("gain lr not constant", "width", one_over(width), "lr", "gain"),
    "hidden decay with 1/m": Mutation(
        "hidden weight decay not constant", "width", one_over(width), "weight_decay", "matrix"
    ),
    "embedding decay with m": Mutation(
        "embedding weight decay not constant", "width", width, "weight_decay", "embedding"
    ),
    "head init with 1/sqrt(m)": Mutation(
        "head init not constant", "width", one_over(root_width), "std", "head", UNTIED
    ),
    "head lr with 1/m": Mutation(
        "head lr not constant", "width", one_over(width), "lr", "head", UNTIED
    ),
    "hidden eps without 1/m": Mutation(
        "hidden Adam eps not 1/m", "width", width, "eps", "matrix", LARGE_EPS
    ),
    "embedding eps without 1/m": Mutation(
        "embedding Adam eps not 1/m", "width", width, "eps", "embedding", LARGE_EPS
    ),
    "embedding eps with 1/L": Mutation(
        "embedding Adam eps not constant", "depth", one_over(depth), "eps", "embedding", LARGE_EPS
    ),
    "head eps without 1/m": Mutation(
        "head Adam eps not 1/m", "width", width, "eps", "head", LARGE_EPS | {"tied": False}
    ),
    "gain eps without 1/m": Mutation(
        "gain Adam eps not 1/m", "width", width, "eps", "gain", LARGE_EPS
    ),
    "gain eps without 1/L": Mutation(
        "gain Adam eps not 1/L", "depth", depth, "eps", "gain", LARGE_EPS
    ),
    "residual multiplier without 1/sqrt(L)": Mutation(
        "residual multiplier not 1/sqrt(L)", "depth", root_depth, "residual"
    ),
    "residual multiplier with 1/L": Mutation(
        "residual multiplier not 1/sqrt(L)", "depth", one_over(root_depth), "residual"
    ),
    "completep's residual multiplier with 1/sqrt(L)": Mutation(
        "residual multiplier not 1/L", "depth", root_depth, "residual", None, COMPLETEP
    ),
    "completep's hidden eps without 1/L": Mutation(
        "hidden Adam eps not 1/L", "depth", depth, "eps", "matrix", LARGE_EPS
    ),
    "hidden lr with 1/L": Mutation(
        "hidden lr not constant", "depth", one_over(depth), "lr", "matrix"
    ),
    "hidden init with 1/sqrt(L)": Mutation(
        "hidden init not constant", "depth", one_over(root_depth), "std", "matrix"
    ),
    "embedding multiplier with sqrt(L)": Mutation(
        "embedding multiplier not constant", "depth", root_depth, "embedding"
    ),
}


def checked(axis: Axis, **settings: Any) -> tuple[list[str], tuple[str, ...]]:
    """(failing quantities, causes) of the check on one axis at a test's size."""
    design = Design(**SMALL | settings)
    # nothing is judged of the other axis; of the widths one is the base, and three seeds, the
    # fewest, are enough for intervals along them
    design = (
        replace(design, depths=(), seeds=3)
        if axis == "width"
        else replace(design, widths=(design.width,))
    )
    slopes = judge(
        measure(design, generated_window(design.context, VOCAB), VOCAB),
        axis,
        design.parametrization,
        design.optimizer,
    )
    return [f"{s.quantity} {s.statistic}" for s in slopes if s.verdict == "fail"], causes_of(
        slopes, axis
    )


def mutated(record: Parametrization, mutation: Mutation) -> Parametrization:
    def changed(row: Any, model: Model) -> Any:
        value = getattr(row, mutation.field) * mutation.factor(model)
        return replace(row, **{mutation.field: value})

    def rules(model: Model) -> dict[Role, Rule]:
        table = dict(record.rules(model))
        assert mutation.role
        table[mutation.role] = changed(table[mutation.role], model)
        return table

    def orthogonal_lr(model: Model, out: int, into: int) -> float:
        return record.orthogonal_lr(model, out, into) * mutation.factor(model)

    if not mutation.role:
        return replace(record, multipliers=lambda model: changed(record.multipliers(model), model))
    if (mutation.role, mutation.field) == ("matrix", "lr"):
        return replace(record, rules=rules, orthogonal_lr=orthogonal_lr)
    return replace(record, rules=rules)


def mutate(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    for name, record in list(PARAMETRIZATIONS.items()):
        monkeypatch.setitem(PARAMETRIZATIONS, name, mutated(record, mutation))


# the same rule is broken another way in a test that is not slow
SLOW = {
    "logits with 1/sqrt(m)",
    "hidden lr with 1/sqrt(m)",
    "hidden init with 1/m",
    "embedding lr with 1/sqrt(m)",
    "embedding decay with m",
    "completep's residual multiplier with 1/sqrt(L)",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MUTATIONS]
)
def test_a_broken_rule_fails_and_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutate(monkeypatch, mutation)
    failed, causes = checked(mutation.axis, **mutation.plan)
    assert failed if mutation.field != "eps" else f"{mutation.role} eps" in failed
    assert len(causes) == 1 and causes[0].startswith(mutation.cause), causes


@pytest.mark.parametrize("axis", ["width", "depth"])
@pytest.mark.parametrize(
    "settings",
    [{}, COMPLETEP, UNTIED, MUON, COMPLETEP | MUON],
    ids=["minicpm", "completep", "untied completep", "muon", "completep with muon"],
)
def test_the_table_as_it_is_passes(axis: Axis, settings: dict[str, Any]) -> None:
    assert checked(axis, **settings) == ([], ())


@pytest.mark.parametrize("axis", ["width", "depth"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_large_eps_keeps_its_share_of_every_gradient_with_completep(
    axis: Axis, tied: bool
) -> None:
    """Nothing in the updates or in the model shows its eps, though it is a third of the gradients
    and more.
    """
    assert checked(axis, **LARGE_EPS, tied=tied) == ([], ())


def test_a_large_eps_outgrows_every_gradient_with_minicpm() -> None:
    failed, causes = checked("width", eps=1e-4, tied=False)
    assert {f"{role} eps" for role in ("embedding", "head", "matrix", "gain")} <= set(failed)
    assert {cause.split(" not")[0] for cause in causes} >= {
        "embedding Adam eps",
        "head Adam eps",
        "hidden Adam eps",
        "gain Adam eps",
    }


def test_standard_fails_on_both_axes_by_the_rules_that_it_lacks() -> None:
    _, by_width = checked("width", parametrization="standard")
    _, by_depth = checked("depth", parametrization="standard")
    for cause in ("hidden lr not 1/m", "logit multiplier not 1/m"):
        assert any(found.startswith(cause) for found in by_width)
    assert by_depth[0].startswith("residual multiplier not 1/sqrt(L)")


def test_muon_with_steps_as_large_as_adamws_fails() -> None:
    """What torch calls match_rms_adamw: its effect grows as sqrt(m)."""
    _, causes = checked("width", parametrization="standard", optimizer="muon")
    assert "hidden lr not 1/m (slope -0.50, expected -1.00)" in causes


def test_a_tied_embedding_that_shrinks_with_the_width_fails() -> None:
    _, causes = checked("width", embedding_as="matrix")
    assert sorted(cause.split(" (")[0] for cause in causes) == [
        "embedding init not constant",
        "embedding lr not constant",
    ]


def test_a_study_is_written_alike_each_time_and_drawn(tmp_path: Path) -> None:
    design = Design(widths=(16, 32), depths=(2, 4), width=16, seeds=3, steps=(0, 1))
    folders = [check(tmp_path / name, None, design, Watch()) for name in "ab"]
    for file in ("table.csv", "result.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    result, rows = read_study(tmp_path / "a", CHECK), read_table(tmp_path / "a", CHECK)
    assert {(row.axis, row.size) for row in rows} == {
        ("width", 16),
        ("width", 32),
        ("depth", 2),
        ("depth", 4),
    }
    assert {row.seed for row in rows} == {0, 1, 2}
    (_, matrices), *lines = figures(result, rows)
    assert len(lines) == 2, "along width, and along depth"
    assert isinstance(matrices, list) and len(each_of([("matrices", matrices)])) == 2
    assert all(len(each_of([panels])) > 10 for panels in lines)


@pytest.mark.parametrize(
    "settings",
    [{"widths": (32,)}, {"widths": (32, 40)}, {"seeds": 2}, {"depths": (1, 2)}, {"depths": (4, 4)}],
)
def test_a_design_that_gives_no_slope_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        check(tmp_path, None, Design(**settings), Watch())
    assert not list(tmp_path.iterdir())
