"""A fleet that trains nothing: every run ends at once with the loss that a known function of its
recipe gives. The tasks, recipes, branches and folders are the real ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.files import write_whole
from windtunnel.recipe import Recipe
from windtunnel.results.run import Score, StepLine, Validation, ValidationLine
from windtunnel.results.study import Experiment
from windtunnel.train.loop import Watch
from windtunnel.train.run import Run
from windtunnel.tunnel.fleet.tasks import Branch, Tasks

# Of all held-out text, or of each source and of `all`. None: the run diverged.
Loss = Callable[[Run], float | Mapping[str, float] | None]


def known(monkeypatch: pytest.MonkeyPatch, study: ModuleType, loss: Loss) -> None:
    """Have a study's runs end with these losses."""

    def fleet(
        lab: Path,
        corpus: Corpus,
        wanted: Sequence[Recipe | Branch],
        watch: Watch,
        label: str,
        study: Experiment[Any, Any],
    ) -> list[Run]:
        tasks = Tasks(lab, corpus, study)
        asked = [tasks.add(one) for one in wanted]
        tasks.open_stems()
        while waiting := tasks.waiting():
            for task in waiting:
                end(task.begun, loss)
        return [task.result() for task in asked]

    monkeypatch.setattr(study, "fleet", fleet)


def end(run: Run, loss: Loss) -> None:
    """Write what a run leaves that has come to its end, or to none."""
    got = loss(run)
    if got is None:
        run.write_status("failed", run.recipe.train.batch, reason="loss is nan")
        return
    tokens = run.recipe.total_tokens
    by_source = got if isinstance(got, Mapping) else {"all": got}
    sources = {name: _score(of_it) for name, of_it in by_source.items()}
    score = sources.pop("all")
    step = StepLine(
        tokens=tokens,
        loss=score.loss,
        lr=run.recipe.optimizer.lr,
        grad_norm=1.0,
        tokens_per_s=100_000,
        peak_share=0.5,
    )
    validation = Validation(**score.model_dump(), sources=sources)
    scored = ValidationLine(tokens=tokens, validation=validation)
    lines = [json.dumps(json.loads(line.to_json())) + "\n" for line in (step, scored)]
    write_whole(run.path / "metrics.jsonl", "".join(lines))
    run.write_status("done", tokens, score)


def _score(loss: float) -> Score:
    return Score(loss=loss, bits_per_byte=loss / 2, tokens=1024)
