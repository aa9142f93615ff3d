"""Fine-tuning on conversations: what is learnt and what is not, where it begins, and that it ends
in the same bytes.
"""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import some_chats, write_chats

from windtunnel.cli import main
from windtunnel.data.chat_format import OURS
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.family.sft import Asked, sft
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, Recipe, dump
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.subject import Subject
from windtunnel.train import checkpoint
from windtunnel.train.branch import branch
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import load_model, train
from windtunnel.train.objective import Objective
from windtunnel.train.run import Run, create, list_runs, open_run
from windtunnel.train.schedule import rate_at
from windtunnel.train.validation import validate

BATCH = 128
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(make_lab: Any, stem: Make, corpus: Corpus) -> tuple[Any, Run]:
    """A lab with one stem of 50 steps, a checkpoint at 20 of them. Tests give what they add names
    of their own.
    """
    lab = make_lab()
    asked = stem(50 * BATCH, branch_points=[20 * BATCH], evaluate_tokens=1024)
    run = create(lab.path, asked, corpus)
    assert train(run, corpus).status == "done"
    write_chats(lab.path.parent / "chats.jsonl")
    return lab, run


def data_of(lab: Any) -> Path:
    return lab.path.parent / "chats.jsonl"


def made(trained: tuple[Any, Run], **asked: Any) -> tuple[Run, Corpus]:
    lab, run = trained
    return sft(run, [data_of(lab)], Asked(**asked))


def held_out_loss(run: Run, model: Decoder, corpus: Corpus) -> float:
    windows = Windows(corpus, run.recipe.data, 0)
    (found,) = validate(
        model,
        [windows],
        choose_engine(run.recipe),
        tokens=run.recipe.train.evaluate_tokens,
        mask_documents=True,
        objective=OBJECTIVES["answers"],
    )
    assert found
    return found.loss


def answers_of(model: Decoder, run: Run, corpus: Corpus) -> Objective:
    """What a step of the run minimises."""
    engine, kind = choose_engine(run.recipe), OBJECTIVES["answers"]
    return Objective(model, engine, corpus.document_end, kind=kind)


def alone(model: Decoder, corpus: Corpus, conversation: dict[str, Any]) -> np.ndarray:
    """Nats of what is learnt of one conversation, read by itself and without any mask."""
    ids, learnt = OURS.render(corpus.tokenizer, conversation["messages"])
    with torch.no_grad():
        chances = model.logits(torch.from_numpy(ids)[None, :-1])[0].double().log_softmax(-1)
    return -chances.gather(-1, torch.from_numpy(ids)[1:, None])[learnt[1:], 0].numpy()


def packed_in(corpus: Corpus, windows: np.ndarray) -> list[dict[str, Any]]:
    """The conversations that lie in these windows."""
    tokens = np.where(windows < 0, ~windows, windows)[:, :-1] & 0xFFFFFFFF
    there = corpus.tokenizer.decode(tokens.ravel()).replace("<|end|><|end|>", "<|end|>")
    texts = {
        corpus.tokenizer.decode(OURS.render(corpus.tokenizer, c["messages"])[0]): c
        for c in some_chats()
    }
    return [one for text, one in texts.items() if text in there]


def test_it_learns_to_answer(trained: tuple[Any, Run]) -> None:
    """By the real command line; asked again, the run is there."""
    lab, parent = trained
    summary = lab.json(
        "sft",
        parent.id,
        "--data",
        data_of(lab),
        "--lr",
        0.01,
        "--tokens",
        100 * BATCH,
        "--name",
        "answers",
    )
    run = open_run(Path(summary["path"]))
    corpus = Corpus.open(lab.path / "corpora" / run.recipe.data.corpus)
    before = held_out_loss(run, load_model(parent), corpus)
    assert summary["status"] == "done" and summary["loss"] < 0.75 * before
    assert summary["loss"] == pytest.approx(held_out_loss(run, load_model(run), corpus))
    assert (run.kind, run.parent, run.at_tokens, run.anew, run.start) == (
        "run",
        parent.id,
        50 * BATCH,
        True,
        0,
    )
    again = made(trained, lr=0.01, tokens=100 * BATCH, name="answers")[0]
    assert again.path == run.path and again.status().status == "done"
    listed = lab.run("runs").stdout
    assert f"─ {run.id}" in listed, "below its parent in the tree"


def test_only_what_the_assistant_says_is_counted_and_no_other_conversation_is_seen(
    trained: tuple[Any, Run],
) -> None:
    """Validation, the batch's loss and its gradient are those of the conversations one by one."""
    run, corpus = made(trained, name="counted")
    windows, model = Windows(corpus, run.recipe.data, 0), load_model(trained[1])
    held = windows.validation("chat", 10**6)
    nats = np.concatenate([alone(model, corpus, one) for one in packed_in(corpus, held)])
    (score,) = validate(
        model,
        [windows],
        choose_engine(run.recipe),
        tokens=10**6,
        mask_documents=True,
        objective=OBJECTIVES["answers"],
    )
    assert score and (score.loss, score.tokens) == (pytest.approx(nats.mean(), abs=1e-5), len(nats))
    sizes = sum(corpus.tokenizer.token_bytes[held[:, 1:][held[:, 1:] >= 0] & 0xFFFFFFFF])
    assert score.bits_per_byte == pytest.approx(nats.sum() / np.log(2) / sizes, rel=1e-5)

    batch = windows.read(0, 8 * 32)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss = answers_of(model, run, corpus).add_gradient(torch.from_numpy(batch))
    nats = np.concatenate([alone(model, corpus, one) for one in packed_in(corpus, batch)])
    assert len(nats) == (batch[:, 1:] >= 0).sum() < batch[:, 1:].size / 2
    assert loss.item() == pytest.approx(nats.mean(), abs=1e-5)


def test_a_word_of_the_user_changes_no_gradient_as_a_target(trained: tuple[Any, Run]) -> None:
    """The last input before a user's word has that word as its target alone: another word there
    is read by nobody.
    """
    run, corpus = made(trained, name="counted")
    batch = Windows(corpus, run.recipe.data, 0).read(0, 4 * 32)
    other = batch.copy()
    other[:, -1] = ~(
        (~batch[:, -1] & ~0xFFFFFFFF) + 77
    )  # the first token of the next window: a target here, no input
    assert (batch[:, -1] < 0).all() and (batch != other).any()
    gradients = []
    for one in (batch, other):
        model = load_model(trained[1])
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        answers_of(model, run, corpus).add_gradient(torch.from_numpy(one))
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("at", [None, 20 * BATCH])
def test_it_begins_with_the_parents_weights_and_nothing_else(
    trained: tuple[Any, Run], at: int | None
) -> None:
    parent = trained[1]
    run, corpus = made(trained, lr=1e-9, tokens=BATCH, batch=BATCH, at=at, name="one step")
    assert train(run, corpus).status == "done"
    ended = checkpoint.load(run.checkpoints, BATCH)
    begun = checkpoint.load(parent.checkpoints, at or 50 * BATCH).weights
    assert ended.steps == 1
    for name, weight in ended.weights.items():
        assert (weight - begun[name]).abs().max() < 1e-7
        # Adam's first moment after one step from zero: (1 - beta1) of the gradient that was
        # clipped to 1
        assert ended.moments[f"first.{name}"].norm() <= 0.1 + 1e-6


def test_what_is_chosen(trained: tuple[Any, Run]) -> None:
    """A tenth of the base rate and of the decay, three epochs, a hundred steps at least, up and
    straight down.
    """
    parent = trained[1].recipe
    run, corpus = made(trained, name="chosen")
    recipe, epoch = run.recipe, corpus.sources["chat"].train.tokens - 1
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (
        pytest.approx(0.001),
        pytest.approx(1e-4),
    )
    assert (recipe.data.context, recipe.data.mask_documents, recipe.data.mixture) == (32, True, {})
    assert (
        recipe.total_tokens == recipe.schedule.tokens
        and 3 * epoch <= recipe.total_tokens < 3 * epoch + recipe.train.batch
    )
    assert (
        recipe.train.batch <= parent.train.batch and recipe.total_tokens >= 100 * recipe.train.batch
    )
    assert (
        recipe.warmup_tokens + recipe.decay_tokens == recipe.total_tokens
        and recipe.schedule.floor == 0
    )


@pytest.mark.parametrize("batch", [32, 96, 160, 352])
def test_an_epoch_reads_every_window(trained: tuple[Any, Run], batch: int) -> None:
    """The last step as well, which an epoch may not fill."""
    run, corpus = made(trained, epochs=1, batch=batch, name=f"epoch-{batch}")
    windows = Windows(corpus, run.recipe.data, run.recipe.seed)
    count = windows.order.windows["chat"]
    _, read = windows.order.at(0, run.recipe.total_tokens // 32)
    assert set(read.tolist()) == set(range(count))
    assert len(read) - count < batch // 32


def test_all_turns_may_be_learnt(trained: tuple[Any, Run]) -> None:
    """As text: a user's words count as the assistant's do."""
    run, corpus = made(trained, tokens=BATCH, batch=BATCH, all_turns=True, name="all turns")
    assert run.recipe.train.objective == "next-token"
    assert run.id != made(trained, tokens=BATCH, batch=BATCH, name="all turns")[0].id
    read = run.recipe.train.evaluate_tokens
    held = Windows(corpus, run.recipe.data, 0).validation("chat", read)
    train(run, corpus)
    assert run.validations()[-1].validation.tokens == held[:, 1:].size


def test_text_of_the_pre_training_beside_it(trained: tuple[Any, Run]) -> None:
    """A share of what is read, each source by its size; an epoch of the conversations is longer by
    it.
    """
    parent = trained[1]
    plain, _ = made(trained, epochs=1, batch=BATCH, name="plain")
    run, corpus = made(trained, epochs=1, batch=BATCH, pretraining=0.4, name="beside text")
    assert list(corpus.sources) == ["prose", "code", "notes", "chat"]
    mixture = run.recipe.data.mixture
    assert mixture["chat"] == pytest.approx(0.6) and sum(mixture.values()) == pytest.approx(1)
    sizes = Corpus.open(parent.lab / "corpora" / "tiny").sources
    ratio = sizes["prose"].train.tokens / sizes["code"].train.tokens
    assert mixture["prose"] / mixture["code"] == pytest.approx(ratio)
    assert run.recipe.total_tokens == pytest.approx(plain.recipe.total_tokens / 0.6, abs=2 * BATCH)
    assert train(run, corpus).status == "done"
    assert set(run.validations()[-1].validation.sources) == set(corpus.sources)
    again, _ = sft(run, [data_of(trained[0])], Asked(name="once more", tokens=BATCH, batch=BATCH))
    assert again.recipe.optimizer.lr == run.recipe.optimizer.lr, "it was fine-tuned already"


def test_the_papers_schedule(trained: tuple[Any, Run]) -> None:
    """From a tenth of the base rate at its peak to a tenth of that, in its second half."""
    run, _ = made(trained, tokens=100 * BATCH, batch=BATCH, wsd=True, name="as the paper")
    recipe = run.recipe
    assert recipe.optimizer.lr == pytest.approx(trained[1].recipe.optimizer.lr / 10)
    assert recipe.schedule.decay_shape == "exponential" and recipe.decay_tokens == 50 * BATCH
    rates = [rate_at(recipe, tokens) for tokens in (40 * BATCH, 50 * BATCH, 100 * BATCH)]
    assert rates == pytest.approx([1, 1, 0.1], rel=1e-3)


def test_conversations_in_the_decay(trained: tuple[Any, Run]) -> None:
    """A source like any other of a branch; and fine-tuning goes on from there."""
    lab, parent = trained
    data = data_of(lab)
    summary = lab.json(
        *("branch", parent.id, "--at", 50 * BATCH, "--decay", 10 * BATCH),
        *("--conversations", f"said={data}", "--mixture", "prose=0.7,said=0.3"),
        *("--name", "mixed"),
    )
    run = open_run(Path(summary["path"]))
    corpus = Corpus.open(lab.path / "corpora" / run.recipe.data.corpus)
    assert summary["status"] == "done" and run.kind == "branch"
    assert run.recipe.data.mixture == {"prose": 0.7, "said": 0.3}
    assert run.recipe.data.mask_documents and corpus.holds == "conversations"
    held = run.validations()[-1].validation.sources
    windows = Windows(corpus, run.recipe.data, 0)
    said = windows.validation("said", run.recipe.train.evaluate_tokens)
    assert held["said"].tokens == (said[:, 1:] >= 0).sum(), "the answers alone"
    prose = windows.validation("prose", run.recipe.train.evaluate_tokens)
    assert held["prose"].tokens == prose[:, 1:].size
    tuned, _ = sft(run, [data], Asked(tokens=BATCH, batch=BATCH, name="after the mixed"))
    assert tuned.recipe.optimizer.lr == pytest.approx(run.recipe.optimizer.lr / 10)

    refused = lab.run("branch", parent.id, "--at", 50 * BATCH, "--conversations", "said")
    assert refused.returncode == 2 and "expected SOURCE=PATH" in refused.stderr
    refused = lab.run(
        *("branch", parent.id, "--at", 50 * BATCH, "--conversations", f"prose={data}")
    )
    assert refused.returncode == 2 and "is a source of" in refused.stderr


def test_of_one_that_was_fine_tuned_the_rate_is_kept(trained: tuple[Any, Run]) -> None:
    run, corpus = made(trained, tokens=BATCH, batch=BATCH, name="first")
    assert train(run, corpus).status == "done"
    assert (
        sft(run, [data_of(trained[0])], Asked(name="second"))[0].recipe.optimizer.lr
        == run.recipe.optimizer.lr
    )


def test_killed_it_goes_on_and_ends_in_the_same_bytes(
    trained: tuple[Any, Run], tmp_path: Path, final_bytes: Any, steps_of: Any
) -> None:
    parent = trained[1]
    lab = dataclasses.replace(trained[0], path=tmp_path / "lab")
    for part in (parent.path.relative_to(parent.lab), "corpora/tiny"):
        shutil.copytree(parent.lab / part, lab.path / part)
    data = write_chats(data_of(lab))
    command = ("sft", parent.id, "--data", data, "--tokens", 100 * BATCH, "--batch", BATCH)
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

    whole, chats = sft(parent, [data], Asked(tokens=100 * BATCH, batch=BATCH))
    assert train(whole, chats).status == "done"
    assert whole.id == finished.name
    assert final_bytes(whole.path) == final_bytes(finished)
    assert steps_of(whole.path) == steps_of(finished)


def test_a_branch_of_it_begins_where_it_began(trained: tuple[Any, Run], final_bytes: Any) -> None:
    """Left after its warm-up, with the same decay, and with no checkpoint of its own there any
    more.
    """
    run, corpus = made(trained, tokens=40 * BATCH, batch=BATCH, name="to be branched")
    train(run, corpus)
    warmup = run.recipe.warmup_tokens
    assert warmup == 2 * BATCH and min(checkpoint.positions(run.checkpoints)) > warmup
    branched = branch(run, corpus, warmup, run.recipe.total_tokens - warmup)
    assert train(branched, corpus).status == "done"
    assert final_bytes(branched.path) == final_bytes(run.path)


def test_an_imported_model_with_its_own_tokenizer(trained: tuple[Any, Run], tmp_path: Path) -> None:
    lab, parent = trained
    ours = Subject.of(parent).portable
    theirs = {"chat_template": "{{ messages[0]['content'] }}", "eos_token": "<|end|>"}
    (tmp_path / "model").mkdir()
    LAYOUTS["hf"].write(
        tmp_path / "model", dataclasses.replace(ours, tokenizer_config=theirs), "fp32"
    )
    stem = import_model(tmp_path / "model", tmp_path / "lab")
    at_once = stem.recipe.change(train={"precision": "fp32", "compile": False})
    (stem.path / "recipe.toml").write_text(dump(at_once))
    stem = open_run(stem.path)
    with pytest.raises(InputError, match=r"--lr: .* is imported and has no learning rate"):
        sft(stem, [data_of(lab)], Asked())
    run, corpus = sft(stem, [data_of(lab)], Asked(lr=0.001, tokens=BATCH, batch=BATCH))
    assert (
        corpus.manifest.tokenizer_sha256 == ours.tokenizer.sha256
        and run.recipe.optimizer.weight_decay == 0
    )
    assert train(run, corpus).status == "done"
    assert any(
        (a - b).abs().max() > 1e-5
        for a, b in zip(load_model(run).parameters(), ours.weights.values(), strict=True)
    )
    # an export carries the template that was learnt
    assert Subject.of(stem).portable.chat_template == theirs["chat_template"]
    assert Subject.of(run).portable.chat_template == OURS.template


class TestBadInput:
    """One line, exit code 2, and no run."""

    @pytest.fixture
    def refused(
        self, trained: tuple[Any, Run], tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> Callable[..., str]:
        lab, parent = trained

        def ask(*arguments: object, content: str | None = None) -> str:
            (tmp_path / "bad.jsonl").write_text(content or "")
            data = (
                []
                if "--data" in arguments
                else ["--data", data_of(lab) if content is None else tmp_path / "bad.jsonl"]
            )
            command = ["windtunnel", "sft", parent.id, *data, *arguments, "--lab", lab.path]
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
        ("content", "why"),
        [
            ("{broken\n", "bad.jsonl line 1: not JSON"),
            (
                '{"messages": [{"role": "user", "content": "a"}]}\n',
                "no message of the assistant, so nothing to learn",
            ),
            (
                '{"messages": [{"role": "judge", "content": "a"}]}\n',
                "role 'judge': expected one of system, user",
            ),
            ("\n", "bad.jsonl: no document found"),
        ],
    )
    def test_in_the_data(self, content: str, why: str, refused: Callable[..., str]) -> None:
        said = refused(content=content)
        assert why in said and said.count("malformed") == 0, "there is one document alone"

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (("--data", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder"),
            (("--data", Path(__file__)), "this is plain text; expected conversations in parquet"),
            (("--epochs", 0), "--epochs 0: expected a number above zero"),
            (("--epochs", 2, "--tokens", "1M"), "--epochs and --tokens both say how long"),
            (("--tokens", "x"), "--tokens x: expected a number above zero"),
            (("--batch", 33), "train.batch=33 must be a multiple of data.context=32"),
            (("--batch", "1M"), "less than one batch of 1M; an epoch is"),
            (("--context", 64), "--context 64: "),
            (("--context", "1k"), "--context 1024: "),
            (("--context", "long"), "--context long: expected a number of tokens"),
            (("--lr", -1), "--lr -1: expected a number above zero"),
            (("--lr", "nan"), "--lr nan: expected a number above zero"),
            (("--epochs", "inf"), "--epochs inf: expected a number above zero"),
            (("--max-bad", "nan"), "--max-bad nan: expected a number from 0 to 1"),
            (("--format", "jason"), "--format jason: expected one of text, parquet, jsonl, json"),
            (("--at", 77), "no checkpoint at 77 tokens; there are: 2560, "),
        ],
    )
    def test_in_the_options(
        self, arguments: tuple[Any, ...], why: str, refused: Callable[..., str]
    ) -> None:
        assert why in refused(*arguments)

    def test_it_is_one_line_and_leaves_nothing(self, trained: tuple[Any, Run]) -> None:
        lab, parent = trained
        files = lab.files()
        done: subprocess.CompletedProcess[str] = lab.run(
            "sft", parent.id, "--data", "nowhere.jsonl"
        )
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert lab.files() == files
