"""What is recorded of a step, where all is known in closed form; and that the gradient which is
taken again is the one that the step took.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import write_chats

from windtunnel.data.chat import build_chat
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import role_of
from windtunnel.recipe import Recipe
from windtunnel.results.dynamics import StepRecord
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import create
from windtunnel.train.step import Step
from windtunnel.tunnel.dynamics.recorder import (
    Recorder,
    _largest_changes,
    gradient_of,
    measure,
)


class Quadratic:
    """f(x) = x'Ax/2 under gradient descent: in the eigenbasis the gradient after t steps is l (1
    - rate l)^t c.
    """

    def __init__(self, rng: np.random.Generator, rate: float, size: int = 12) -> None:
        self.basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        self.eigenvalues = rng.uniform(0.1, 5.0, size)
        self.matrix = self.basis @ np.diag(self.eigenvalues) @ self.basis.T
        self.start, self.rate = rng.normal(size=size), rate

    def spectrum(self, step: int) -> np.ndarray:
        return (
            self.eigenvalues
            * (1 - self.rate * self.eigenvalues) ** step
            * (self.basis.T @ self.start)
        )


@pytest.mark.parametrize(
    "rate", [0.05, 0.38]
)  # 0.38: the largest eigenvalues overshoot, successive gradients disagree
def test_on_a_quadratic_every_number_is_the_closed_form(
    rng: np.random.Generator, rate: float
) -> None:
    problem = Quadratic(rng, rate)
    x = problem.start
    for step in range(20):
        g = problem.matrix @ x
        next_x = x - rate * g
        found = measure(x, g, next_x, problem.matrix @ next_x, problem.matrix @ next_x)

        now, after = problem.spectrum(step), problem.spectrum(step + 1)
        d1 = -(now @ after) / np.linalg.norm(now)
        d2 = (problem.eigenvalues * now**2).sum() / (
            now**2
        ).sum()  # the Rayleigh quotient of A along the step
        expected = {
            "max_change": rate * np.abs(problem.basis @ now).max(),
            "step_norm": rate * np.linalg.norm(now),
            "grad_norm": np.linalg.norm(now),
            "max_gradient": np.abs(problem.basis @ now).max(),
            "inner_product": now @ after,
            "cosine": now @ after / np.linalg.norm(now) / np.linalg.norm(after),
            "d1": d1,
            "d2": d2,
            "curvature": d2 / (1 + d1**2) ** 1.5,
            "d2_same_batch": d2,
        }
        assert found.model_dump() == pytest.approx(expected, rel=1e-9)
        x = next_x


def test_noise_of_two_batches_is_in_d2_and_not_in_that_of_one(rng: np.random.Generator) -> None:
    """A batch here adds a constant to the gradient: the curvature does not know of it."""
    problem = Quadratic(rng, rate=0.1)
    x, first, second = problem.start, rng.normal(size=12), rng.normal(size=12)
    g = problem.matrix @ x + first
    v = -0.1 * g
    found = measure(
        x, g, x + v, problem.matrix @ (x + v) + second, problem.matrix @ (x + v) + first
    )
    true = v @ problem.matrix @ v / (v @ v)
    assert found.d2_same_batch == pytest.approx(true)
    assert found.d2 == pytest.approx(true + (second - first) @ v / (v @ v))


@pytest.fixture(scope="module")
def conversations(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("chats")
    files = [write_chats(folder / "chats.jsonl")]
    return build_chat(folder, files, corpus.folder / "tokenizer.json", 32)


def standing(step: Step) -> np.ndarray:
    gradients = [p.grad.flatten() for p in step.model.parameters() if p.grad is not None]
    return np.concatenate([gradient.numpy() for gradient in gradients])


@pytest.mark.parametrize("held", ["text", "conversations"])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"data": {"mask_documents": True}}, id="documents masked"),
        pytest.param(
            {"model": {"experts": 4, "ffn": 32}, "optimizer": {"balance": 0.5}}, id="experts"
        ),
    ],
)
def test_the_gradient_that_is_taken_again_is_that_of_the_training_step(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    recipe: Callable[..., Recipe],
    held: str,
    asked: dict[str, Any],
) -> None:
    """At the same parameters, to the bit, whatever the step minimises; and it leaves the step's own
    gradient as it was.
    """
    corpus = request.getfixturevalue("corpus" if held == "text" else held)
    length = {"schedule": {"tokens": 3 * 128, "warmup": 0}, "train": {"micro_batch": 64}}
    run = create(tmp_path, recipe(**length, **asked), corpus)
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    seen = []

    def gradient(step: Step, position: int) -> None:
        taken = standing(step)
        again = gradient_of(windows.read(position, 128), step)
        np.testing.assert_array_equal(again, taken)
        np.testing.assert_array_equal(standing(step), taken)
        assert np.abs(taken).max() > 0
        seen.append(position)

    train(run, corpus, Watch(gradient=gradient))
    assert seen == [0, 128, 256]


BATCH = 128  # of the tiny recipe


def record(tokens: int) -> StepRecord:
    numbers = dict.fromkeys(StepRecord.model_fields, 1.0)
    return StepRecord.model_validate(numbers | {"tokens": tokens, "max_changes": {}})


@pytest.fixture
def recorder(tmp_path: Path, recipe: Callable[..., Recipe], corpus: Corpus) -> Recorder:
    """Of a run of 50 steps, with a folder."""
    made = Recorder(create(tmp_path, recipe(), corpus), corpus)
    made.folder.mkdir()
    return made


def keep(recorder: Recorder, tokens: int, at: float) -> None:
    """A step whose weights and gradients are `at` and -`at`."""
    recorder._last = np.full(3, at), np.full(3, -at)
    recorder._waiting.append(record(tokens))
    recorder.keep(tokens)


def kept(recorder: Recorder) -> list[str]:
    return sorted(path.name for path in recorder.folder.glob("*.npy"))


def test_weights_and_gradients_are_kept_before_every_checkpoint_that_may_be_gone_on_from(
    recorder: Recorder,
) -> None:
    keep(recorder, BATCH, 1.0)
    assert kept(recorder) == ["000000000000128.npy"]
    (recorder.run.checkpoints / "000000000000128").mkdir(parents=True)
    keep(recorder, 2 * BATCH, 2.0)
    recorder.saving(2 * BATCH)
    keep(recorder, 3 * BATCH, 3.0)
    # the checkpoint's, that of one that is being written, and the last step's: one is about to be
    # saved
    assert kept(recorder) == [f"{at * BATCH:015d}.npy" for at in (1, 2, 3)]
    x, g = np.load(recorder.folder / "000000000000384.npy")
    assert (x.tolist(), g.tolist()) == ([3.0] * 3, [-3.0] * 3)
    assert [one.tokens for one in recorder.records(4 * BATCH)] == [BATCH, 2 * BATCH, 3 * BATCH]
    lines = recorder.file.read_text().splitlines()
    assert len(lines) == 3, "each once"


def test_behind_the_last_step_nothing_is_needed(recorder: Recorder) -> None:
    total = recorder.run.recipe.total_tokens
    keep(recorder, total - BATCH, 1.0)
    assert len(kept(recorder)) == 1
    recorder.saved(total - BATCH)
    keep(recorder, total, 2.0)
    # until the end is on the disk, a killed run goes on from before it
    assert f"{total:015d}.npy" in kept(recorder)
    recorder.saved(total)
    assert kept(recorder) == []


@pytest.mark.parametrize(
    ("tokens", "until", "whole"),
    [
        ([BATCH, 2 * BATCH], 3 * BATCH, True),
        ([BATCH, 2 * BATCH], 2 * BATCH, True),
        ([BATCH, 3 * BATCH], 4 * BATCH, False),
        ([2 * BATCH], 3 * BATCH, False),
        ([BATCH, 2 * BATCH], 4 * BATCH, False),
        ([], BATCH, True),
        ([BATCH, BATCH], 2 * BATCH, False),
    ],
)
def test_records_are_of_every_step_that_ends_before(
    recorder: Recorder, tokens: list[int], until: int, whole: bool
) -> None:
    recorder.file.write_text("".join(record(at).model_dump_json() + "\n" for at in tokens))
    if whole:
        found = [one.tokens for one in recorder.records(until)]
        assert found == [at for at in tokens if at < until]
    else:
        with pytest.raises(InputError, match="trained without its steps recorded"):
            recorder.records(until)


def test_a_part_of_a_line_is_no_record_and_a_damaged_one_is_named(recorder: Recorder) -> None:
    line = record(BATCH).model_dump_json() + "\n"
    recorder.file.write_text(line + line[:20])
    assert len(recorder.records(2 * BATCH)) == 1
    recorder.file.write_text(line + line[:20] + "\n")
    with pytest.raises(InputError, match=r"steps\.jsonl: line 2"):
        recorder.records(2 * BATCH)
    recorder.file.unlink()
    assert recorder.records(BATCH) == []


def test_a_run_that_goes_on_drops_what_was_recorded_behind_its_checkpoint(
    recorder: Recorder,
) -> None:
    for step in range(1, 5):
        keep(recorder, step * BATCH, float(step))
        (recorder.run.checkpoints / f"{step * BATCH:015d}").mkdir(parents=True)
    again = Recorder(recorder.run, recorder.corpus)
    again._begin(3 * BATCH)
    assert [one.tokens for one in again.records(3 * BATCH)] == [BATCH, 2 * BATCH]
    assert len(recorder.file.read_text().splitlines()) == 2
    assert again._last
    x, g = again._last
    assert (x.tolist(), g.tolist()) == ([3.0] * 3, [-3.0] * 3) and x.dtype == np.float64
    fresh = Recorder(recorder.run, recorder.corpus)
    fresh._begin(0)
    assert fresh._last is None and recorder.file.read_text() == ""


def test_without_the_weights_of_the_step_before_it_can_not_go_on(recorder: Recorder) -> None:
    keep(recorder, BATCH, 1.0)
    (recorder.folder / "000000000000128.npy").unlink()
    with pytest.raises(InputError, match="dynamics: could not be read or written"):
        Recorder(recorder.run, recorder.corpus)._begin(BATCH)


def test_the_largest_change_is_told_of_every_role_and_of_query_and_gate(
    recipe: Callable[..., Recipe],
) -> None:
    """Each tensor's is its place in the model; a change may be below zero."""
    model = Decoder(recipe().model, 32)
    parts, largest = [], {}
    for index, (name, parameter) in enumerate(model.named_parameters(), 1):
        part = np.full(parameter.numel(), 0.001)
        part[-1] = index * (-1) ** index
        parts.append(part)
        for key in (role_of(name), name.rsplit(".", 1)[-1]):
            largest[key] = max(index, largest.get(key, 0))
    found = _largest_changes(model, np.concatenate(parts))
    keys = ("embedding", "matrix", "gain", "query", "gate")
    assert found == {f"max_change_{key}": float(largest[key]) for key in keys}
