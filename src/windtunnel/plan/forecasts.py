"""Forecasts: a plan's prediction, sealed before its run is trained, and opened once it was."""

import hashlib
from pathlib import Path

import windtunnel
from windtunnel.files import sha256_of
from windtunnel.laws.points import LossPoints
from windtunnel.plan.ledger import Ledger, held
from windtunnel.plan.record import compare
from windtunnel.recipe import Recipe, identity
from windtunnel.recipe.ids import apart
from windtunnel.results.forecast import Distance, Forecast, Outcome
from windtunnel.results.plan import PlanResult

# What no prediction depends on: the same one again is the same forecast.
_OF_THE_MOMENT = {"id", "time", "chain", "begun", "windtunnel", "source"}


def seal(lab: Path, recipe: Recipe, plan: PlanResult, corpus: str, points: LossPoints) -> Forecast:
    """Add to the lab's ledger what a plan predicts of the run of its recipe on the corpus of this
    digest, by laws through these points; the forecast that is there already, where it says the
    same. Raises InputError where the ledger can't be written, or is damaged.
    """
    made = _forecast(lab, recipe, plan, corpus, points)
    with held(lab) as ledger:
        for there in ledger.says.forecasts:
            if there.id == made.id and not ledger.says.is_changed(there):
                return there
        # asked only now: nobody began the run while we waited
        begun = (lab / "runs" / made.run).exists()
        return ledger.add(made.model_copy(update={"begun": begun}))


def open_forecast(lab: Path, outcome: Outcome) -> Outcome:
    """Add to the lab's ledger what came of a forecast. It is opened once for a run: what stands
    there already stays, and is given back. Raises InputError as `seal` does.
    """
    with held(lab) as ledger:
        there = opened(ledger.says, outcome.forecast, outcome.run)
        return there or ledger.add(outcome)


def opened(ledger: Ledger, forecast: str, run: str) -> Outcome | None:
    """What came of the forecast by this run, as it was opened; None where it was not."""
    for outcome in ledger.outcomes:
        if (outcome.forecast, outcome.run) == (forecast, run) and not ledger.is_changed(outcome):
            return outcome
    return None


def outcome_of(forecast: Forecast, run: str, loss: float, *, late: bool, other: bool) -> Outcome:
    """What came of a forecast, by a run that reached this loss, nats/token."""
    found = compare(forecast, run, loss)
    return Outcome(
        forecast=forecast.id,
        run=run,
        loss=found.loss,
        error=found.error,
        inside50=found.inside50,
        inside90=found.inside90,
        late=late,
        other_run=other,
    )


def _forecast(
    lab: Path, recipe: Recipe, plan: PlanResult, corpus: str, points: LossPoints
) -> Forecast:
    reach = plan.extrapolation
    made = Forecast(
        id="",
        plan=plan.plan,
        run=identity(recipe, corpus),
        recipe=apart(recipe),
        begun=False,
        points=_hash_of(points),
        windtunnel=windtunnel.__version__,
        source=_source(),
        params=plan.params,
        tokens=plan.tokens,
        flops=plan.flops,
        loss=plan.loss,
        interval50=plan.interval50,
        interval90=plan.interval90,
        distance=Distance(
            params=reach.params,
            tokens=reach.tokens,
            flops=plan.flops / float(points.flops.max()),
        ),
    )
    said = made.model_dump_json(exclude=_OF_THE_MOMENT)
    return made.model_copy(update={"id": hashlib.sha256(said.encode()).hexdigest()[:12]})


def _hash_of(points: LossPoints) -> str:
    """sha256 of what the laws are fitted to, in hex."""
    found = hashlib.sha256()
    columns = {**points.params, "tokens": points.tokens, "loss": points.loss}
    columns |= {"flops": points.flops, "stem": points.stem, "seed": points.seed}
    for name, values in columns.items():
        found.update(f"{name}:{values.tolist()}\n".encode())
    return found.hexdigest()


def _source() -> str:
    """sha256 of windtunnel's source, in hex."""
    folder, found = Path(windtunnel.__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        found.update(f"{file.relative_to(folder)}:{sha256_of(file)}\n".encode())
    return found.hexdigest()
