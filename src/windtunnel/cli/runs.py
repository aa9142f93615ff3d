"""`windtunnel runs`, and `runs remove`."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from windtunnel.cli import app
from windtunnel.cli.display import paragraph, stopping
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab
from windtunnel.errors import InputError, did_you_mean
from windtunnel.quantities import about, about_bytes

if TYPE_CHECKING:
    from windtunnel.results.removal import Removal
    from windtunnel.results.run import RunSummary
    from windtunnel.train.remove import Named
    from windtunnel.train.run import Run, RunsFound

runs = typer.Typer(
    help="List the runs of a lab as a tree, or remove some.",
    invoke_without_command=True,
)
app.add_typer(runs, name="runs")


@runs.callback()
def list_runs(context: typer.Context, lab: Lab = DEFAULT_LAB, as_json: Json = False) -> None:
    """List the runs of a lab as a tree, or remove some."""
    if context.invoked_subcommand is None:
        _list(lab, as_json)
    elif as_json or lab != DEFAULT_LAB:
        which = "--json" if as_json else "--lab"
        raise InputError(
            f"{which} stands behind the command: `windtunnel runs {context.invoked_subcommand} "
            f"{which}`"
        )


@runs.command()
def remove(
    named: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs to remove: each by its id, its name, its path, or the first digits of "
            "its id.",
        ),
    ] = None,
    unused: Annotated[
        bool,
        typer.Option(
            "--unused",
            help="Remove instead every run that no study, plan, forecast, evaluation or export "
            "names, and from which no other run begins that stays. Runs that you trained by hand "
            "may be among them.",
        ),
    ] = False,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Remove a study that was given up instead, whether it ended or not: its folder, "
            "and those of its runs that nothing else names.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them. Without it they are only listed.")
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Remove runs that nothing needs, or say which these are.

    What a design that was given up has left behind is listed with its size, and is gone only with
    --yes. A run stays where another one begins from it, where a study, a plan or a sealed forecast
    names it, and while it is being trained.
    """
    from windtunnel.train.run import read_runs

    if bool(named) + unused + (study is not None) != 1:
        raise InputError("runs remove: expected one of RUN..., --unused or --study NAME")
    there = read_runs(lab)
    if named:
        going, found = _given(lab, there, named)
    elif study is not None:
        going, found = _of_study(lab, there, study)
    else:
        going, found = _unused(lab, there)
    if yes:
        _remove(going, found.study, lab, by_name=bool(named))
        found = found.model_copy(update={"removed": True})
    print(found.to_json()) if as_json else _print_removal(found, unused)


def _remove(going: "list[Run]", study: Path | None, lab: Path, by_name: bool) -> None:
    """Exit code 130 where it is stopped: what is gone by then is gone whole. The study goes last,
    since it alone says which runs were its own.
    """
    from windtunnel.train.remove import finish, remove_run, remove_study

    with stopping(quiet=True) as stop:
        finish(lab)
        for gone, run in enumerate(going):
            if stop():
                _stopped(going[gone:], len(going), by_name)
            remove_run(run)
        if study:
            if stop():
                _stopped([], len(going), by_name)
            remove_study(study)


def _stopped(left: "list[Run]", of: int, by_name: bool) -> NoReturn:
    how = "the same command goes on from here"
    if by_name:
        how = f"go on with {' '.join(run.id for run in left)}"
    print(f"stopped: {len(left)} of {of} runs are still there; {how}", file=sys.stderr)
    raise typer.Exit(130)


def _given(lab: Path, there: "RunsFound", named: list[str]) -> "tuple[list[Run], Removal]":
    """The runs that a person names. Raises InputError where one of them must stay."""
    from windtunnel.train.remove import NamedIn, who_names
    from windtunnel.train.run import find_run

    known, folder = {run.id for run in there.runs}, (lab / "runs").resolve()
    asked: dict[str, Run] = {}
    for one in named:
        run = find_run(lab, one, there)
        asked[run.id] = run
    for run in asked.values():
        if run.path.parent != folder or run.id not in known:
            raise InputError(f"{run.path}: expected a run in {lab / 'runs'}")
        if _is_trained(there, run):
            raise InputError(f"{run.path}: it is being trained now; it can go once that has ended")
    who = who_names(lab, there.runs)
    for run in asked.values():
        if why := who.keeps(run.id, asked):
            hint = ""
            if isinstance(why, NamedIn) and why.study:
                hint = f"; `--study {why.study}` gives up the study with its runs"
            raise InputError(f"{run.path}: it stays, since {why}{hint}")
    return _removal(there, asked, who)


def _unused(lab: Path, there: "RunsFound") -> "tuple[list[Run], Removal]":
    """Every run that nothing needs. Raises InputError while one is being trained."""
    from windtunnel.train.remove import who_names

    _check_quiet(there, "--unused")
    who = who_names(lab, there.runs)
    return _removal(there, who.unused([run.id for run in there.runs]), who)


def _of_study(lab: Path, there: "RunsFound", name: str) -> "tuple[list[Run], Removal]":
    """A study, and its runs that nothing else needs. Raises InputError."""
    from windtunnel.train.remove import named_in, who_names

    studies = lab / "studies"
    known = sorted(one.name for one in studies.glob("[!.]*") if one.is_dir())
    if name not in known:
        listed = f"; there are: {', '.join(known)}" if known else ""
        hint = did_you_mean(name, known) or listed
        raise InputError(f"--study {name}: {lab} has no such study{hint}")
    _check_quiet(there, f"--study {name}")
    folder = studies / name
    who, its = who_names(lab, there.runs, without=folder), named_in(folder, there.runs)
    going = who.unused(its)
    return _removal(there, going, who, folder, len(its - going))


def _check_quiet(there: "RunsFound", option: str) -> None:
    """Whoever trains may want runs that no file names yet."""
    for run in there.runs:
        if _is_trained(there, run):
            raise InputError(
                f"{option}: {run.path} is being trained now; expected a lab in which nothing is "
                "trained"
            )


def _is_trained(there: "RunsFound", run: "Run") -> bool:
    return there.statuses[run.id].status == "running"


def _removal(
    there: "RunsFound",
    going: "Collection[str]",
    who: "Named",
    study: Path | None = None,
    kept: int = 0,
) -> "tuple[list[Run], Removal]":
    """The runs in the order in which they can go, and what is said of them."""
    from windtunnel.results.removal import Removal, RunToRemove
    from windtunnel.train.remove import leaves_first, size_of

    runs = leaves_first([run for run in there.runs if run.id in going], who)
    listed = []
    for run in runs:
        said = run.summary(there.statuses[run.id]).model_dump()
        listed.append(RunToRemove(**said, bytes=size_of(run.path)))
    size = sum(one.bytes for one in listed) + (size_of(study) if study else 0)
    return runs, Removal(removed=False, study=study, runs=tuple(listed), bytes=size, kept=kept)


def _print_removal(found: "Removal", unused: bool) -> None:
    if not found.runs and not found.study:
        print("nothing to remove: no run is unused")
        return
    if found.runs:
        print(f"{'run':14} {'name':22} {'kind':6} {'tokens':>6} {'size':>8}  status")
    for one in found.runs:
        print(
            f"{one.id:14} {one.name[:22]:22} {one.kind:6} {about(one.tokens):>6} "
            f"{about_bytes(one.bytes):>8}  {one.status}"
        )
    number = len(found.runs)
    what = f"{number} {'run' if number == 1 else 'runs'}"
    if found.study:
        what = f"{found.study} and {what}"
    if found.kept:
        stay, them = ("stays", "it") if found.kept == 1 else ("stay", "them")
        print(f"{found.kept} of its runs {stay}, since something else needs {them}")
    if found.removed:
        print(f"removed: {what}, {about_bytes(found.bytes)}")
        return
    if unused:
        paragraph(
            "Look through the list: runs that you trained by hand are not named by anything "
            "either, nor are those of a study that was interrupted under an earlier release."
        )
    print(f"{what}, {about_bytes(found.bytes)}: nothing is removed yet; --yes removes them")


def _list(lab: Path, as_json: bool) -> None:
    from windtunnel.train.run import read_runs

    there = read_runs(lab)
    found = [run.summary(there.statuses[run.id]) for run in there.runs]
    _say_what_is_old(there.runs)
    if as_json:
        for why in there.unreadable.values():
            print(f"unreadable: {why}", file=sys.stderr)
        print(json.dumps([one.model_dump(mode="json") for one in found]))
        return
    if not found and not there.unreadable:
        print(f"{lab} holds no runs yet: `windtunnel train RECIPE.toml --lab {lab}` starts one")
        return
    print(f"{'run':18} {'name':18} {'kind':6} {'tokens':>6} {'loss':>7} {'bits/byte':>9}  status")
    children: dict[str | None, list[RunSummary]] = {}
    for one in found:
        children.setdefault(one.parent, []).append(one)
    known = {one.id for one in found}
    for root in [one for one in found if one.parent not in known]:
        _print_tree(root, children, "", "")
    for name, why in there.unreadable.items():
        print(f"{name:18} unreadable: {' '.join(why.split())}")


def _say_what_is_old(there: "list[Run]") -> None:
    """What the ids of an earlier release mean now, on stderr."""
    from windtunnel.recipe import RESULTS_VERSION

    old = sum(run.results_version < RESULTS_VERSION for run in there)
    if not old:
        return
    were, one = ("run was", "it") if old == 1 else ("runs were", "one of them")
    print(
        f"{old} {were} made by an earlier release, and can be listed, branched and exported; "
        f"asking for {one} again trains it anew, under a new id",
        file=sys.stderr,
    )


def _print_tree(
    one: "RunSummary", children: "dict[str | None, list[RunSummary]]", mark: str, indent: str
) -> None:
    status = one.status
    if one.tokens != one.total_tokens:
        status += f" at {one.tokens / one.total_tokens:.0%}"
    loss = "-" if one.loss is None else f"{one.loss:.4f}"
    bits = "-" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}"
    reason = f": {one.reason}" if one.reason else ""
    print(
        f"{mark + one.id:18} {one.name[:18]:18} {one.kind:6} {about(one.tokens):>6} {loss:>7} "
        f"{bits:>9}  {status}{reason}"
    )
    below = sorted(children.get(one.id, []), key=lambda child: child.at_tokens or 0)
    for child in below:
        last = child is below[-1]
        _print_tree(
            child,
            children,
            indent + ("└─ " if last else "├─ "),
            indent + ("   " if last else "│  "),
        )
