"""Predicted against got: what was sealed of a run before it was trained, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import InputError, did_you_mean
from windtunnel.plan.forecasts import open_forecast, outcome_of
from windtunnel.plan.ledger import Ledger, read_ledger, seconds_of
from windtunnel.plan.record import (
    audited,
    compare,
    plans,
    plans_of_run,
    read_plan,
    recipe_of,
    rewrite_plan,
)
from windtunnel.recipe import Recipe, identity
from windtunnel.recipe.ids import apart
from windtunnel.results.forecast import Forecast
from windtunnel.results.plan import Audit, PlanResult
from windtunnel.train.run import Run
from windtunnel.tunnel.study import validation_at

# Of what a plan says, what is sealed.
_SEALED = ("params", "tokens", "flops", "loss", "interval50", "interval90")


@dataclass(frozen=True)
class Audited:
    """What an audit found."""

    audit: Audit
    folder: Path | None
    """Of the plan, which says so now too; None where a plan of that name is no longer there, or has
    been made anew for another run.
    """


def audit(lab: Path, run: Run, name: str = "") -> Audited:
    """Open the forecast that was sealed of a run, and write what came of it into the lab's ledger
    and into the plan. Without a seal the run is held against the plan as it stands, which is said.
    `name`: of the plan; found by the run if not given. Raises InputError for a run that no plan
    describes, or that is not done.
    """
    ledger = read_ledger(lab)
    forecast = _sealed(ledger, run, name)
    folder = lab / "plans" / forecast.plan if forecast else _plan_of(lab, ledger, run, name)
    status = run.status().status
    if status != "done":
        raise InputError(f"{run.path}: the run is {status}; an audit needs its final loss")
    loss = validation_at(run, run.recipe.total_tokens).loss
    plan = read_plan(folder) if folder in plans(lab) else None
    if plan and forecast is None:
        forecast = _named(ledger, plan)
    if forecast is None:
        assert plan
        found = compare(plan, run.id, loss).model_copy(update={"remarks": (_unsealed(plan),)})
    else:
        found = _opened(lab, ledger, forecast, run, loss)
    if plan is None or not _tells_of(plan, folder, forecast, run):
        return Audited(found, None)
    if forecast:
        more = _changed_since(forecast, plan, recipe_of(folder), run)
        found = found.model_copy(update={"remarks": (*found.remarks, *more)})
    rewrite_plan(folder, audited(plan, found))
    return Audited(found, folder)


def _sealed(ledger: Ledger, run: Run, name: str) -> Forecast | None:
    """The last forecast of this run that was sealed before its training began and not changed
    since; the last one, where there is none such; None without any. `name`: of the plan, where one
    is given.
    """
    of_run = [one for one in ledger.forecasts if one.run in (run.id, run.present_id)]
    named = [one for one in of_run if name in ("", one.plan)]
    sound = [one for one in named if not _is_late(one, run) and not ledger.is_changed(one)]
    return (sound or named or [None])[-1]


def _is_late(forecast: Forecast, run: Run) -> bool:
    """Whether a forecast of a run, or of the plan that it was made from, was sealed after training
    began.
    """
    # written once, when the run's folder is made; a run that was trained in another lab and copied
    # keeps its time
    begun = (run.path / "run.json").stat().st_mtime
    return forecast.begun or begun < seconds_of(forecast)


def _plan_of(lab: Path, ledger: Ledger, run: Run, name: str) -> Path:
    """The plan whose recipe is the run's; of this name, where one is given."""
    names = {folder.name for folder in plans(lab)} | {one.plan for one in ledger.forecasts}
    if name and name not in names:
        hint = did_you_mean(name, sorted(names))
        raise InputError(f"--name {name}: {lab} has no such plan{hint}")
    for folder in plans_of_run(lab, run.present_id, run.corpus):
        if not name or folder.name == name:
            return folder
    which = f"the plan '{name}'" if name else f"any plan of {lab}"
    hint = "only a run that `windtunnel train PLAN.toml` made can be audited"
    raise InputError(f"{run.id}: not a run of {which}; {hint}")


def _named(ledger: Ledger, plan: PlanResult) -> Forecast | None:
    """The forecast that a plan names; its recipe was changed since, if that made another run."""
    return next((one for one in ledger.forecasts if one.id == plan.forecast), None)


def _unsealed(plan: PlanResult) -> str:
    if plan.forecast:
        return f"its forecast {plan.forecast} is no longer in the lab's ledger"
    return "nothing was sealed: this is what the plan says now"


def _opened(lab: Path, ledger: Ledger, forecast: Forecast, run: Run, loss: float) -> Audit:
    """A forecast held against a run, and written into the ledger."""
    other = forecast.run not in (run.id, run.present_id)
    late = _is_late(forecast, run)
    outcome = outcome_of(forecast, run.id, loss, late=late, other=other)
    stands = open_forecast(lab, outcome)
    remarks = []
    if late:
        remarks.append("the forecast was sealed after training began")
    if other:
        keys = _differing(forecast, run.recipe) or ["its corpus, or the release that trained it"]
        remarks.append(f"the run is not the one that was sealed: it differs in {', '.join(keys)}")
    if ledger.is_changed(forecast):
        remarks.append("its line in the ledger was changed after it was sealed")
    if stands.loss != outcome.loss:
        remarks.append(f"in the ledger it was opened before, with a loss of {stands.loss:.4f}")
    return compare(forecast, run.id, loss).model_copy(update={"remarks": tuple(remarks)})


def _tells_of(plan: PlanResult, folder: Path, forecast: Forecast | None, run: Run) -> bool:
    """Whether a plan, as it is now, is the one of this forecast, or of this run."""
    if forecast and plan.forecast == forecast.id:
        return True
    return identity(recipe_of(folder), run.corpus) == run.present_id


def _changed_since(forecast: Forecast, plan: PlanResult, recipe: Recipe, run: Run) -> list[str]:
    """What of a plan's files is not as it was sealed. A recipe that is the run's own is not: what
    the run differs in was said already.
    """
    found = []
    said = [key for key in _SEALED if getattr(plan, key) != getattr(forecast, key)]
    if said:
        found.append(f"plan.json no longer says what was sealed: {', '.join(said)}")
    keys = _differing(forecast, recipe)
    if keys and identity(recipe, run.corpus) != run.present_id:
        found.append(f"plan.toml is no longer the recipe that was sealed: {', '.join(keys)}")
    return found


def _differing(forecast: Forecast, recipe: Recipe) -> Sequence[str]:
    """Keys of a recipe that are not as they were sealed."""
    now, then = apart(recipe), forecast.recipe
    return [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
