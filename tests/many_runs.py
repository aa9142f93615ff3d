"""A lab of many runs: stems with three branches each, as training leaves them, without training."""

import shutil
from pathlib import Path
from typing import Any

from windtunnel.results.run import AboutRun, RunStatus, Score, StepLine, Validation, ValidationLine
from windtunnel.train.run import Run

_STEPS = 200
_BRANCHES = 3


def fill(lab: Path, made: Run, count: int) -> list[str]:
    """Copies of a run that was created, with ids, kinds and losses of their own; the ids."""
    recipe = (made.path / "recipe.toml").read_text()
    ids = []
    for number in range(count):
        stem = number - number % (_BRANCHES + 1)
        is_stem = number == stem
        name = f"{number:012x}"
        folder = lab / "runs" / name
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(
            recipe.replace('name = "tiny"', f'name = "run-{number}"')
        )
        tokens = 6400 if is_stem else 1280 * (number - stem)
        about: dict[str, Any] = {"kind": "stem" if is_stem else "branch"}
        about |= {} if is_stem else {"parent": f"{stem:012x}", "at_tokens": tokens}
        about = {"parent": None, "at_tokens": None} | about
        AboutRun(id=name, corpus=made.corpus, results_version=made.results_version, **about).write(
            folder / "run.json"
        )
        score = Score(loss=4 + number / 1e4, bits_per_byte=2.0, tokens=1)
        RunStatus(
            status="done", tokens=tokens, loss=score.loss, bits_per_byte=score.bits_per_byte
        ).write(folder / "status.json")
        lines = [
            StepLine(
                tokens=tokens * step // _STEPS,
                loss=4 + 2 / step,
                lr=0.01,
                grad_norm=1.0,
                tokens_per_s=1,
                peak_share=0.1,
            ).to_json()
            for step in range(1, _STEPS + 1)
        ]
        held = Validation(**score.model_dump(), sources={"all": score})
        lines.append(ValidationLine(tokens=tokens, validation=held).to_json())
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        ids.append(name)
    shutil.rmtree(made.path)
    return ids
