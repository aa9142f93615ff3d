"""Experts made of a trained feed-forward: the same model at first, then a run like any other."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.upcycle import Asked, upcycle
from windtunnel.quantities import Length
from windtunnel.recipe import Recipe
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, open_run

BATCH = 128
TOKENS = 20 * BATCH
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make, corpus: Corpus) -> tuple[Any, Run]:
    """A lab with one stem of 30 steps, a checkpoint at 20 of them. Tests give what they add names
    of their own.
    """
    lab = make_lab()
    run = create(lab.path, stem(30 * BATCH, branch_points=[20 * BATCH]), corpus)
    assert train(run, corpus).status == "done"
    return lab, run


def stopped_at(steps: int) -> Watch:
    left = iter([*[False] * (steps - 1), True])
    return Watch(stop=lambda: next(left, False))


@pytest.mark.parametrize("at", [None, 20 * BATCH])
def test_it_begins_as_what_the_run_was(
    trained: tuple[Any, Run], corpus: Corpus, at: int | None
) -> None:
    """At no rate at all, so that a step changes nothing: the same loss of the same text, the same
    logits.
    """
    parent, tokens = trained[1], torch.arange(32)[None] % 60
    asked = Asked(tokens=TOKENS, experts=4, at=at, lr=1e-30, name=f"still-{at}")
    run = upcycle(parent, corpus, asked)
    train(run, corpus, stopped_at(1))
    grown, dense = load_model(run), load_model(parent, at)
    torch.testing.assert_close(grown.logits(tokens), dense.logits(tokens), rtol=1e-4, atol=1e-4)
    for name, weight in dense.named_parameters():
        copies = grown.get_parameter(name)
        assert torch.allclose(copies, weight.expand(copies.shape), atol=1e-6), name
    routers = [weight for name, weight in grown.named_parameters() if name.endswith("router")]
    # the paper's variance of 0.01, and not the table's share of the width
    assert torch.cat(routers).std().item() == pytest.approx(parent.recipe.model.init_std, rel=0.15)
    assert not torch.equal(*routers[:2])


def test_it_learns_and_its_experts_part(trained: tuple[Any, Run]) -> None:
    """By the real command line; asked again, the run is there."""
    lab, parent = trained
    asked = (
        "upcycle",
        parent.id,
        "--tokens",
        60 * BATCH,
        "--experts",
        4,
        "--decay",
        "50%",
        "--name",
        "parted",
    )
    summary = lab.json(*asked)
    run = open_run(Path(summary["path"]))
    assert summary["status"] == "done" and summary["loss"] < parent.summary().loss
    assert (run.kind, run.parent, run.anew, run.recipe.model.experts) == ("run", parent.id, True, 4)
    gate = load_model(run).get_parameter("layers.0.gate")
    assert all(
        (gate[i] - gate[j]).norm() > 0.01 * gate[i].norm() for i in range(4) for j in range(i)
    )
    last = run.validations()[-1].validation
    assert 0.9 < (last.unevenness or 0) < 1.5, "2 where all goes to the same two of four"
    assert parent.validations()[-1].validation.unevenness is None
    assert lab.json(*asked) == summary


def test_interrupted_and_gone_on_with_it_ends_in_the_same_bits(
    trained: tuple[Any, Run], corpus: Corpus, tmp_path: Path
) -> None:
    ends = []
    for place, stops in (("whole", ()), ("parts", (7, 5))):
        shutil.copytree(trained[0].path, tmp_path / place)
        parent = open_run(tmp_path / place / "runs" / trained[1].id)
        run = upcycle(parent, corpus, Asked(tokens=TOKENS, experts=4))
        for steps in stops:
            assert train(run, corpus, stopped_at(steps)).status == "interrupted"
        assert train(run, corpus).status == "done"
        ends.append(list(load_model(run).parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_stem_of_experts_is_branched(trained: tuple[Any, Run], corpus: Corpus) -> None:
    run = upcycle(trained[1], corpus, Asked(tokens=TOKENS, experts=4, decay=Length(), name="stem"))
    assert run.recipe.is_stem
    train(run, corpus)
    tail = branch(run, corpus, TOKENS, 10 * BATCH)
    assert train(tail, corpus).status == "done" and tail.recipe.model.experts == 4
    assert tail.summary().loss < run.summary().loss


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"experts": 4, "experts_per_token": 5}, "experts_per_token=5, but there are 4 experts"),
        ({"at": 5}, "no checkpoint at 5 tokens; there are: "),
        ({"tokens": BATCH - 1}, "less than one batch of 128"),
    ],
)
def test_what_cannot_be_is_said(
    trained: tuple[Any, Run], corpus: Corpus, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        upcycle(trained[1], corpus, Asked(**({"tokens": TOKENS} | asked)))


def test_it_goes_on_with_the_data_that_the_run_read_last(
    make_lab: Any, stem: Make, corpus: Corpus
) -> None:
    lab = make_lab()
    mixed = stem(30 * BATCH, branch_points=[10 * BATCH])
    mixed = mixed.change(
        data={"mixture": {"prose": 1.0}, "stages": ({"at": 20 * BATCH, "mixture": {"notes": 2.0}},)}
    )
    run = create(lab.path, mixed, corpus)
    train(run, corpus)
    late, early = (
        upcycle(run, corpus, Asked(tokens=TOKENS, experts=2, at=at)).recipe
        for at in (None, 10 * BATCH)
    )
    assert (late.data.mixture, early.data.mixture, late.data.stages) == (
        {"notes": 2.0},
        {"prose": 1.0},
        (),
    )
    assert late.seed != run.recipe.seed, "in another order"


def test_it_leaves_a_decayed_run_before_its_decay(
    make_lab: Any, recipe: Make, corpus: Corpus
) -> None:
    lab = make_lab()
    run = create(
        lab.path,
        recipe(schedule={"tokens": 20 * BATCH, "warmup": BATCH, "decay": "25%"}, train={"keep": 9}),
        corpus,
    )
    train(run, corpus)
    assert upcycle(run, corpus, Asked(tokens=TOKENS)).at_tokens == 15 * BATCH
    assert upcycle(run, corpus, Asked(tokens=TOKENS, at=20 * BATCH)).at_tokens == 20 * BATCH


def test_a_stem_is_extended_and_another_decay_is_straight(
    trained: tuple[Any, Run], corpus: Corpus, make_lab: Any, recipe: Make
) -> None:
    short, long = (
        upcycle(trained[1], corpus, Asked(tokens=n * BATCH, experts=2, decay=Length()))
        for n in (100, 300)
    )
    assert short.path == long.path and long.recipe.total_tokens == 300 * BATCH
    lab = make_lab()
    curved = {
        "tokens": 20 * BATCH,
        "warmup": BATCH,
        "decay": "25%",
        "decay_shape": "exponential",
        "half_life": "40%",
    }
    run = create(lab.path, recipe(schedule=curved), corpus)
    train(run, corpus)
    schedule = upcycle(run, corpus, Asked(tokens=TOKENS)).recipe.schedule
    assert (schedule.decay_shape, schedule.floor, schedule.half_life.of(TOKENS)) == (
        "linear",
        0.0,
        0,
    )


def test_a_rate_of_zero_is_not_taken_for_none(trained: tuple[Any, Run], corpus: Corpus) -> None:
    with pytest.raises(InputError, match="lr"):
        upcycle(trained[1], corpus, Asked(tokens=TOKENS, lr=0.0))


def test_experts_are_not_made_of_experts(trained: tuple[Any, Run], corpus: Corpus) -> None:
    run = upcycle(trained[1], corpus, Asked(tokens=TOKENS, experts=4, name="once"))
    with pytest.raises(InputError, match="has 4 experts already"):
        upcycle(run, corpus, Asked(tokens=TOKENS))
