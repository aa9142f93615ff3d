"""`windtunnel train` and `branch`."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.cost import print_cost
from windtunnel.cli.display import display, paragraph, stopping
from windtunnel.cli.on_ray import On, train_on_ray
from windtunnel.cli.options import (
    DEFAULT_LAB,
    EngineChoice,
    Json,
    Lab,
    RunName,
    Shape,
    engine_anew,
    number_of,
    share_of,
    typed,
)
from windtunnel.cli.standing import next_for
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.recipe import DECAY_SHAPES
from windtunnel.tunnel.design import CONTEXT, FRACTION, LENGTH, NUMBER, TOKENS_OR_ZERO
from windtunnel.tunnel.fleet.where import HERE, place_of

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.forecast import Forecast
    from windtunnel.results.run import RunSummary
    from windtunnel.train.run import Run

_EXIT_CODES = {"failed": 1, "interrupted": 130}  # by the status of a run that did not end


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="The recipe to train.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the recipe, such as schedule.tokens=20M. May be given several "
            "times.",
        ),
    ] = None,
    engine: EngineChoice = "kept",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train nothing: say what the run would take of memory, disk and time.",
        ),
    ] = False,
    mfu: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="With --dry-run: the share of the device's peak that training reaches, such as "
            "35%. Without it, that of the lab's most similar run.",
        ),
    ] = None,
    on: On = HERE,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --dry-run: how many devices such as this machine's train the run. With "
            "--on ray: on how many of the cluster's GPUs or cores, if not on all.",
        ),
    ] = None,
    machines: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="With --dry-run: how many machines have these devices."
        ),
    ] = 1,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Train what a recipe says.

    A new run is started, an interrupted one goes on, and a stem that is shorter than the recipe
    says is extended. A run that is finished already is only shown.
    """
    from windtunnel.recipe import load
    from windtunnel.train.run import create, open_corpus

    anew, (place, address) = engine_anew(engine), place_of(on)
    share = share_of(mfu)
    wanted = load(recipe, settings or ())
    if dry_run:
        from windtunnel.train.cost import cost_of

        cost = cost_of(wanted, lab, share, devices or 1, machines)
        print(cost.to_json()) if as_json else print_cost(cost)
        return
    if machines > 1:
        raise InputError("--machines: expected --dry-run beside it")
    if devices and place == HERE:
        raise InputError(
            "--devices: expected --dry-run or --on ray beside it; `torchrun --nproc-per-node N -m "
            "windtunnel train RECIPE.toml` trains on several of one machine"
        )
    if mfu is not None:
        raise InputError("--mfu: expected --dry-run beside it; a run measures its speed itself")
    if place != HERE:
        train_on_ray(wanted, lab, address, devices, anew, as_json)
        return
    corpus = open_corpus(lab, wanted)
    # this brings torch; what is wrong with a recipe is said before that
    from windtunnel.train.device import choose_engine

    choose_engine(wanted)  # refuses a device that is not there
    carry_out(create(lab, wanted, corpus), corpus, as_json, anew)


@app.command()
def branch(
    run: RunName,
    at: Annotated[
        str,
        typer.Option(metavar="TOKENS", help="Where to leave the stem, in tokens, such as 20M."),
    ],
    decay: Annotated[
        str,
        typer.Option(
            metavar="TOKENS|SHARE", help="Length of the decay, in tokens or as a share of --at."
        ),
    ] = "10%",
    shape: Shape = "linear",
    floor: Annotated[
        float,
        typed(
            "--floor",
            FRACTION,
            "Share of the peak learning rate at which the decay ends; 0 takes the usual end of "
            "its shape.",
        ),
    ] = 0.0,
    mixture: Annotated[
        str,
        typer.Option(
            metavar="SOURCE=WEIGHT,...",
            help="Data mixture of the decay, such as books=3,web=1; by default the stem's.",
        ),
    ] = "",
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another corpus with the same tokenizer, where the stem has a checkpoint at "
            "--at. An imported run has none, and needs this.",
        ),
    ] = None,
    conversations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=PATH",
            help="Add conversations to the decay, as a source of this name that --mixture can "
            "weigh; needs a checkpoint at --at. May be given several times.",
        ),
    ] = None,
    all_turns: Annotated[
        bool,
        typer.Option(
            "--all-turns/--answers-only",
            help="Learn all of a conversation, or what the assistant says alone.",
        ),
    ] = False,
    lr: Annotated[
        float | None,
        typed(
            "--lr",
            NUMBER,
            "Base learning rate; by default the stem's. An imported run has none, and needs this.",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="Batch, in tokens per step; by default the stem's."),
    ] = None,
    context: Annotated[
        int | None,
        typed(
            "--context",
            CONTEXT,
            "Tokens in a window; by default as many as the stem's, and fewer where the stem has a "
            "checkpoint at --at.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A name for the branch.")] = None,
    engine: EngineChoice = "kept",
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Leave a stem at any point, and let the learning rate decay.

    The branch has a decay length, decay shape and data mixture of its own. The stem stays as it
    is.
    """
    from windtunnel.data.shards import Corpus
    from windtunnel.train.branch import branch as make_branch
    from windtunnel.train.run import find_run, open_corpus

    anew = engine_anew(engine)
    chosen = DECAY_SHAPES.choose(shape, f"--shape {shape}")
    start = TOKENS_OR_ZERO.parse("--at", at)
    floor = floor or chosen.floor
    parent = find_run(lab, run)
    text = (
        Corpus.open(parent.lab / "corpora" / corpus)
        if corpus
        else open_corpus(parent.lab, parent.recipe)
    )
    if conversations:
        text = _with_conversations(parent, text, conversations, context)
    length = LENGTH.parse("--decay", decay).of(start)
    if not length:
        raise InputError(f"--decay {decay}: no tokens; expected a length such as 1M or 10%")
    made = make_branch(
        parent,
        text,
        start,
        length,
        chosen.name,
        floor,
        _mixture(mixture),
        number_of("--batch", batch),
        lr,
        name,
        context,
        "next-token" if all_turns else None,
    )
    carry_out(made, text, as_json, anew)


def _with_conversations(
    parent: "Run", text: "Corpus", asked: list[str], context: int | None
) -> "Corpus":
    """The branch's corpus with conversations beside its text."""
    from windtunnel.data.join import with_conversations

    files: dict[str, list[str]] = {}
    for one in asked:
        source, equals, path = one.partition("=")
        if not (equals and source and path):
            raise InputError(f"--conversations {one}: expected SOURCE=PATH")
        files.setdefault(source, []).append(path)
    with display() as shown:
        return with_conversations(
            parent.lab / "corpora",
            text,
            files,
            context or parent.recipe.data.context,
            progress=shown.show,
        )


def _mixture(text: str) -> dict[str, float]:
    weights = {}
    for part in filter(None, text.split(",")):
        source, equals, weight = part.partition("=")
        try:
            weights[source.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not equals or not 0 <= weights[source.strip()] < math.inf:
            raise InputError(
                f"--mixture {part}: expected SOURCE=WEIGHT with a weight of zero or more"
            )
    return weights


def _forecast_of(run: "Run") -> "Forecast | None":
    """The last one that was sealed of this run. A ledger that is damaged stops no training."""
    from windtunnel.plan.ledger import read_ledger

    try:
        sealed = read_ledger(run.lab).forecasts
    except InputError:
        return None
    return next((one for one in reversed(sealed) if one.run == run.id), None)


def carry_out(run: "Run", corpus: "Corpus", as_json: bool, anew: bool = False) -> None:
    """Train a run to its end and say what came of it; `anew`: by an engine that is chosen anew.
    Where several processes were started for it, each calls this, and the first one speaks. Exit
    code 1 where it failed, 130 where it was stopped.
    """
    from windtunnel.train.loop import Watch, train
    from windtunnel.train.parallel import joined

    sealed = _forecast_of(run)
    aim = ""
    if sealed:
        low, high = sealed.interval90
        aim = f"to end between {low:.3f} and {high:.3f}"
    with joined(run.recipe.train.device) as ranks:
        if anew and ranks.first:
            run.forget_engine()
        ranks.wait()
        quiet = not ranks.first
        with display(quiet) as shown, stopping(quiet) as stop:
            progress = shown.training(run.recipe.name, aim, lambda: run.status().bits_per_byte)
            watch = Watch(say=shown.say, step=progress, stop=stop, show=shown.show)
            summary = train(run, corpus, watch, ranks)
    if ranks.first:
        _say_what_came(run, summary, sealed, as_json)
    if summary.status in _EXIT_CODES:
        raise typer.Exit(_EXIT_CODES[summary.status])


def _say_what_came(
    run: "Run", summary: "RunSummary", sealed: "Forecast | None", as_json: bool
) -> None:
    if as_json:
        print(summary.to_json())
    else:
        # What was trained without held-out text has none.
        loss = "no held-out loss"
        if summary.loss is not None and summary.bits_per_byte is not None:
            loss = f"loss {summary.loss:.4f}, {summary.bits_per_byte:.4f} bits/byte"
        print(
            f"{summary.id} {summary.status} at {about(summary.tokens)} tokens: {loss}; "
            f"{summary.path}"
        )
        done = summary.status == "done"
        if done and sealed and summary.loss is not None:
            low, high = sealed.interval90
            inside = "inside" if low <= summary.loss <= high else "OUTSIDE"
            paragraph(
                f"forecast {sealed.loss:.4f}, nine times in ten between {low:.4f} and {high:.4f}: "
                f"{inside}. Next: {next_for('plan --audit', run)}"
            )
        elif done and summary.kind != "stem":
            print(f"Next: {next_for('chat', run)}")
    if summary.status == "failed":
        print(f"windtunnel: the run failed: {summary.reason}", file=sys.stderr)
    if summary.status == "interrupted":
        print("Stopped. The same command goes on from here.", file=sys.stderr)
