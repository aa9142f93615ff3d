"""Predicted against got: what a plan said of a run, and what came out."""

from pathlib import Path

from windtunnel.errors import InputError, did_you_mean
from windtunnel.plan.plan import compare, plans, read_plan, write_plan
from windtunnel.recipe import identity, load
from windtunnel.train.run import Run
from windtunnel.tunnel.study import final


def audit(lab: Path, run: Run, name: str = "") -> Path:
    """Write into the plan that a run was made from what the run gave; returns the plan's folder.
    `name`: of the plan; found by its recipe if not given. Raises InputError for a run that no
    plan describes, or that is not done.
    """
    folder = _plan_of(lab, run, name)
    status = run.status().status
    got = final(run) if status == "done" else None
    if got is None:
        raise InputError(f"{run.path}: the run is {status}; an audit needs its final loss")
    content = read_plan(folder)
    content["audit"] = compare(content, run.id, got.loss)
    write_plan(folder, content)
    return folder


def _plan_of(lab: Path, run: Run, name: str) -> Path:
    """The plan whose recipe is the run's."""
    folders = plans(lab)
    if name and lab / "plans" / name not in folders:
        raise InputError(
            f"--name {name}: {lab} has no such plan{did_you_mean(name, [f.name for f in folders])}"
        )
    candidates = [folder for folder in folders if not name or folder.name == name]
    found = [f for f in candidates if identity(load(f / "plan.toml"), run.corpus) == run.id]
    if not found:
        which = (
            f"plan '{name}'"
            if name
            else "any of its plans"
            if folders
            else "a plan, and there are none"
        )
        raise InputError(
            f"{run.id}: not a run of {which}; a run is audited that `windtunnel train PLAN.toml` made"
        )
    return found[0]
