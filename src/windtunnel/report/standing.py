"""Where a lab stands, and the next sensible command. It reads small files alone, so that a lab of
thousands of runs answers at once.
"""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.files import named
from windtunnel.plan.calibration import calibration
from windtunnel.plan.record import plans, read_plan, recipe_path
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.forecast import ForecastState
from windtunnel.results.plan import PlanResult
from windtunnel.results.run import AboutRun, RunStatus
from windtunnel.results.scaling import SCALING
from windtunnel.results.standing import Next, Standing
from windtunnel.results.study import StudyResult, find_study
from windtunnel.results.tour import TOUR
from windtunnel.train.run import open_run

# A plan needs the second of these; the first says in a minute whether the others can be believed.
_CHAIN = ("check", "scaling")
# What makes the plan's recipe better, each by what the earlier ones found.
_BETTER = ("search", "transfer", "batch")

# Studies that say which text they were of, the one that counts first.
_OF_TEXT = (SCALING.name, TOUR.name)
# What a lab has measured, by the experiment's name; None where it cannot be read.
_Studies = dict[str, StudyResult[Any] | None]


def standing(lab: Path) -> Standing:
    """Of this folder, which need not exist yet. What is damaged is left to the commands that read
    it.
    """
    corpora = [file.parent.name for file in sorted(lab.glob("corpora/*/manifest.json"))]
    texts = [name for name in corpora if _is_text(lab / "corpora" / name)]
    studies = _studies(lab)
    verdicts = {name: _verdict(result) for name, result in studies.items()}
    statuses = _statuses(lab)
    forecasts = _forecasts(lab)
    lines = []
    if corpora:
        lines.append(f"corpora    {', '.join(map(named, corpora))}")
    if verdicts:
        said = [f"{name} ({verdict})" for name, verdict in verdicts.items()]
        lines.append(f"studies    {', '.join(said)}")
    if statuses:
        count = Counter(status.status for status in statuses.values())
        said = [f"{number:,} {status}" for status, number in count.most_common()]
        lines.append(f"runs       {sum(count.values()):,}: {', '.join(said)}")
    if forecasts:
        opened = [one for one in forecasts if one.outcome]
        inside = sum(bool(one.outcome and one.outcome.inside90) for one in opened)
        lines.append(
            f"forecasts  {len(forecasts)} sealed, {len(opened)} opened, {inside} of those inside "
            "the 90% interval"
        )
    option = lab_option(lab)
    found = _next(lab, texts, studies, forecasts, _branches(lab, statuses))
    if statuses or verdicts:
        found.append(_go("windtunnel report", "write the page that shows all of it"))
    found = [one.model_copy(update={"command": one.command + option}) for one in found]
    return Standing(lab=lab, lines=tuple(lines), next=tuple(found))


def lab_option(lab: Path) -> str:
    """What a command has behind it to find this lab; nothing where it looks there anyway."""
    return "" if lab == Path("lab") else f" --lab {shlex.quote(named(lab))}"


def _go(command: str, why: str) -> Next:
    return Next(command=command, why=why)


def _next(
    lab: Path,
    texts: Sequence[str],
    studies: _Studies,
    forecasts: Sequence[ForecastState],
    best: str | None,
) -> list[Next]:
    if not texts:
        found = [_go("windtunnel corpus build mine text=FOLDER/", "read your own text")]
        if not best:
            found.insert(0, _go("windtunnel tour", "see the whole chain at work, small"))
        return found
    found = []
    for folder in plans(lab):
        if step := _of_plan(lab, folder, forecasts):
            found.append(step)
    corpus = f" --corpus {named(_studied(studies, texts))}"
    missing = [name for name in _CHAIN if name not in studies]
    if missing:
        found.append(_go(f"windtunnel {missing[0]}{corpus}", EXPERIMENTS[missing[0]].help))
    elif not found:
        found.append(
            _go(
                f"windtunnel plan --hours 1 --device cpu{corpus}",
                "plan a model of an hour by the laws",
            )
        )
    if best:
        found.append(_go(f"windtunnel chat {best}", "talk with the best finished run"))
    optional = [name for name in _BETTER if name not in studies]
    if optional and not missing:
        why = f"optional, for a better recipe: {EXPERIMENTS[optional[0]].help}"
        found.append(_go(f"windtunnel {optional[0]}{corpus}", why))
    if "tour" in studies and len(texts) == 1:
        found.append(_go("windtunnel corpus build mine text=FOLDER/", "read your own text"))
    return found


def _is_text(folder: Path) -> bool:
    """Whether studies can train on a corpus: not on one that lies in windows, such as conversations
    do.
    """
    try:
        return "packing" not in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True


def _studied(studies: _Studies, texts: Sequence[str]) -> str:
    """The text that was studied last, where it is still there; else the first one."""
    for name in _OF_TEXT:
        if (found := studies.get(name)) and found.numbers.corpus in texts:
            return found.numbers.corpus
    return texts[0]


def _of_plan(lab: Path, folder: Path, forecasts: Sequence[ForecastState]) -> Next | None:
    """What a plan waits for; nothing once it was audited."""
    try:
        plan: PlanResult = read_plan(folder)
    except InputError:
        return None
    if plan.audit or plan.go == "no-go":
        return None
    state = next((one for one in forecasts if one.forecast.id == plan.forecast), None)
    if state and _trains(lab, state.forecast.run):
        return None
    if state and state.state == "done, not opened":
        return _go(f"windtunnel plan --audit {state.forecast.run}", "open the sealed forecast")
    return _go(
        f"windtunnel train {named(recipe_path(folder))}",
        why=f"train the plan {folder.name}",
    )


def _trains(lab: Path, run: str) -> bool:
    try:
        return open_run(lab / "runs" / run).status().status == "running"
    except InputError:
        return False


def _studies(lab: Path) -> _Studies:
    found: _Studies = {}
    for name, experiment in EXPERIMENTS.items():
        try:
            result = find_study(lab, experiment)
        except InputError:
            found[name] = None
            continue
        if result:
            found[name] = result
    return found


def _verdict(result: StudyResult[Any] | None) -> str:
    return result.verdict or "no verdict" if result else "cannot be read"


def _statuses(lab: Path) -> dict[Path, RunStatus]:
    """By the run's folder, as `windtunnel runs` has it: of one that is called running it is asked
    whether its process is still there.
    """
    found = {}
    for file in sorted(lab.glob("runs/[!.]*/status.json")):
        try:
            status = RunStatus.read(file)
        except InputError:
            continue
        if status.status == "running":
            with suppress(InputError):
                status = open_run(file.parent).status()
        found[file.parent] = status
    return found


def _branches(lab: Path, statuses: dict[Path, RunStatus]) -> str | None:
    """The id of the finished run with the lowest loss in bits a byte that is no stem."""
    scored = []
    for folder, status in statuses.items():
        if status.status == "done" and status.bits_per_byte is not None:
            scored.append((status.bits_per_byte, folder))
    for _, folder in sorted(scored):
        try:
            if AboutRun.read(folder / "run.json").kind != "stem":
                return folder.name
        except InputError:
            continue
    return None


def _forecasts(lab: Path) -> Sequence[ForecastState]:
    try:
        return calibration(lab).forecasts
    except InputError:
        return ()
