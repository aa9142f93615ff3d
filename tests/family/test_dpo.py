"""Learning from preferences: what is chosen, that it learns, that it ends in the same bytes, that a
sweep is each run alone, and what is refused.
"""

import dataclasses
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preferences import some_judged, some_pairs, write_lines

from windtunnel.cli import main
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.dpo import Asked, dpo
from windtunnel.family.sft import Asked as SftAsked
from windtunnel.family.sft import sft
from windtunnel.recipe import Recipe
from windtunnel.results.run import PreferenceScore
from windtunnel.ship.subject import Subject
from windtunnel.train.checkpoint import load
from windtunnel.train.loop import population_key, train, train_together
from windtunnel.train.member import Watch
from windtunnel.train.run import Run, create, list_runs, open_run

BATCH = 128
WINDOW = 64
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make, corpus: Corpus) -> tuple[Any, Run]:
    """A lab with one stem of 50 steps. Tests give what they add names of their own."""
    lab = make_lab()
    run = create(lab.path, stem(50 * BATCH, evaluate_tokens=1024), corpus)
    assert train(run, corpus).status == "done"
    write_lines(pairs_of(lab), some_pairs())
    write_lines(judged_of(lab), some_judged())
    return lab, run


def pairs_of(lab: Any) -> Path:
    return lab.path.parent / "pairs.jsonl"


def judged_of(lab: Any) -> Path:
    return lab.path.parent / "judged.jsonl"


def made(trained: tuple[Any, Run], data: Path | None = None, **asked: Any) -> Any:
    lab, parent = trained
    return dpo(parent, [data or pairs_of(lab)], Asked(**asked))


def last_score(run: Run) -> PreferenceScore:
    found = run.validations()[-1].validation.preference
    assert found is not None
    return found


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "nca", "kto"])
def test_every_loss_learns_to_prefer(trained: tuple[Any, Run], loss: str) -> None:
    """From a tie at first to most held-out questions; more chosen, away from the reference."""
    beta = {"ipo": 1.0}.get(loss, 0.1)
    (run,), corpus = made(
        trained, loss=loss, betas=(beta,), lrs=(0.003,), epochs=3, name=f"learns {loss}"
    )
    assert train(run, corpus).status == "done"
    found = last_score(run)
    assert found.accuracy > 0.75 and found.margin > 0 and found.divergence > 0.001
    assert found.margin == pytest.approx(found.chosen - found.rejected)
    losses = [step.loss for step in run.steps()]
    assert np.mean(losses[-5:]) < losses[0] and found.loss < losses[0]


def test_it_begins_where_the_reference_is(trained: tuple[Any, Run]) -> None:
    """At a rate of nearly nothing: the loss of a tie, no margin, no divergence."""
    (run,), corpus = made(trained, lrs=(1e-12,), tokens=2 * WINDOW, batch=WINDOW, name="still")
    assert train(run, corpus).status == "done"
    found = last_score(run)
    assert [step.loss for step in run.steps()] == pytest.approx([np.log(2)] * 2, abs=1e-6)
    assert found.loss == pytest.approx(np.log(2), abs=1e-6)
    assert abs(found.margin) < 1e-6 and abs(found.divergence) < 1e-6
    assert found.chosen_tokens > 1 and found.rejected_tokens > 1


def test_by_the_command_line(trained: tuple[Any, Run]) -> None:
    lab, parent = trained
    asked = ("dpo", parent.id, "--data", pairs_of(lab), "--lr", 0.003, "--name", "typed")
    summary = lab.json(*asked)
    run = open_run(Path(summary["path"]))
    assert summary["status"] == "done" and run.parent == parent.id and run.anew
    again = lab.json(*asked)
    assert again == summary


def test_what_is_chosen(trained: tuple[Any, Run]) -> None:
    """The paper's: 1e-5 without multipliers, a cosine, one epoch; and the parent as reference."""
    parent = trained[1]
    (run,), corpus = made(trained, name="chosen")
    recipe, asked = run.recipe, run.recipe.preference
    epoch = corpus.sources["preferences"].train.tokens - 1
    assert (recipe.optimizer.lr, recipe.optimizer.lr_by_role) == (1e-5, False)
    assert (recipe.schedule.kind, recipe.schedule.floor) == ("cosine", 0.0)
    assert epoch <= recipe.total_tokens < epoch + recipe.train.batch
    assert asked and (asked.loss, asked.beta, asked.reference) == ("sigmoid", 0.1, parent.id)
    assert asked.reference_at == 50 * BATCH
    assert recipe.data.context == WINDOW, "two answers of the parent's context"
    assert made(trained, name="chosen")[0][0].id == run.id
    assert made(trained, name="kept", lr_by_role=True)[0][0].id != run.id


def test_killed_it_goes_on_and_ends_in_the_same_bytes(
    trained: tuple[Any, Run], tmp_path: Path, final_bytes: Any, steps_of: Any
) -> None:
    parent = trained[1]
    lab = dataclasses.replace(trained[0], path=tmp_path / "lab")
    for part in (parent.path.relative_to(parent.lab), "corpora/tiny"):
        shutil.copytree(parent.lab / part, lab.path / part)
    data = write_lines(pairs_of(lab), some_pairs())
    tokens = 100 * 2 * WINDOW
    command = ("dpo", parent.id, "--data", data, "--tokens", tokens, "--batch", 2 * WINDOW)
    process = lab.start(*command)
    saved: list[Path] = []
    while process.poll() is None and not saved:
        saved = [p for p in lab.path.glob("runs/*/checkpoints/0*[0-9]") if p.parts[-3] != parent.id]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was to be killed before its end"
    finished = Path(lab.json(*command)["path"])
    assert finished.name == saved[0].parts[-3]

    (whole,), corpus = dpo(parent, [data], Asked(tokens=tokens, batch=2 * WINDOW))
    assert train(whole, corpus).status == "done"
    assert whole.id == finished.name
    assert final_bytes(whole.path) == final_bytes(finished)
    assert steps_of(whole.path) == steps_of(finished)


def test_a_sweep_is_one_population_and_each_run_is_as_alone(
    trained: tuple[Any, Run], tmp_path: Path
) -> None:
    lab, parent = trained
    asked = Asked(betas=(0.05, 0.5), lrs=(1e-3, 3e-3), tokens=20 * WINDOW, batch=2 * WINDOW)
    runs, corpus = dpo(parent, [pairs_of(lab)], asked)
    assert len({run.id for run in runs}) == 4 == len({run.recipe.name for run in runs})
    assert len({population_key(run) for run in runs}) == 1
    assert all(one.status == "done" for one in train_together(runs, corpus, [Watch()] * 4))

    shutil.copytree(lab.path, tmp_path / "lab", ignore=shutil.ignore_patterns("*dpo*"))
    for run in runs:
        shutil.rmtree(tmp_path / "lab" / "runs" / run.id)
    copy = open_run(tmp_path / "lab" / "runs" / parent.id)
    alone, _ = dpo(copy, [pairs_of(lab)], asked)
    for one, together in zip(alone, runs, strict=True):
        train(one, corpus)
        assert one.id == together.id
        mine, theirs = last_score(one), last_score(together)
        for name in PreferenceScore.model_fields:
            value = getattr(theirs, name)
            assert getattr(mine, name) == pytest.approx(value, rel=2e-3, abs=1e-5), name


def test_another_loss_or_reference_is_no_member(trained: tuple[Any, Run]) -> None:
    ones = [
        made(trained, name="member", **asked)[0][0]
        for asked in ({}, {"loss": "hinge"}, {"label_smoothing": 0.1}, {"per_token": True})
    ]
    assert len({population_key(one) for one in ones}) == len({one.id for one in ones}) == 4


def test_what_the_reference_gives_is_computed_once(trained: tuple[Any, Run]) -> None:
    """It is kept beside the corpus, and what another model gave is refused."""
    parent = trained[1]
    (run,), corpus = made(trained, tokens=2 * WINDOW, batch=WINDOW, name="kept once")
    train(run, corpus)
    (file,) = (corpus.folder / "references").iterdir()
    assert file.name == f"{parent.id}-{50 * BATCH}-fp32.safetensors"
    written = file.stat().st_mtime_ns
    (again,), _ = made(trained, lrs=(1e-4,), tokens=2 * WINDOW, batch=WINDOW, name="again")
    train(again, corpus)
    assert file.stat().st_mtime_ns == written

    (other,), _ = made(trained, lrs=(1e-3,), tokens=2 * WINDOW, batch=WINDOW, name="other")
    assert train(other, corpus).status == "done"
    theirs = file.with_name(f"{other.id}-{2 * WINDOW}-fp32.safetensors")
    shutil.copy(file, theirs)
    (wrong,), _ = made(trained, reference=other, tokens=2 * WINDOW, batch=WINDOW, name="wrong")
    with pytest.raises(InputError, match="of another model or corpus: its run is"):
        train(wrong, corpus)
    theirs.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        train(wrong, corpus)
    theirs.unlink()
    assert train(wrong, corpus).status == "done"


def test_smoothing_is_the_expected_loss(trained: tuple[Any, Run]) -> None:
    """A tie has the same loss whichever way it is judged; else it is between the two."""
    (run,), corpus = made(
        trained, label_smoothing=0.3, lrs=(1e-12,), tokens=WINDOW, batch=WINDOW, name="smooth"
    )
    train(run, corpus)
    assert last_score(run).loss == pytest.approx(np.log(2), abs=1e-6)


def test_the_rate_is_not_multiplied_by_role(trained: tuple[Any, Run]) -> None:
    """Adam's first step is the rate for every weight with a gradient, whatever its role."""
    parent = trained[1]
    moved = {}
    for by_role in (False, True):
        (run,), corpus = made(
            trained, lr_by_role=by_role, lrs=(1e-3,), tokens=WINDOW, batch=WINDOW, name="one step"
        )
        train(run, corpus)
        after = load(run.checkpoints, WINDOW).weights
        before = load(parent.checkpoints, 50 * BATCH).weights
        moved[by_role] = {
            name: (after[name] - before[name]).abs().median().item() for name in after
        }
    ratios = {name: moved[False][name] / moved[True][name] for name in moved[True]}
    assert ratios["layers.0.query"] == pytest.approx(2, rel=0.02), "m = 32 / 16"
    assert ratios["embedding"] == pytest.approx(1, rel=0.02)


def test_fine_tuned_before_and_after(trained: tuple[Any, Run]) -> None:
    """Preferences after answers, and answers after preferences; a long context is no longer one."""
    from chats import write_chats

    lab, parent = trained
    chats = write_chats(lab.path.parent / "chats.jsonl")
    tuned, corpus = sft(parent, [chats], SftAsked(tokens=BATCH, batch=BATCH, name="tuned"))
    assert train(tuned, corpus).status == "done"
    asked = Asked(tokens=WINDOW, batch=WINDOW, name="preferred")
    (run,), preferences = dpo(tuned, [pairs_of(lab)], asked)
    assert train(run, preferences).status == "done"
    assert Subject.of(run).portable.context == parent.recipe.data.context
    again, corpus = sft(run, [chats], SftAsked(lr=1e-3, tokens=BATCH, batch=BATCH, name="again"))
    assert again.recipe.preference is None and again.recipe.train.objective is None
    assert train(again, corpus).status == "done"


class TestBadInput:
    """One line, exit code 2, and no run."""

    @pytest.fixture
    def refused(
        self, trained: tuple[Any, Run], tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> Callable[..., str]:
        lab, parent = trained

        def ask(*arguments: object, records: list[Any] | None = None) -> str:
            data = pairs_of(lab)
            if records is not None:
                data = write_lines(tmp_path / "bad.jsonl", records)
            command = ["windtunnel", "dpo", parent.id, "--data", data, *arguments]
            command += ["--lab", lab.path]
            monkeypatch.setattr(sys, "argv", [str(part) for part in command])
            there = {run.id for run in list_runs(lab.path)}
            with pytest.raises(SystemExit) as ended:
                main()
            lines = [line for line in capsys.readouterr().err.splitlines() if line]
            assert ended.value.code == 2 and lines[-1].startswith("windtunnel: "), lines
            assert {run.id for run in list_runs(lab.path)} == there
            return lines[-1]

        return ask

    @pytest.mark.parametrize(
        ("record", "why"),
        [
            ({"prompt": "a", "chosen": "b"}, "bad.jsonl line 1: no 'rejected' beside 'chosen'"),
            ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same, so neither"),
            ({"prompt": "a", "chosen": "b", "rejected": " "}, "an answer of 'rejected' is empty"),
            ({"prompt": "a", "chosen": "b", "rejected": 7}, "'rejected' holds no text"),
            ({"chosen": "b", "rejected": "c"}, "no 'prompt' that 'chosen' would answer"),
            ({"prompt": "a", "completion": "b", "label": True}, "which only --loss kto learns"),
            ({"text": "a"}, "expected 'prompt', 'chosen' and 'rejected', or"),
            (
                {
                    "prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
                    "chosen": "c",
                    "rejected": "d",
                },
                "turns out of order: message 2 is of role 'user', expected 'assistant'",
            ),
            (
                {
                    "chosen": [{"role": "user", "content": "a"}],
                    "rejected": [{"role": "user", "content": "b"}],
                },
                "does not go on with an answer where the two part",
            ),
            ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{}]}, "offers tools"),
        ],
    )
    def test_in_a_record(self, record: dict[str, Any], why: str, refused: Any) -> None:
        assert why in refused(records=[record])

    def test_of_one_question(self, refused: Any) -> None:
        pairs = [{"prompt": "a", "chosen": f"b{n}", "rejected": "c"} for n in range(9)]
        assert "expected at least 2 questions, one of which is held out" in refused(records=pairs)

    def test_an_answer_that_does_not_fit(self, refused: Any) -> None:
        """Where the question alone fills the context, nothing of the answer is left to learn."""
        long = [
            {"prompt": f"{n} " + "wind " * 300, "chosen": "b", "rejected": "c"} for n in range(9)
        ]
        assert "0 records of pairs with something to learn in their first 32" in refused(
            records=long
        )

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (("--loss", "sigmod"), "--loss sigmod: expected one of sigmoid, ipo, hinge, kto, nca"),
            (("--beta", 0), "--beta 0: expected a number above zero"),
            (("--beta", "0.1,x"), "--beta x: expected a number above zero"),
            (("--label-smoothing", 0.5), "--label-smoothing 0.5: expected a number below 0.5"),
            (("--epochs", 1, "--tokens", "1M"), "--epochs and --tokens both say how long"),
            (("--longest", 64), "was made for at most 32 tokens"),
            (("--reference", "nobody"), "nobody: no run of"),
            (("--at", 77), "no checkpoint at 77 tokens"),
        ],
    )
    def test_in_the_options(self, arguments: tuple[Any, ...], why: str, refused: Any) -> None:
        assert why in refused(*arguments)

    def test_a_reference_with_another_tokenizer(
        self, trained: tuple[Any, Run], recipe: Make
    ) -> None:
        """Another model's probabilities are of other tokens."""
        lab, parent = trained
        other = shutil.copytree(lab.path / "corpora/tiny", lab.path / "corpora/other")
        definition = json.loads((other / "tokenizer.json").read_text())
        (other / "tokenizer.json").write_text(json.dumps(definition, indent=3))
        theirs = parent.recipe.change(data={"corpus": "other"})
        path = lab.path / "runs" / "stranger"
        stranger = dataclasses.replace(parent, path=path, recipe=theirs)
        with pytest.raises(InputError, match="its tokenizer is not that of"):
            dpo(parent, [pairs_of(lab)], Asked(reference=stranger))
