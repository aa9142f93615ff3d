"""Plans on disk: `plans/NAME/plan.toml`, the recipe, and `plan.json`, what the plan says of it.
Both are written and read here and nowhere else.
"""

from pathlib import Path

from windtunnel.files import write_whole
from windtunnel.laws.error import relative_error
from windtunnel.recipe import Recipe, dump, identity, load
from windtunnel.results.forecast import Forecast
from windtunnel.results.plan import Audit, PlanResult, ten_digits

_RECIPE, _RESULT = "plan.toml", "plan.json"


def plans(lab: Path) -> list[Path]:
    """Folders of the lab's plans, by name."""
    return sorted(file.parent for file in (lab / "plans").glob(f"*/{_RESULT}"))


def plans_of_run(lab: Path, run: str, corpus: str) -> list[Path]:
    """Folders of the lab's plans whose recipe, on the corpus of this digest, is the run of this
    id: that which the run would have today, `Run.present_id`.
    """
    return [folder for folder in plans(lab) if identity(recipe_of(folder), corpus) == run]


def recipe_of(folder: Path) -> Recipe:
    """A plan's recipe. Raises InputError naming file and key."""
    return load(folder / _RECIPE)


def recipe_path(folder: Path) -> Path:
    """Where a plan's recipe is."""
    return folder / _RECIPE


def read_plan(folder: Path) -> PlanResult:
    """What a plan says. Raises InputError for a plan.json that is missing or damaged, naming the
    field.
    """
    return PlanResult.read(folder / _RESULT)


def write_plan(folder: Path, recipe: Recipe, plan: PlanResult) -> None:
    """Write both files, each whole. The audit of a run that the same recipe made stays as it was:
    against what was predicted of it then. Raises InputError where they can't be written.
    """
    if (folder / _RESULT).exists():
        audit = read_plan(folder).audit
        if audit and recipe_of(folder) == recipe:
            plan = audited(plan, audit)
    low, high = plan.interval90
    head = (
        f"# Made by `windtunnel plan`. Expected loss: {plan.loss:.4f} nats/token, 90% between "
        f"{low:.4f} and {high:.4f}.\n"
        f"# {_RESULT}, beside this file, says where each number came from.\n"
    )
    write_whole(folder / _RECIPE, head + dump(recipe), make_folder=True)
    rewrite_plan(folder, plan)


def rewrite_plan(folder: Path, plan: PlanResult) -> None:
    """Write what the plan says anew, beside the same recipe. Raises InputError."""
    write_whole(folder / _RESULT, plan.to_json() + "\n")


def audited(plan: PlanResult, audit: Audit) -> PlanResult:
    """The plan with what came of it."""
    return plan.model_copy(update={"audit": audit})


def compare(said: PlanResult | Forecast, run: str, loss: float) -> Audit:
    """Predicted against got: the loss, nats/token, that a run reached."""
    loss = ten_digits(loss)
    (low50, high50), (low90, high90) = said.interval50, said.interval90
    return Audit(
        run=run,
        forecast=said.id if isinstance(said, Forecast) else None,
        loss=loss,
        predicted=said.loss,
        error=relative_error(said.loss, loss),
        inside50=low50 <= loss <= high50,
        inside90=low90 <= loss <= high90,
    )
