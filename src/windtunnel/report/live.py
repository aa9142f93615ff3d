"""What moves on the live page: the runs that train now, their curves, and the planner's form."""

import math
import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from windtunnel.devices import DEVICES
from windtunnel.errors import InputError
from windtunnel.quantities import about, about_hours
from windtunnel.report.figures import loss_figure
from windtunnel.report.html import as_json
from windtunnel.report.standing import lab_option
from windtunnel.report.view import LabView
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import read_table
from windtunnel.train.run import Run, open_run

_MOST_SHOWN = 8  # runs whose curves are drawn at once
_LATELY = 24 * 3600  # seconds: a run that wrote nothing for so long does not train

_DEVICES = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in DEVICES)
_FLOPS = 1e15  # of a plan to begin with, where the lab says nothing of its scale
_LARGER = 10  # times the dearest run in the fit: what a plan is asked for first


def part(view: LabView) -> str:
    """What the app puts in front of the report's sections."""
    flops = _budget(view)
    return f"""
<section class="live" aria-labelledby="now"><h2 id="now">Now</h2>
<p id="now-says" aria-live="polite">Looking.</p>
<div class="scroll" tabindex="0" role="region" aria-label="table: runs that train now">
<table id="now-runs"></table></div>
<div class="plot" id="now-curves" style="height:0" role="img"
 aria-label="loss of the runs that train now"></div></section>
<section class="live" aria-labelledby="planner"><h2 id="planner">Planner</h2>
<p>What a budget would buy, by the laws of this lab. Leave empty what is to follow.</p>
<form id="plan" class="controls" data-lab="{escape(lab_option(view.lab))}">
<label>training FLOPs <input name="flops" size="9" value="1e{math.log10(flops):.0f}"
 inputmode="decimal"></label>
<label>hours <input name="hours" size="6" inputmode="decimal"></label>
<label>device <select name="device"><option value=""></option>{_DEVICES}</select></label>
<label>devices <input name="gpus" size="4" inputmode="numeric"></label>
<label>parameters <input name="params" size="8" placeholder="20M"></label>
<label>tokens in hand <input name="tokens" size="8" placeholder="20M"></label>
<label>epochs <input name="epochs" size="4" inputmode="decimal"></label>
<label>budget, by hand <input type="range" id="budget" min="9" max="24" step="0.05"
 value="{math.log10(flops):.2f}">
</label></form>
<div id="plan-says" aria-live="polite"></div>
<pre class="commands" tabindex="0"><code id="plan-command"></code></pre></section>
<section class="live" aria-labelledby="branching"><h2 id="branching">Branch</h2>
<p id="branch-says">A click on a stem, below, gives the command that leaves it there.</p>
<pre class="commands" tabindex="0"><code id="branch-command"></code></pre></section>
"""


def _budget(view: LabView) -> float:
    """A round number of FLOPs that is worth a plan in this lab."""
    rows = (
        view.attempt(lambda: read_table(view.lab, SCALING)) if SCALING.name in view.studies else ()
    )
    dearest = max((row.flops or 0 for row in rows or ()), default=0)
    return 10.0 ** round(math.log10(_LARGER * dearest)) if dearest else _FLOPS


def now(lab: Path) -> dict[str, Any]:
    """Runs that train, what they still take, and their curves; as JSON can hold it."""
    training = running(lab)
    curved = []
    for run in training[:_MOST_SHOWN]:
        try:
            if len(run.steps()) > 1:
                curved.append(run)
        except InputError:
            continue
    return {
        "runs": [_row(run) for run in training],
        "figure": as_json(loss_figure(curved)) if curved else None,
    }


def running(lab: Path) -> Sequence[Run]:
    """The runs that a process trains now. Of the others only the time of a file is read, so that
    a lab of thousands answers at once.
    """
    since = time.time() - _LATELY
    found = []
    try:
        folders = [one for one in os.scandir(lab / "runs") if one.name[0] != "."]
    except OSError:
        return []
    for folder in folders:
        try:
            if os.stat(f"{folder.path}/lock").st_mtime < since:
                continue
            run = open_run(Path(folder.path))
            if run.status().status == "running":
                found.append(run)
        except (OSError, InputError):  # no lock: nobody ever trained it
            continue
    return sorted(found, key=lambda run: run.recipe.name)


def _row(run: Run) -> list[str]:
    """Id, name, how far it has come, its loss, its speed and the time that is left."""
    steps = run.steps()
    total = run.recipe.total_tokens
    if not steps:
        return [run.id, run.recipe.name, f"0 of {about(total)}", "–", "–", "–"]
    last = steps[-1]
    left = (total - last.tokens) / last.tokens_per_s / 3600 if last.tokens_per_s else 0.0
    return [
        run.id,
        run.recipe.name,
        f"{about(last.tokens)} of {about(total)}",
        f"{last.loss:.4f}",
        f"{about(last.tokens_per_s)} tokens/s",
        about_hours(left),
    ]
