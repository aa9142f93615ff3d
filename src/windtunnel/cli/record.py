"""`windtunnel record`: how the forecasts of a lab came out."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab

if TYPE_CHECKING:
    from windtunnel.results.forecast import Band, Calibration, ForecastState, Tally


@app.command()
def record(lab: Lab = DEFAULT_LAB, as_json: Json = False) -> None:
    """Show how the forecasts of a lab came out.

    `windtunnel plan` seals what it predicts before anything is trained, and `windtunnel plan
    --audit RUN` opens it. How many of the losses lay inside their intervals, and how far off were
    the predictions? Exit code 1: the ledger of forecasts was changed.
    """
    from windtunnel.plan.calibration import calibration

    found = calibration(lab)
    if as_json:
        print(found.to_json())
    else:
        _print(lab, found)
    if found.changed:
        raise typer.Exit(1)


def _print(lab: Path, found: "Calibration") -> None:
    if not found.sealed:
        print(f"{lab} holds no forecasts yet: `windtunnel plan` seals one")
        return
    for number in found.changed:
        print(f"CHANGED: line {number} of {found.ledger} does not follow from the line before it")
    count = "counts" if found.all.count == 1 else "count"
    print(f"{found.sealed} sealed, {found.opened} opened, {found.all.count} of them {count}\n")
    if found.all.count:
        print(f"{'FLOPs':22}{'count':>6}{'in 50%':>8}{'in 90%':>8}{'error':>10}{'size':>8}")
        for band in found.bands:
            _print_tally(_reach(band), band)
        _print_tally("all", found.all)
        print(
            "FLOPs: of the most expensive run in the fit; error: mean of predicted over\n"
            "reached, minus 1; size: the same without signs\n"
        )
    print(
        f"{'forecast':14}{'plan':14}{'FLOPs':>8}{'predicted':>11}{'90%':>17}{'reached':>8}"
        f"{'error':>8}"
    )
    for one in found.forecasts:
        _print_forecast(one)
    print(f"\n{found.ledger} ends with {found.chain[:12]}")


def _print_tally(label: str, tally: "Tally") -> None:
    error = "-" if tally.mean_error is None else f"{tally.mean_error:+.2%}"
    size = "-" if tally.mean_size is None else f"{tally.mean_size:.2%}"
    print(f"{label:22}{tally.count:>6}{tally.inside50:>8}{tally.inside90:>8}{error:>10}{size:>8}")


def _reach(band: "Band") -> str:
    if band.up_to is None:
        return f"more than {band.beyond:g}x"
    return f"{band.beyond:g} to {band.up_to:g}x" if band.beyond else f"up to {band.up_to:g}x"


def _print_forecast(one: "ForecastState") -> None:
    forecast, outcome = one.forecast, one.outcome
    low, high = forecast.interval90
    reached = f"{outcome.loss:.4f}" if outcome else "-"
    error = f"{outcome.error:+.2%}" if outcome else "-"
    state = f"{one.state}: {one.why}" if one.why else one.state
    print(
        f"{forecast.id:14}{forecast.plan[:13]:14}{f'{forecast.distance.flops:.3g}x':>8}"
        f"{forecast.loss:>11.4f}{f'{low:.3f} to {high:.3f}':>17}{reached:>8}{error:>8}"
    )
    print(f"  sealed {forecast.time}, run {forecast.run}: {state}")
