"""Losses, log-probabilities and gradients against TRL's own trainers, on the same batch and the
same weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import write_chats
from preferences import some_judged, some_pairs, write_lines

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.family.dpo import Asked, dpo
from windtunnel.family.sft import Asked as SftAsked
from windtunnel.family.sft import sft
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, ObjectiveKind, dump
from windtunnel.recipe.preference import CHOSEN
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import load_model
from windtunnel.train.objective import Batch, Objective
from windtunnel.train.preference import Reference
from windtunnel.train.run import Run, open_run

trl = pytest.importorskip("trl", reason="TRL is what these are compared with")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

WINDOWS = 6  # of a batch
NEAR = 1e-5
LONGEST = 32


@dataclass(frozen=True)
class Both:
    """A policy and a reference: each as a run of ours and as transformers has it."""

    runs: dict[str, Run]
    models: dict[str, Any]
    tokenizer: Any
    folder: Path


@pytest.fixture(scope="module")
def both(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The policy is the reference with noise on every weight."""
    folder = tmp_path_factory.mktemp("trl")
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    models = {name: transformers.LlamaForCausalLM(config) for name in ("reference", "policy")}
    models["policy"].load_state_dict(models["reference"].state_dict())
    with torch.no_grad():
        for parameter in models["policy"].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(corpus.folder / "tokenizer.json"),
        eos_token="<|end|>",
        pad_token="<|end|>",
    )
    runs = {}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        stem = import_model(folder / name, folder / "lab", name)
        train = {"precision": "fp32", "compile": False, "device": "cpu"}
        (stem.path / "recipe.toml").write_text(dump(stem.recipe.change(train=train)))
        runs[name] = open_run(stem.path)
    return Both(runs, models, tokenizer, folder)


def by_trl(both: Both, kind: str, **settings: Any) -> Any:
    """TRL's trainer of these two models; the data that it is given is not the batch."""
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(both.folder / "trl"),
        report_to=[],
        use_cpu=True,
        max_length=None,
        per_device_train_batch_size=2,
        gradient_checkpointing=False,
        bf16=False,
        **settings,
    )
    answers = {
        "DPO": {"chosen": " a", "rejected": " b"},
        "KTO": {"completion": " a", "label": True},
        "SFT": {"completion": " a"},
    }
    rows = [{"prompt": "wind", **answers[kind]}] * 4
    reference = {} if kind == "SFT" else {"ref_model": both.models["reference"]}
    made = getattr(trl, f"{kind}Trainer")(
        model=both.models["policy"],
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=both.tokenizer,
        **reference,
    )
    both.models["policy"].eval()
    both.models["policy"].zero_grad()
    return made


def gradients_of_theirs(both: Both) -> dict[str, torch.Tensor]:
    """Under our names: a gradient is laid out as the weight is, so it is read as one."""
    folder = both.folder / "gradients"
    holder = transformers.LlamaForCausalLM(both.models["policy"].config)
    with torch.no_grad():
        pairs = zip(holder.parameters(), both.models["policy"].parameters(), strict=True)
        for held, parameter in pairs:
            held.copy_(parameter.grad)
    holder.save_pretrained(folder)
    both.tokenizer.save_pretrained(folder)
    return dict(LAYOUTS["llama"].read(folder).weights)


def documents_of(corpus: Corpus, windows: np.ndarray) -> list[tuple[list[int], list[int], int]]:
    """By document: the tokens before its answer, those of the answer, and what that is."""
    batch, found = Batch.read(torch.from_numpy(windows)), []
    (source,) = corpus.sources.values()
    for inputs, marked, numbers in zip(batch.inputs, batch.marked, batch.numbers, strict=True):
        for number in numbers.unique().tolist():
            ids = inputs[numbers == number].tolist()
            # a target stands one place before the token that it is
            places = marked[numbers == number].nonzero()[:, 0] + 1
            begins, ends = int(places[0]), int(places[-1]) + 1
            found.append((ids[:begins], ids[begins:ends], int(source.train.roles[number])))
    return found


def by_ours(
    both: Both, run: Run, corpus: Corpus, windows: np.ndarray, kind: ObjectiveKind
) -> tuple[float, Decoder]:
    """The loss of a batch, in one part, and the policy with its gradient."""
    engine = choose_engine(run.recipe).model_copy(update={"micro_batch": windows[:, 1:].size})
    model = load_model(both.runs["policy"])
    wide = Decoder(model.model, run.recipe.data.context)
    wide.load_state_dict(model.state_dict())
    for parameter in wide.parameters():
        parameter.grad = torch.zeros_like(parameter)
    reference = Reference.of(run.recipe, run.lab, corpus, engine)
    told = reference and reference.told("train", [run.recipe], engine)
    objective = Objective(wide, engine, corpus.document_end, kind=kind, preferred=told)
    return objective.add_gradient(torch.from_numpy(windows)).item(), wide


def compare_gradients(both: Both, ours: Decoder) -> None:
    theirs = gradients_of_theirs(both)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        size = max(1.0, theirs[name].abs().max().item())
        assert (parameter.grad - theirs[name]).abs().max() / size < NEAR, name


PAIRED = {
    "sigmoid": ({}, {"loss_type": ["sigmoid"], "beta": 0.1}),
    "ipo": ({"betas": (0.3,)}, {"loss_type": ["ipo"], "beta": 0.3}),
    "hinge": ({"betas": (0.5,)}, {"loss_type": ["hinge"], "beta": 0.5}),
    "nca": ({"betas": (0.2,)}, {"loss_type": ["nca_pair"], "beta": 0.2}),
}


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        *[({"loss": name, **asked}, settings) for name, (asked, settings) in PAIRED.items()],
        ({"loss": "sigmoid", "per_token": True}, {"loss_type": ["sigmoid_norm"], "beta": 0.1}),
    ],
    ids=[*PAIRED, "sigmoid of means"],
)
def test_pairs(both: Both, asked: dict[str, Any], settings: dict[str, Any]) -> None:
    data = write_lines(both.folder / "pairs.jsonl", some_pairs())
    wanted = Asked(reference=both.runs["reference"], longest=LONGEST, lrs=(1e-3,), **asked)
    (run,), corpus = dpo(both.runs["policy"], [data], wanted)
    windows = Windows(corpus, run.recipe.data, 0).read(0, WINDOWS * 2 * LONGEST)
    loss, model = by_ours(both, run, corpus, windows, OBJECTIVES["preferences"])

    trainer = by_trl(both, "DPO", **settings)
    documents = documents_of(corpus, windows)
    batch = trainer.data_collator(
        [
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            for (prompt, chosen, _), (_, rejected, _) in zip(
                documents[::2], documents[1::2], strict=True
            )
        ]
    )
    assert [role for _, _, role in documents[:2]] == [CHOSEN, CHOSEN + 1]
    with torch.no_grad():
        theirs = torch.cat(trainer.compute_ref_log_probs(both.models["reference"], batch))
    reference = Reference.of(run.recipe, run.lab, corpus, choose_engine(run.recipe))
    numbers = Batch.read(torch.from_numpy(windows)).numbers
    there = torch.cat([row.unique() for row in numbers]).view(-1, 2)
    assert reference is not None
    mine = -torch.from_numpy(reference.nats["train"])[there].T.flatten()
    assert (mine - theirs).abs().max() < NEAR * theirs.abs().max()

    expected = trainer.compute_loss(both.models["policy"], batch)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=NEAR)
    compare_gradients(both, model)


def test_single_answers(both: Both) -> None:
    """KTO, whose divergence is estimated from answers to other questions: the same ones here."""
    data = write_lines(both.folder / "judged.jsonl", some_judged())
    wanted = Asked(loss="kto", reference=both.runs["reference"], longest=LONGEST, lrs=(1e-3,))
    (run,), corpus = dpo(both.runs["policy"], [data], wanted)
    windows = Windows(corpus, run.recipe.data, 0).read(0, WINDOWS * 2 * LONGEST)
    loss, model = by_ours(both, run, corpus, windows, OBJECTIVES["preferences"])

    trainer = by_trl(both, "KTO", beta=0.1)
    documents = documents_of(corpus, windows)
    examples = [
        {
            "prompt_ids": prompt,
            "completion_ids": answer,
            "KL_completion_ids": other,
            "label": role == CHOSEN,
        }
        for (prompt, answer, role), (_, other, _) in zip(
            documents[::2], documents[1::2], strict=True
        )
    ]
    assert {example["label"] for example in examples} == {True, False}
    expected = trainer.compute_loss(both.models["policy"], trainer.data_collator(examples))
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=NEAR)
    compare_gradients(both, model)


def test_answers(both: Both) -> None:
    """Fine-tuning learns the answers alone."""
    data = write_chats(both.folder / "chats.jsonl")
    run, corpus = sft(both.runs["policy"], [data], SftAsked(lr=1e-3, context=LONGEST))
    windows = Windows(corpus, run.recipe.data, 0).read(0, WINDOWS * LONGEST)
    loss, model = by_ours(both, run, corpus, windows, OBJECTIVES["answers"])

    trainer = by_trl(both, "SFT")
    batch = Batch.read(torch.from_numpy(windows))
    examples = []
    for inputs, marked, numbers in zip(batch.inputs, batch.marked, batch.numbers, strict=True):
        learnt = torch.cat([torch.zeros(1, dtype=torch.bool), marked[:-1]])
        for number in numbers.unique():
            ids, said = inputs[numbers == number], learnt[numbers == number]
            labels = ids.where(said, -100)
            examples.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    expected = trainer.compute_loss(both.models["policy"], trainer.data_collator(examples))
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=NEAR)
    compare_gradients(both, model)
