"""Members of a population end as the runs that they would be alone: each with its own settings,
beginning and end.
"""

import functools
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.data.shards import Corpus
from windtunnel.recipe import Recipe
from windtunnel.train import loop
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, load_model, population_key, train, train_together
from windtunnel.train.run import Run, create
from windtunnel.train.step import Step

Make = Callable[..., Recipe]
BATCH = 128
STEPS = 25

# what members may differ in: seed (init and data), everything of the optimiser, multipliers,
# init, the table of roles, length, schedule and mixture
VARIANTS: list[dict[str, Any]] = [
    {},
    {"seed": 1, "optimizer": {"lr": 0.003, "weight_decay": 0.05}},
    {
        "model": {"init_std": 0.05, "scale_emb": 5.0, "scale_depth": 0.7},
        "optimizer": {"beta1": 0.8, "beta2": 0.99},
    },
    {
        "schedule": {
            "tokens": 1920,
            "warmup": 1024,
            "decay": "30%",
            "decay_shape": "exponential",
            "floor": 0.1,
        }
    },
    {
        "schedule": {"tokens": 2560, "warmup": 256, "kind": "cosine"},
        "optimizer": {"clip": 0.1, "eps": 1e-3},
    },
    {"model": {"parametrization": "standard"}, "data": {"mixture": {"notes": 1.0, "prose": 2.0}}},
]


def short(recipe: Make, **sections: Any) -> Recipe:
    """The tiny recipe, of half as many steps."""
    return recipe(schedule={"tokens": STEPS * BATCH} | sections.pop("schedule", {}), **sections)


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, recipe: Make, corpus: Corpus
) -> Callable[[int], Run]:
    """The run of a variant, trained by itself."""
    lab = tmp_path_factory.mktemp("alone")

    @functools.cache
    def trained(index: int) -> Run:
        (run,) = made(lab, recipe, corpus, [index])
        train(run, corpus)
        return run

    return trained


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Make, corpus: Corpus) -> list[Run]:
    """The first three variants, trained together in one go."""
    runs = made(tmp_path_factory.mktemp("whole"), recipe, corpus, [0, 1, 2])
    train_together(runs, corpus, [Watch()] * 3)
    return runs


def variant(recipe: Make, index: int) -> Recipe:
    settings = VARIANTS[index] | {"name": f"variant-{index}"}
    if "model" in settings:
        settings["model"] = recipe().model.model_dump() | settings["model"]
    return short(recipe, **settings)


def made(lab: Path, recipe: Make, corpus: Corpus, indices: range | list[int]) -> list[Run]:
    return [create(lab, variant(recipe, index), corpus) for index in indices]


def steps(run: Run) -> dict[int, tuple[float, float, float]]:
    return {step.tokens: (step.loss, step.grad_norm, step.lr) for step in run.steps()}


def same(together: Run, alone: Run, rel: float = 2e-4) -> None:
    """Every step, every validation, and the weights at the end, to within what rounding makes of
    them in fp32.
    """
    ours, theirs = steps(together), steps(alone)
    assert ours.keys() == theirs.keys() and ours
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=rel * 10)
    np.testing.assert_allclose(
        [v[0] for v in ours.values()], [v[0] for v in theirs.values()], rtol=rel
    )
    scores = [
        [(line.tokens, line.validation.loss) for line in run.validations()]
        for run in (together, alone)
    ]
    np.testing.assert_allclose(*scores, rtol=rel)
    assert together.summary().status == alone.summary().status == "done"
    ours_at_end, at_end = load_model(together), load_model(alone)
    for name, weight in at_end.named_parameters():
        assert (ours_at_end.get_parameter(name) - weight).norm() <= 5e-3 * weight.norm(), name
    there = [sorted(int(p.name) for p in run.checkpoints.iterdir()) for run in (together, alone)]
    assert there[0] == there[1]


def test_members_end_as_they_would_alone(
    tmp_path: Path, recipe: Make, corpus: Corpus, alone: Callable[[int], Run]
) -> None:
    together = made(tmp_path, recipe, corpus, range(6))
    assert len({population_key(run) for run in together}) == 1
    train_together(together, corpus, [Watch()] * 6)
    for index, ours in enumerate(together):
        same(ours, alone(index))


def test_members_with_experts_end_as_they_would_alone(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """Each with its own weight of the load-balancing loss."""
    model = recipe().model.model_dump() | {"experts": 4}
    recipes = [
        short(recipe, seed=seed, model=model, optimizer={"balance": w})
        for seed, w in enumerate((0.0, 0.01, 0.3))
    ]
    together, alone = (
        [create(tmp_path / label, r, corpus) for r in recipes] for label in ("together", "alone")
    )
    assert len({population_key(run) for run in together}) == 1
    train_together(together, corpus, [Watch()] * 3)
    for ours, theirs in zip(together, alone, strict=True):
        train(theirs, corpus)
        same(ours, theirs)


def test_a_member_that_diverges_does_not_touch_the_others(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    """Not even by rounding: the others have the bits that they have beside a member that goes
    well.
    """
    wild = short(recipe, name="wild", optimizer={"lr": 1e4, "clip": 0.0})
    tame = short(recipe, name="tame", seed=9)
    last: list[list[torch.Tensor]] = []
    for label, third in (("wild", wild), ("tame", tame)):
        lab = tmp_path / label
        runs = [*made(lab, recipe, corpus, [0, 1, 2]), create(lab, third, corpus)]
        train_together(runs, corpus, [Watch()] * 4)
        assert [run.summary().status for run in runs[:3]] == ["done"] * 3
        assert runs[3].summary().status == ("failed" if label == "wild" else "done")
        last.append([p.detach() for run in runs[:3] for p in load_model(run).parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*last, strict=True))


def test_the_place_in_a_population_does_not_matter(
    tmp_path: Path, recipe: Make, corpus: Corpus, whole: list[Run]
) -> None:
    back = made(tmp_path, recipe, corpus, [2, 1, 0])
    train_together(back, corpus, [Watch()] * 3)
    for ours, theirs in zip(whole, reversed(back), strict=True):
        assert steps(ours) == steps(theirs)


def test_branches_of_one_stem_decay_together_from_where_each_leaves_it(
    tmp_path: Path, stem: Make, corpus: Corpus
) -> None:
    leaves = {10: 5, 15: 12, 20: 3}
    labs = []
    for label in ("together", "alone"):
        parent = create(
            tmp_path / label, stem(20 * BATCH, branch_points=[at * BATCH for at in leaves]), corpus
        )
        train(parent, corpus)
        labs.append(
            [branch(parent, corpus, at * BATCH, decay * BATCH) for at, decay in leaves.items()]
        )
    train_together(labs[0], corpus, [Watch()] * 3)
    for ours, theirs in zip(*labs, strict=True):
        train(theirs, corpus)
        same(ours, theirs)


@pytest.mark.parametrize("stops", [[3], [9, 6]])
def test_asked_to_stop_all_save_and_go_on_to_the_same_end(
    tmp_path: Path, recipe: Make, corpus: Corpus, stops: list[int], whole: list[Run]
) -> None:
    runs = made(tmp_path, recipe, corpus, [0, 1, 2])
    for stop in stops:
        left = iter([*[False] * stop, True])
        watches = [Watch(), Watch(stop=lambda left=left: next(left, False)), Watch()]
        summaries = train_together(runs, corpus, watches)
        assert [summary.status for summary in summaries] == ["interrupted"] * 3
    train_together(runs, corpus, [Watch()] * 3)
    for ours, theirs in zip(runs, whole, strict=True):
        assert steps(ours) == steps(theirs)


def test_members_that_stand_at_different_places_go_on_together(
    tmp_path: Path, recipe: Make, corpus: Corpus, alone: Callable[[int], Run]
) -> None:
    """As when a study was killed between the checkpoints of two members, or a member is new."""
    runs = made(tmp_path, recipe, corpus, [0, 1])
    left = iter([*[False] * 7, True])
    train(runs[1], corpus, Watch(stop=lambda: next(left, False)))
    train_together(runs, corpus, [Watch()] * 2)
    for index, ours in enumerate(runs):
        same(ours, alone(index))


def test_who_is_done_is_not_touched(tmp_path: Path, recipe: Make, corpus: Corpus) -> None:
    runs = made(tmp_path, recipe, corpus, [0, 1, 2])
    train(runs[0], corpus)
    before = {p: p.stat().st_mtime_ns for p in runs[0].path.rglob("*") if p.name != "lock"}
    train_together(runs, corpus, [Watch()] * 3)
    assert before == {p: p.stat().st_mtime_ns for p in runs[0].path.rglob("*") if p.name != "lock"}
    assert [run.summary().status for run in runs] == ["done"] * 3


def test_runs_of_one_population_share_what_one_set_of_kernels_needs(
    tmp_path: Path, recipe: Make, stem: Make, corpus: Corpus
) -> None:
    first = population_key(create(tmp_path, recipe(), corpus))
    for other in (
        recipe(data={"mask_documents": True}),
        recipe(data={"context": 64}),
        recipe(train={"batch": 256}),
        recipe(seed=1, train={"evaluate_tokens": 512}),
        recipe(train={"precision": "bf16"}),
        recipe(model=recipe().model.model_dump() | {"depth": 3}),
        recipe(model=recipe().model.model_dump() | {"rope_base": 5e4}),
    ):
        assert population_key(create(tmp_path, other, corpus)) != first
    parent = create(tmp_path, stem(20 * BATCH), corpus)
    train(parent, corpus)
    replayed = [branch(parent, corpus, 6 * BATCH, 4 * BATCH, lr=lr) for lr in (0.02, 0.03)]
    assert population_key(replayed[0]) != population_key(replayed[1]), (
        "each begins with steps of its parent's, at its parent's rate"
    )


def test_a_population_that_goes_on_smaller_leaves_nothing_of_the_larger_one(
    tmp_path: Path, recipe: Make, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model, and what a GPU has captured of it, would live beside the new one to the end."""
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    seen: list[int] = []

    class Counted(Step):
        def __init__(self, recipes: Sequence[Recipe], *given: Any) -> None:
            super().__init__(recipes, *given)
            alive.update([self.model, self._objective])

    monkeypatch.setattr(loop, "Step", Counted)
    runs = made(tmp_path, recipe, corpus, [1, 3, 4])
    watch = Watch(step=lambda *_: seen.append(len(alive)))
    gc.unfreeze()  # as in a process that no test has prepared
    try:
        train_together(runs, corpus, [watch, Watch(), Watch()])
    finally:
        gc.freeze()
    assert set(seen) == {2}, "a model and its objective, before and after"
