"""Forecasts and what came of them, for the tests of ledgers."""

from pathlib import Path
from typing import Any

from windtunnel.plan.forecasts import outcome_of
from windtunnel.plan.ledger import held
from windtunnel.results.forecast import Distance, Forecast, Outcome

LOSS = 4.0


def forecast(number: int = 1, flops: float = 2.0, **more: Any) -> Forecast:
    """Of the run of this number, so many times the FLOPs of the fit: a loss of 4, half of the time
    between 3.9 and 4.1, nine times in ten between 3.8 and 4.2.
    """
    values: dict[str, Any] = {
        "id": f"{number:012x}",
        "plan": f"plan-{number}",
        "run": f"{number:012d}",
        "recipe": {"model.width": 32},
        "begun": False,
        "points": "0" * 64,
        "windtunnel": "0.1.0",
        "source": "0" * 64,
        "params": 10_000,
        "tokens": 100_000,
        "flops": 6 * 10**9,
        "loss": LOSS,
        "interval50": (3.9, 4.1),
        "interval90": (3.8, 4.2),
        "distance": Distance(params=1.0, tokens=2.0, flops=flops),
    }
    return Forecast(**values | more)


def outcome(of: Forecast, loss: float, late: bool = False, other: bool = False) -> Outcome:
    """What came of a forecast, by its own run or another."""
    return outcome_of(of, "f" * 12 if other else of.run, loss, late=late, other=other)


def add(lab: Path, *lines: Forecast | Outcome) -> Path:
    """Add lines to the lab's ledger; returns its file."""
    for line in lines:
        with held(lab) as ledger:
            ledger.add(line)
    return lab / "forecasts.jsonl"
