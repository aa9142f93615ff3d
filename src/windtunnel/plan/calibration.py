"""How a lab's forecasts came out: how many of the losses lay inside their intervals, and how far
off the predictions were, by how far they reached.
"""

from collections.abc import Sequence
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.plan.forecasts import opened
from windtunnel.plan.ledger import Ledger, read_ledger
from windtunnel.results.forecast import (
    Band,
    Calibration,
    Forecast,
    ForecastState,
    Outcome,
    State,
    Tally,
)
from windtunnel.results.run import RunStatus

# FLOPs, times those of the most expensive run in the fit: where one band ends and the next begins.
_ENDS = (3.0, 30.0)

_Opened = tuple[Forecast, Outcome]


def calibration(lab: Path) -> Calibration:
    """The record of a lab's forecasts. Raises InputError for a ledger that is damaged."""
    ledger = read_ledger(lab)
    states = _states(lab, ledger)
    counted = [(one.forecast, one.outcome) for one in states if one.outcome and one.why is None]
    bands = []
    for beyond, up_to in zip((0.0, *_ENDS), (*_ENDS, None), strict=True):
        inside = [one for one in counted if _is_within(one[0], beyond, up_to)]
        bands.append(Band(beyond=beyond, up_to=up_to, **_tally(inside).model_dump()))
    return Calibration(
        ledger=ledger.file,
        sealed=len(states),
        opened=sum(one.outcome is not None for one in states),
        all=_tally(counted),
        bands=tuple(bands),
        forecasts=states,
        changed=ledger.changed,
        chain=ledger.chain,
    )


def _states(lab: Path, ledger: Ledger) -> tuple[ForecastState, ...]:
    """Every forecast with what came of it, in the order in which they were sealed."""
    outcomes = [_outcome_of(ledger, forecast) for forecast in ledger.forecasts]
    pairs = list(zip(ledger.forecasts, outcomes, strict=True))
    last: dict[str, str] = {}  # by run, the last forecast that counts
    for forecast, outcome in pairs:
        if outcome and _against(ledger, forecast, outcome) is None:
            last[forecast.run] = forecast.id
    found = []
    for forecast, outcome in pairs:
        why, counts = _against(ledger, forecast, outcome), last.get(forecast.run, forecast.id)
        if why is None and counts != forecast.id:
            why = f"{counts} is the last forecast of this run"
        state = _state(lab, forecast, outcome, why)
        found.append(ForecastState(forecast=forecast, outcome=outcome, state=state, why=why))
    return tuple(found)


def _outcome_of(ledger: Ledger, forecast: Forecast) -> Outcome | None:
    """What came of a forecast: by the run that was sealed, where it was held against several."""
    there = [one for one in ledger.outcomes if one.forecast == forecast.id]
    kept = [found for one in there if (found := opened(ledger, forecast.id, one.run))]
    kept.sort(key=lambda one: one.other_run)
    return kept[0] if kept else None


def _against(ledger: Ledger, forecast: Forecast, outcome: Outcome | None) -> str | None:
    """Why a forecast does not count, by itself; None where nothing speaks against it."""
    if ledger.is_changed(forecast):
        return "its line in the ledger was changed"
    if forecast.begun or (outcome and outcome.late):
        return "it was sealed after training began"
    if outcome and outcome.other_run:
        return "it was held against another run than the one that was sealed"
    return None


def _state(lab: Path, forecast: Forecast, outcome: Outcome | None, why: str | None) -> State:
    if outcome:
        return "does not count" if why else "counts"
    file = lab / "runs" / forecast.run / "status.json"
    if not file.exists():
        return "not trained"
    try:
        done = RunStatus.read(file).status == "done"
    except InputError:  # whatever it is, its loss can't be read
        done = False
    return "done, not opened" if done else "not done"


def _is_within(forecast: Forecast, beyond: float, up_to: float | None) -> bool:
    flops = forecast.distance.flops
    return beyond < flops and (up_to is None or flops <= up_to)


def _tally(opened: Sequence[_Opened]) -> Tally:
    errors = [outcome.error for _, outcome in opened]
    return Tally(
        count=len(opened),
        inside50=sum(outcome.inside50 for _, outcome in opened),
        inside90=sum(outcome.inside90 for _, outcome in opened),
        mean_error=_mean(errors),
        mean_size=_mean([abs(error) for error in errors]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
