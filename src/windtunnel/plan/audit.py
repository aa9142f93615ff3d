"""Predicted against got: what a plan said of a run, and what came out."""

from pathlib import Path

from windtunnel.errors import InputError, did_you_mean
from windtunnel.plan.record import audited, plans, plans_of_run, read_plan, rewrite_plan
from windtunnel.train.run import Run
from windtunnel.tunnel.study import validation_at


def audit(lab: Path, run: Run, name: str = "") -> Path:
    """Write into the plan that a run was made from what the run gave; returns the plan's folder.
    `name`: of the plan; found by its recipe if not given. Raises InputError for a run that no
    plan describes, or that is not done.
    """
    folder = _plan_of(lab, run, name)
    status = run.status().status
    if status != "done":
        raise InputError(f"{run.path}: the run is {status}; an audit needs its final loss")
    got = validation_at(run, run.recipe.total_tokens)
    rewrite_plan(folder, audited(read_plan(folder), run.id, got.loss))
    return folder


def _plan_of(lab: Path, run: Run, name: str) -> Path:
    """The plan whose recipe is the run's; of this name, where one is given."""
    known = plans(lab)
    names = [folder.name for folder in known]
    if name and name not in names:
        raise InputError(f"--name {name}: {lab} has no such plan{did_you_mean(name, names)}")
    for folder in plans_of_run(lab, run.present_id, run.corpus):
        if not name or folder.name == name:
            return folder
    which = f"the plan '{name}'" if name else f"any plan of {lab}"
    hint = "only a run that `windtunnel train PLAN.toml` made can be audited"
    raise InputError(f"{run.id}: not a run of {which}; {hint}")
