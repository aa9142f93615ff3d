"""A run that goes on with a longer context: the same model at first, then a run like any other."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import wait_until

from windtunnel.data.long import LONG, QUESTIONS_SOURCE
from windtunnel.data.questions import QUESTIONS
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.family.longer import Asked, Stage, longer, planned, stages, text_of
from windtunnel.family.sft import Asked as Tuning
from windtunnel.family.sft import sft
from windtunnel.family.upcycle import Asked as Upcycling
from windtunnel.family.upcycle import upcycle
from windtunnel.model.generate import generate
from windtunnel.quantities import Length
from windtunnel.recipe import Recipe
from windtunnel.ship.chat import Chat, OwnModel, Sampling
from windtunnel.ship.export import export
from windtunnel.ship.subject import Subject
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, context_of, create, open_run

WAS, TO = 32, 128
BATCH = 128
TOKENS = 20 * BATCH
FAR = ("--to", 32 * 64, "--tokens", 8192, "--long-from", 64, "--questions", "0.2")
FAR = (*FAR, "--batch", 2048, "--name", "far")
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(make_lab: Any, recipe: Make, corpus: Corpus) -> tuple[Any, Run]:
    """A lab with a run of 40 steps, of which the last 10 decay, and a checkpoint before them.
    Tests give what they add names of their own.
    """
    lab = make_lab()
    schedule = {"tokens": 40 * BATCH, "warmup": BATCH, "decay": "25%"}
    run = create(lab.path, recipe(schedule=schedule, train={"keep": 9}), corpus)
    assert train(run, corpus).status == "done"
    return lab, run


def begun(parent: Run, corpus: Corpus, to: int = TO, last: bool = True, **asked: Any) -> Stage:
    values = {"to": (to,), "tokens": TOKENS, "questions": 0.0} | asked
    return longer(parent, corpus, to, Asked(**values), last)


def stopped_at(steps: int) -> Watch:
    left = iter([*[False] * (steps - 1), True])
    return Watch(stop=lambda: next(left, False))


def test_it_leaves_the_stable_phase_with_a_larger_base_and_long_windows(
    trained: tuple[Any, Run], corpus: Corpus
) -> None:
    stage = begun(trained[1], corpus)
    run, model = stage.run, stage.run.recipe.model
    assert (run.parent, run.at_tokens, run.anew) == (trained[1].id, 30 * BATCH, True)
    assert (model.rope_scaling, model.rope_factor, model.rope_original) == ("abf", 16.0, WAS)
    assert (run.recipe.data.context, run.recipe.data.mask_documents) == (TO, True)
    assert run.recipe.optimizer.lr == trained[1].recipe.optimizer.lr
    mixture = run.recipe.data.mixture
    long = sum(weight for name, weight in mixture.items() if name.endswith(LONG))
    # every document of this corpus is long, and there are no short ones
    assert set(mixture) == {f"{name}{LONG}" for name in corpus.sources}
    assert long == pytest.approx(0.44, abs=1e-5)
    assert begun(trained[1], corpus).run.path == run.path


def test_of_what_is_read_44_percent_are_long(trained: tuple[Any, Run], corpus: Corpus) -> None:
    stage = begun(trained[1], corpus, long_from=90, questions=0.04, to=256, name="shares")
    mixture = stage.run.recipe.data.mixture
    long = sum(weight for name, weight in mixture.items() if name.endswith(LONG))
    assert mixture[QUESTIONS_SOURCE] == pytest.approx(0.04)
    assert long + mixture[QUESTIONS_SOURCE] == pytest.approx(0.44, abs=1e-5)
    assert sum(mixture.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("of_parent", "windows", "read"),
    [(100 * TO, 80, 4 * TO), (100 * TO, 4, TO), (2 * TO, 80, 2 * TO), (TO // 2, 80, TO)],
    ids=["a twentieth", "a window", "as the parent's", "no less than a window"],
)
def test_a_validation_is_short_beside_the_stage(
    trained: tuple[Any, Run], of_parent: int, windows: int, read: int
) -> None:
    """In long windows, as much as the parent's could take longer than the training."""
    old = trained[1].recipe.change(train={"evaluate_tokens": of_parent})
    (stage,) = planned(old, WAS, Asked(to=(TO,), tokens=windows * TO))
    assert stage.train.evaluate_tokens == read


@pytest.mark.parametrize("untie", [False, True])
def test_it_begins_as_what_the_run_was_but_for_rope(
    trained: tuple[Any, Run], corpus: Corpus, untie: bool
) -> None:
    """At no rate at all, so that a step changes nothing: the same logits, with the old RoPE."""
    parent = trained[1]
    run = begun(parent, corpus, lr=1e-30, name=f"still-{untie}", untie=untie).run
    train(run, corpus_of(run), stopped_at(1))
    grown, before = load_model(run), load_model(parent, run.at_tokens)
    assert grown.model.tied is not untie
    tokens = torch.arange(WAS)[None] % 60
    assert not torch.allclose(grown.logits(tokens), before.logits(tokens), atol=1e-3)
    grown.rope[:, :WAS] = before.rope
    torch.testing.assert_close(grown.logits(tokens), before.logits(tokens), rtol=1e-4, atol=1e-4)
    if untie:
        assert torch.allclose(grown.head, before.embedding, atol=1e-6)


def corpus_of(run: Run) -> Corpus:
    return Corpus.open(run.lab / "corpora" / run.recipe.data.corpus)


@pytest.fixture(scope="module")
def far(trained: tuple[Any, Run]) -> Run:
    """It in windows of 2,048 tokens, by the real command line."""
    lab, parent = trained
    summary = lab.json("longer", parent.id, *FAR)
    assert summary["status"] == "done"
    return open_run(Path(summary["path"]))


def test_far_away_is_reached_in_stages_by_the_real_command_line(
    trained: tuple[Any, Run], far: Run
) -> None:
    (lab, parent), last = trained, far
    first = open_run(lab.path / "runs" / str(last.parent))
    assert last.recipe.name == "far"
    assert (first.recipe.data.context, last.recipe.data.context) == (256, 2048)
    assert first.recipe.is_stem and not last.recipe.is_stem
    assert (first.parent, first.recipe.model.rope_scaling) == (parent.id, "abf")
    model = last.recipe.model
    assert (model.rope_scaling, model.rope_factor, model.rope_original) == ("ntk", 8.0, 256)
    assert model.rope_base == 10_000.0 * 64
    assert lab.json("longer", parent.id, *FAR)["id"] == last.id


def test_it_generates_and_chats_beyond_the_old_context(far: Run) -> None:
    """By its cache of keys and values, as by the whole text."""
    model = load_model(far)
    tokens = [number % 60 + 5 for number in range(40 * WAS)]
    for token in generate(model, tokens, 4, temperature=0):
        whole = model.logits(torch.tensor([tokens]))[0, -1].detach()
        assert float(whole[token]) == pytest.approx(float(whole.max()), abs=1e-4)
        tokens.append(token)
    assert len(tokens) == 40 * WAS + 4
    who = OwnModel(far)
    question = " ".join(["wind"] * 20 * WAS)
    talk = Chat(who, Sampling(temperature=0, most=8))
    pieces: list[str] = []
    assert talk.ask(question, pieces.append) == "".join(pieces)
    talk.ask(question, pieces.append)
    assert len(talk.turns) == 4


def test_it_is_evaluated_beyond_the_old_context_and_not_beyond_the_new_one(
    trained: tuple[Any, Run], far: Run
) -> None:
    lab, parent = trained
    found = lab.json("evaluate", far.id, "--far", 512)["evaluations"]
    kinds = {one["task"] for one in found}
    assert {f"far/{name}" for name in QUESTIONS} <= kinds
    passkey = next(one for one in found if one["task"] == "far/passkey")
    assert [measure["filter"] for measure in passkey["measures"][1:]] == [
        f"512@{depth}" for depth in ("0", "0.25", "0.5", "0.75", "1")
    ]
    for run, longest in ((far, 4096), (parent, 512)):
        refused = lab.run("evaluate", run.id, "--far", longest)
        assert refused.returncode == 2
        assert f"--far {longest}" in refused.stderr and "was made for" in refused.stderr


def test_stages_are_chosen_or_said(trained: tuple[Any, Run]) -> None:
    parent = trained[1]
    assert stages(context_of(parent), Asked(to=(256,), tokens=1)) == [256]
    assert stages(context_of(parent), Asked(to=(1024,), tokens=1)) == [256, 1024]
    assert stages(context_of(parent), Asked(to=(64, 1024), tokens=1)) == [64, 1024]


@pytest.mark.parametrize("scaling", ["linear", "ntk", "dynamic", "yarn", "llama3"])
def test_every_scaling_learns_and_is_stretched_again(
    trained: tuple[Any, Run], corpus: Corpus, scaling: str
) -> None:
    stage = begun(trained[1], corpus, last=False, scaling=scaling, name=scaling)
    assert train(stage.run, stage.corpus).status == "done"
    again = longer(
        stage.run,
        corpus,
        2 * TO,
        Asked(to=(2 * TO,), tokens=TOKENS, questions=0.0, long_from=64),
        True,
    ).run.recipe.model
    factor = 2.0 if scaling == "ntk" else 8.0
    assert (again.rope_scaling, again.rope_factor) == (scaling, factor)


def test_interrupted_and_gone_on_with_it_ends_in_the_same_bits(
    trained: tuple[Any, Run], corpus: Corpus, tmp_path: Path
) -> None:
    ends = []
    for place, stops in (("whole", ()), ("parts", (7, 5))):
        shutil.copytree(trained[0].path, tmp_path / place)
        parent = open_run(tmp_path / place / "runs" / trained[1].id)
        stage = begun(parent, corpus)
        for steps in stops:
            assert train(stage.run, stage.corpus, stopped_at(steps)).status == "interrupted"
        assert train(stage.run, stage.corpus).status == "done"
        ends.append(list(load_model(stage.run).parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("times", "steps"), [(3, 240), pytest.param(10, 400, marks=pytest.mark.slow)]
)
def test_killed_it_ends_in_the_same_bits(
    times: int,
    steps: int,
    trained: tuple[Any, Run],
    tmp_path: Path,
    final_bytes: Callable[[Path], dict[str, bytes]],
) -> None:
    """By the real command line and real kills, questions, an NTK-aware RoPE and a new head among
    them.
    """
    chance, ends = random.Random(3), []
    for place, kills in (("whole", 0), ("killed", times)):
        shutil.copytree(trained[0].path, tmp_path / place)
        lab = replace(trained[0], path=tmp_path / place)
        asked = ("longer", trained[1].id, "--to", TO, "--tokens", steps * BATCH, "--untie")
        asked = (*asked, "--scaling", "ntk", "--questions", "0.2", "--name", "killed")
        for _ in range(kills):
            process = lab.start(*asked)
            had = recorded(lab.path)
            wait_until(lambda had=had, path=lab.path: recorded(path) > had, process, every=0.005)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it was to be killed before its end"
        run = Path(lab.json(*asked)["path"])
        ends.append((run.name, final_bytes(run)))
    assert ends[0] == ends[1]


def recorded(lab: Path) -> int:
    """Bytes that the longer run has recorded of its steps."""
    files = [
        run / "metrics.jsonl"
        for run in (lab / "runs").iterdir()
        if (run / "recipe.toml").exists() and "killed" in (run / "recipe.toml").read_text()
    ]
    return sum(file.stat().st_size for file in files if file.exists())


def test_a_longer_run_is_fine_tuned(
    trained: tuple[Any, Run], corpus: Corpus, tmp_path: Path
) -> None:
    stage = begun(trained[1], corpus, name="before chat")
    train(stage.run, stage.corpus)
    data = tmp_path / "talk.jsonl"
    lines = [{"prompt": f"what is {i}", "completion": f"it is {i}"} for i in range(60)]
    data.write_text("\n".join(map(json.dumps, lines)))
    run, chats = sft(stage.run, [data], Tuning(epochs=1.0))
    assert train(run, chats).status == "done"
    # a longer run is no fine-tuned one: its rate is that of its stem
    assert run.recipe.optimizer.lr == pytest.approx(0.1 * trained[1].recipe.optimizer.lr)
    assert run.recipe.data.context == TO and run.recipe.model.rope_scaling == "abf"


def test_a_longer_stem_is_branched_upcycled_and_exported(
    trained: tuple[Any, Run], corpus: Corpus, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    stage = begun(trained[1], corpus, decay=Length(), name="stem", untie=True)
    stem, packed = stage.run, stage.corpus
    assert train(stem, packed).status == "done" and stem.recipe.is_stem
    tail = branch(stem, packed, TOKENS, 5 * BATCH)
    assert train(tail, packed).status == "done"
    assert tail.recipe.model.rope_scaling == "abf" and tail.recipe.data.context == TO
    experts = upcycle(tail, packed, Upcycling(tokens=TOKENS, experts=2))
    assert train(experts, packed).status == "done"
    assert text_of(tail).digest == corpus.digest
    # scored beyond the old context
    held = Subject.of(tail).held_out
    assert held.skip == WAS and held.windows.shape[1] == TO
    found = export(tail, "hf", tmp_path / "out").agreement
    assert found.tokens == held.tokens and found.max_difference < 1e-4


@pytest.mark.parametrize(
    ("to", "asked", "said"),
    [
        (WAS, {}, "--to 32: expected more than the 32 tokens"),
        (16, {}, "--to 16: expected more than the 32 tokens"),
        (48, {}, "--to 48: expected a multiple of the 32 tokens"),
        (TO, {"base": 500.0}, "--base 500: expected more than the present base of 10000"),
        (TO, {"scaling": "yearn"}, "--scaling yearn: expected one of .*did you mean 'yarn'"),
        (TO, {"scaling": "yarn", "base": 1e6}, "scaling 'yarn' changes no base"),
        (TO, {"batch": 192}, "--batch 192: expected a multiple of the window of 128"),
        (TO, {"tokens": 64}, "--tokens 64: less than one batch of 128"),
        (TO, {"long_from": 120}, "no document is longer than 120 tokens"),
        (TO, {"long_from": 128}, "--long-from 128: expected less than the window of 128"),
        (TO, {"questions": 0.5}, "--questions 0.5: expected a share between 0 and 0.44"),
        (TO, {"at": 5}, "no checkpoint at 5 tokens; there are: "),
    ],
)
def test_what_cannot_be_is_said(
    trained: tuple[Any, Run], corpus: Corpus, to: int, asked: dict[str, Any], said: str
) -> None:
    before = {path.name for path in (trained[0].path / "runs").iterdir()}
    with pytest.raises(InputError, match=said):
        values = {"to": (to,), "tokens": TOKENS, "questions": 0.0} | asked
        stages(context_of(trained[1]), Asked(**values))
        begun(trained[1], corpus, to, **asked)
    assert {path.name for path in (trained[0].path / "runs").iterdir()} == before


def test_ranks_that_could_not_share_the_last_stage_are_refused_before_the_first(
    trained: tuple[Any, Run],
) -> None:
    lab, parent = trained
    before = lab.files()
    asked = ("longer", parent.id, "--to", "64,128", "--tokens", 8 * BATCH, "--batch", BATCH)
    done = lab.run(*asked, RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2 and "2 processes can't share a batch of 1 windows" in done.stderr
    assert lab.files() == before


def test_what_speaks_against_it_is_said_before_it_is_trained(
    trained: tuple[Any, Run], corpus: Corpus
) -> None:
    few = " ".join(begun(trained[1], corpus, to=256, base=10_001.0, tokens=10**6).notes)
    assert "documents are longer than 32 tokens" in few
    assert "each of them is read 4 times" in few
    assert "base of 10001 is too small for 256 tokens" in few
    none = " ".join(begun(trained[1], corpus, to=256, long_from=200, questions=0.1).notes)
    assert "without long documents, the long part is questions alone" in none


def test_another_scaling_than_that_which_a_model_has_is_refused(
    trained: tuple[Any, Run], corpus: Corpus
) -> None:
    stage = begun(trained[1], corpus, last=False, scaling="linear", name="interpolated")
    train(stage.run, stage.corpus)
    with pytest.raises(InputError, match="its RoPE is scaled by 'linear', on top of which only"):
        begun(stage.run, corpus, 2 * TO, scaling="ntk", long_from=64)


def test_a_dry_run_says_what_every_stage_takes_and_does_nothing(trained: tuple[Any, Run]) -> None:
    lab, parent = trained
    before = lab.files()
    asked = ("longer", parent.id, "--to", 32 * 64, "--tokens", 8192, "--batch", 2048, "--dry-run")
    first, last = lab.json(*asked)
    assert lab.files() == before
    assert [first["tokens"], first["steps"]] == [8192, 4]
    for told, context in ((first, 256), (last, 2048)):
        (need,) = told["needs"]
        assert need["devices"] == 1 and told["engine"]["micro_batch"] % context == 0
    assert last["memory"]["activations"] > 0 and last["name"] == "tiny-256-2k"
    printed = lab.run(*asked)
    assert printed.returncode == 0 and "tiny-256-2k would take" in printed.stdout


def test_a_dry_run_plans_what_a_real_one_trains(trained: tuple[Any, Run], corpus: Corpus) -> None:
    _, parent = trained
    asked = Asked(to=(TO,), tokens=TOKENS, questions=0.0)
    (recipe,) = planned(parent.recipe, WAS, asked)
    run = begun(parent, corpus).run
    text = {"corpus": run.recipe.data.corpus, "mixture": run.recipe.data.mixture}
    assert recipe.change(data=text) == run.recipe


def test_a_dry_run_of_an_imported_model_takes_the_corpus_that_is_named(
    trained: tuple[Any, Run],
) -> None:
    _, parent = trained
    imported = parent.recipe.change(
        data={"corpus": ""}, schedule={"tokens": 0, "warmup": 0, "decay": 0}
    )
    asked = Asked(to=(TO,), tokens=TOKENS, lr=1e-4)
    (recipe,) = planned(imported, WAS, asked, "mine")
    assert recipe.data.corpus == "mine"
    with pytest.raises(InputError, match=r"--corpus: tiny.* is imported and has none"):
        list(planned(imported, WAS, asked))


def test_the_file_of_a_recipe_can_be_planned_and_not_trained(trained: tuple[Any, Run]) -> None:
    lab, _ = trained
    file = Path(__file__).parents[2] / "recipes" / "minicpm-1.2b.toml"
    asked = ("longer", file, "--to", "128k", "--tokens", "10B")
    first, last = lab.json(*asked, "--untie", "--dry-run")
    assert (first["name"], last["name"]) == ("minicpm-1.2b-32k", "minicpm-1.2b-32k-128k")
    assert first["params_total"] == last["params_total"]
    refused = lab.run(*asked)
    assert refused.returncode == 2 and "run" in refused.stderr
