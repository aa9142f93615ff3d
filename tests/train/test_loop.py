"""The loop learns, records what it does, and gives today the losses that it gave when these
numbers were written.
"""

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, Recipe
from windtunnel.results.run import Engine, Validation
from windtunnel.train import checkpoint, loop
from windtunnel.train.branch import branch
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.objective import Objective, document_numbers
from windtunnel.train.run import Run, create

Make = Callable[..., Recipe]
BATCH = 128
GOLDEN = {
    1: 5.836079,
    10: 4.905993,
    50: 3.593644,
}  # by step; what changes them is a change of RESULTS_VERSION


def at_once(micro_batch: int) -> Engine:
    """Eager fp32 on the CPU, with so many tokens at once."""
    return Engine(
        device="cpu", precision="fp32", compiled=False, micro_batch=micro_batch, threads=1
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, recipe: Make, corpus: Corpus) -> Run:
    run = create(tmp_path_factory.mktemp("lab"), recipe(), corpus)
    train(run, corpus)
    return run


def losses(run: Run) -> dict[int, float]:
    return {step.tokens // BATCH: step.loss for step in run.steps()}


@pytest.mark.parametrize("frozen", [False, True])
def test_the_collector_is_out_of_the_way_and_afterwards_as_it_was(
    frozen: bool, tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    gc.unfreeze()
    if frozen:
        gc.freeze()
    seen: list[tuple[bool, int]] = []
    run = create(tmp_path, recipe(schedule={"tokens": 10 * BATCH}), corpus)
    watch = Watch(step=lambda *_: seen.append((gc.isenabled(), gc.get_freeze_count())))
    train(run, corpus, watch)
    gc_on, counts = zip(*seen, strict=True)
    assert not any(gc_on) and gc.isenabled()
    assert min(counts) > 10_000, "nothing of what was imported is looked through"
    assert (gc.get_freeze_count() > 10_000) is frozen
    gc.freeze()


def test_golden_losses(trained: Run) -> None:
    found = losses(trained)
    assert {step: found[step] for step in GOLDEN} == pytest.approx(GOLDEN, rel=1e-4)


def test_it_begins_near_a_uniform_guess_and_learns(trained: Run) -> None:
    found = losses(trained)
    assert abs(found[1] - math.log(320)) < 1
    assert np.mean([found[step] for step in range(41, 51)]) < found[1] - 0.5


def test_every_step_is_recorded_once_with_its_rate(trained: Run) -> None:
    steps = trained.steps()
    assert [step.tokens for step in steps] == list(range(BATCH, 51 * BATCH, BATCH))
    rates = [step.lr / 0.01 for step in steps]
    assert rates[:5] == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8, 1])
    assert rates[44:] == pytest.approx([1, 0.9, 0.7, 0.5, 0.3, 0.1])
    assert all(step.tokens_per_s > 0 and 0 < step.peak_share < 1 for step in steps)


def test_it_is_evaluated_and_saved_when_asked_and_at_the_end(trained: Run) -> None:
    evaluated = [line.tokens // BATCH for line in trained.validations()]
    assert evaluated == [25, 45, 50], "half-way, where the decay begins, and at the end"
    assert [int(p.name) // BATCH for p in sorted(trained.checkpoints.iterdir())] == [45, 50]
    assert trained.summary().status == "done"


def test_validation_agrees_with_the_model_on_the_held_out_text(
    trained: Run, corpus: Corpus
) -> None:
    """Loss in nats a token and bits a byte of the same text, by source and over all."""
    last = trained.validations()[-1].validation
    model, weight, total, bits, text = load_model(trained), 0, 0.0, 0.0, 0.0
    for name, source in corpus.sources.items():
        windows, there = 256 // 32, (source.validation.tokens - 1) // 32
        spread = np.array([math.floor((i + 0.5) * there / windows) for i in range(windows)])
        assert there > windows or name != "prose"
        tokens = source.validation.read(32 * spread, 33)
        held = torch.from_numpy(tokens)
        with torch.no_grad():
            logits = model.logits(held[:, :-1])
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).double(), held[:, 1:].flatten()
        ).item()
        size = int(corpus.tokenizer.token_bytes[tokens[:, 1:]].sum())
        score = last.sources[name]
        assert score.tokens == windows * 32
        assert score.loss == pytest.approx(nats, rel=1e-5)
        assert score.bits_per_byte == pytest.approx(
            score.loss * score.tokens / size / math.log(2), rel=1e-9
        )
        # Windows of training text: without a mixture, each is read as often as any other.
        share = (source.train.tokens - 1) // 32
        weight, total, bits, text = (
            weight + share,
            total + share * score.loss,
            bits + share * score.loss / math.log(2),
            text + share * size / score.tokens,
        )
    assert last.loss == pytest.approx(total / weight)
    assert last.bits_per_byte == pytest.approx(bits / text)
    assert trained.summary().loss == last.loss


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("micro", [32, 64, 128])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    recipe: Make, corpus: Corpus, micro: int, experts: int
) -> None:
    """That of the load-balancing loss, too: it is of each window by itself."""
    batch = corpus.sources["prose"].train.read(np.arange(4) * 32, 33)

    def gradients(tokens: int) -> tuple[float, dict[str, torch.Tensor]]:
        model = Decoder(recipe().model.model_copy(update={"experts": experts}), 32, 0)
        engine = at_once(tokens)
        loss = Objective(model, engine, balance=1.0).add_gradient(torch.from_numpy(batch))
        return loss.item(), {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }

    (loss, parts), (expected, whole) = gradients(micro), gradients(128)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert parts.keys() == whole.keys() and len(parts) == 20 + (2 if experts else 0)
    for name in whole:
        assert (parts[name] - whole[name]).norm() <= 1e-5 * whole[name].norm()


def test_the_load_balancing_loss_is_learnt_with_its_weight_and_not_reported(
    recipe: Make, corpus: Corpus
) -> None:
    batch = torch.from_numpy(corpus.sources["prose"].train.read(np.arange(4) * 32, 33))
    engine, losses, slopes = at_once(64), [], []
    for weight in (0.0, 0.5):
        model = Decoder(recipe().model.model_copy(update={"experts": 4}), 32, 0)
        losses.append(Objective(model, engine, balance=weight).add_gradient(batch).item())
        slopes.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert losses[0] == losses[1]
    model = Decoder(recipe().model.model_copy(update={"experts": 4}), 32, 0)
    uneven = model.losses_and_unevenness(batch[:, :-1], batch[:, 1:])[1]
    assert uneven is not None and uneven.shape == (4,) and (uneven > 2 * 0.9).all()  # two layers
    uneven.mean().backward()
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            added = slopes[1][name] - slopes[0][name]
            assert (added - 0.5 * p.grad).norm() <= 1e-3 * p.grad.norm() + 1e-6, name


@pytest.mark.parametrize("micro", [32, 128])
def test_what_is_read_but_not_learnt_has_no_loss(recipe: Make, corpus: Corpus, micro: int) -> None:
    """The mean goes over the targets that are learnt, however the batch is cut; all tokens are
    seen as they are.
    """
    batch = torch.from_numpy(corpus.sources["prose"].train.read(np.arange(4) * 32, 33))
    hidden = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    model = Decoder(recipe().model, 32, 0)
    objective = Objective(model, at_once(micro), kind=OBJECTIVES["answers"])
    loss = objective.add_gradient(torch.where(hidden, ~batch, batch))
    mine = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    nats = torch.nn.functional.cross_entropy(
        model.logits(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
    )
    expected = nats[~hidden[:, 1:].flatten()].mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None and (mine[name] - p.grad).norm() <= 1e-4 * p.grad.norm()
    assert objective.add_gradient(~batch).item() == 0, "a batch with nothing to learn"


def test_a_run_in_parts_has_the_losses_of_the_whole(
    tmp_path: Path, recipe: Make, corpus: Corpus, trained: Run
) -> None:
    run = create(tmp_path, recipe(train={"micro_batch": 32}), corpus)
    train(run, corpus)
    assert losses(run) == pytest.approx(losses(trained), rel=1e-4)


def test_an_end_token_is_the_last_of_its_document() -> None:
    found = document_numbers(torch.tensor([[5, 0, 6, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 6]]), end=0)
    assert found.tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


def test_cut_at_documents_it_learns_something_else(
    tmp_path: Path, recipe: Make, corpus: Corpus, trained: Run
) -> None:
    run = create(tmp_path, recipe(data={"mask_documents": True}), corpus)
    assert train(run, corpus).status == "done"
    assert losses(run) != losses(trained)


def test_asked_to_stop_it_saves_and_goes_on_to_the_same_end(
    tmp_path: Path, recipe: Make, corpus: Corpus, trained: Run
) -> None:
    run = create(tmp_path, recipe(), corpus)
    for stops in ([17], [20, 3], []):
        left = iter(stops[0] * [False] + [True] if stops else [])
        summary = train(run, corpus, Watch(stop=lambda left=left: next(left, False)))
    assert summary.status == "done"
    assert losses(run) == losses(trained)
    ours, theirs = load_model(run), load_model(trained)
    assert all(torch.equal(p, theirs.get_parameter(name)) for name, p in ours.named_parameters())


def test_a_run_that_is_done_is_not_touched(trained: Run, corpus: Corpus) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.path.rglob("*") if p.name != "lock"}
    assert train(trained, corpus) == trained.summary()
    assert before == {p: p.stat().st_mtime_ns for p in trained.path.rglob("*") if p.name != "lock"}


def test_a_branch_may_read_another_mixture(tmp_path: Path, stem: Make, corpus: Corpus) -> None:
    parent = create(tmp_path, stem(20 * BATCH), corpus)
    train(parent, corpus)
    made = branch(parent, corpus, 20 * BATCH, 5 * BATCH, mixture={"notes": 1})
    plain = branch(parent, corpus, 20 * BATCH, 5 * BATCH)
    assert {train(made, corpus).tokens, train(plain, corpus).tokens} == {25 * BATCH}
    assert losses(made).keys() == losses(plain).keys() == set(range(21, 26))
    assert losses(made) != losses(plain)


def test_a_diverging_run_fails_with_its_last_good_checkpoint(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    wild = recipe(optimizer={"lr": 1e4, "clip": 0}, train={"checkpoint_every": BATCH})
    run = create(tmp_path, wild, corpus)
    summary = train(run, corpus)
    assert summary.status == "failed" and "at step" in summary.reason
    assert all(torch.isfinite(p).all() for p in load_model(run).parameters())
    assert train(run, corpus) == summary
    assert json.loads((run.path / "status.json").read_text())["status"] == "failed"


def test_a_model_is_loaded_at_a_checkpoint_that_is_there(trained: Run) -> None:
    early, late = load_model(trained, 45 * BATCH), load_model(trained)
    assert not torch.equal(early.embedding, late.embedding)
    with pytest.raises(InputError, match="no checkpoint at 5 tokens; there are: 5760, 6400"):
        load_model(trained, 5)


def test_what_was_trained_is_safe_before_it_is_evaluated_and_the_validation_is_made_up_for(
    tmp_path: Path, recipe: Make, corpus: Corpus, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a GPU has no room for a validation, at the end of the run and in its middle."""
    run = create(tmp_path, recipe(), corpus)
    # in the middle, where the decay begins, and at the end
    for position, room in ((25, 0), (45, 1), (50, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "validate", with_room_for(room, loop.validate))
            with pytest.raises(MemoryError):
                train(run, corpus)
        assert max(checkpoint.positions(run.checkpoints)) == position * BATCH
        assert run.status().status == "interrupted"
    assert train(run, corpus).status == "done"
    assert losses(run) == losses(trained)
    assert run.validations() == trained.validations()
    assert run.summary().loss == trained.summary().loss


def with_room_for(calls: int, validate: Callable[..., Any]) -> Callable[..., Any]:
    """So many validations, and then there is no room."""
    made: list[int] = []

    def validated(*given: Any, **named: Any) -> Any:
        made.append(1)
        if len(made) > calls:
            raise MemoryError
        return validate(*given, **named)

    return validated


def test_a_checkpoint_whose_validation_is_no_number_is_not_kept(
    tmp_path: Path, recipe: Make, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it push out those before it."""
    run = create(tmp_path, recipe(train={"keep": 1}), corpus)
    found = loop.validate

    def no_number(*given: Any, **named: Any) -> list[Validation | None]:
        made = found(*given, **named)
        if run.validations():
            made = [one and one.model_copy(update={"loss": math.nan}) for one in made]
        return made

    monkeypatch.setattr(loop, "validate", no_number)
    summary = train(run, corpus)
    assert summary.status == "failed" and summary.tokens == 45 * BATCH, "where the decay begins"
    (kept,) = checkpoint.positions(run.checkpoints)
    assert 25 * BATCH <= kept < 45 * BATCH


def test_another_machine_says_that_it_computes_as_the_run_was_begun_and_may_choose_anew(
    tmp_path: Path, recipe: Make, corpus: Corpus
) -> None:
    short = {"tokens": 10 * BATCH}
    run = create(tmp_path, recipe(schedule=short), corpus)
    begun = choose_engine(run.recipe).model_copy(update={"micro_batch": 64})
    begun.write(run.path / "engine.json")
    said: list[str] = []
    train(run, corpus, Watch(say=said.append))
    assert "64 tokens at once" in said[1]
    assert said[0].startswith(f"{run.id}: it is computed as it was begun, and not as this machine")
    assert "128 tokens at once" in said[0] and "--engine anew" in said[0]
    other = create(tmp_path, recipe(seed=3, schedule=short), corpus)
    said.clear()
    begun.write(other.path / "engine.json")
    other.forget_engine()
    train(other, corpus, Watch(say=said.append))
    assert "128 tokens at once" in said[0] and other.begun_on() == choose_engine(other.recipe)
