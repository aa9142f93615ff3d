"""`windtunnel dpo`: a run's model learns which of two answers is the better one."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.corpus import taken
from windtunnel.cli.display import display, stopping
from windtunnel.cli.options import (
    DEFAULT_LAB,
    AtLast,
    Format,
    InsteadOfEpochs,
    Json,
    Lab,
    RunName,
    number_of,
    position_of,
    typed,
)
from windtunnel.cli.train import carry_out
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.recipe import PREFERENCE_LOSSES
from windtunnel.tunnel.design import FRACTION, NUMBER, NUMBERS

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.train.run import Run


@app.command()
def dpo(
    run: RunName,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Preferences: a file of JSON lines, JSON or parquet, a folder, or a glob. Each "
            "record has a prompt with a chosen and a rejected answer, or with a completion and a "
            "label.",
        ),
    ],
    loss: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help="The loss: "
            + "; ".join(f"{one.name}, {one.help}" for one in PREFERENCE_LOSSES.values())
            + ".",
        ),
    ] = "sigmoid",
    beta: Annotated[
        str,
        typer.Option(
            metavar=NUMBERS.metavar,
            help="How strongly the model is held to the reference. Several, separated by commas, "
            "make several runs, which train together.",
        ),
    ] = "0.1",
    lr: Annotated[
        str,
        typer.Option(
            metavar=NUMBERS.metavar,
            help="Base learning rate. Several, separated by commas, make several runs, which train "
            "together.",
        ),
    ] = "1e-5",
    label_smoothing: Annotated[
        float,
        typed("--label-smoothing", FRACTION, "The share of the judgements to take for wrong."),
    ] = 0.0,
    per_token: Annotated[
        bool | None,
        typer.Option(
            "--per-token/--per-answer",
            help="Compare the mean log-probability of a token, or that of the whole answer; by "
            "default a token for ipo, and the answer for the others.",
        ),
    ] = None,
    multipliers: Annotated[
        bool,
        typer.Option(
            "--multipliers/--no-multipliers",
            help="Whether the learning rate is multiplied by role, as in pre-training; the paper "
            "did not do so here.",
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The run whose model is the reference; by default the one that learns, as it "
            "begins.",
        ),
    ] = None,
    format: Format = None,
    epochs: Annotated[
        float | None,
        typed("--epochs", NUMBER, "How many times to read each record; 1 by default."),
    ] = None,
    tokens: InsteadOfEpochs = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Batch, in tokens per step; by default up to 64 windows, and fewer so that there "
            "are 50 steps.",
        ),
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Tokens of a question with its answer, beyond which it is cut; by default the "
            "run's context, up to 1024.",
        ),
    ] = None,
    at: AtLast = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Seed of the data order; by default the run's."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name for the new run; by default the run's with -dpo, or the loss.",
        ),
    ] = None,
    max_bad: Annotated[
        float,
        typed("--max-bad", FRACTION, "The share of the records that may be malformed."),
    ] = 0.01,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Learn from preferences which answers are better.

    The model is kept near a reference, whose log-probabilities are computed once. Several values
    of --beta and --lr are trained together, as one population.
    """
    from windtunnel.train.run import find_run

    size, length = number_of("--batch", batch), number_of("--tokens", tokens)
    position = position_of("--at", at)
    betas, lrs = NUMBERS.parse("--beta", beta), NUMBERS.parse("--lr", lr)
    if not label_smoothing < 0.5:
        raise InputError(f"--label-smoothing {label_smoothing}: expected a number below 0.5")
    parent = find_run(lab, run)
    kept_near = find_run(lab, reference) if reference else None
    from windtunnel.family.dpo import Asked
    from windtunnel.family.dpo import dpo as prefer

    asked = Asked(
        loss=loss,
        betas=betas,
        lrs=lrs,
        label_smoothing=label_smoothing,
        per_token=per_token,
        lr_by_role=multipliers,
        epochs=epochs,
        tokens=length,
        batch=size,
        longest=longest,
        at=position,
        reference=kept_near,
        seed=seed,
        name=name,
        max_bad=max_bad,
        format=format,
    )
    with display() as shown:
        made, corpus = prefer(parent, data, asked, shown.show)
        shown.say(_what(corpus))
    if len(made) == 1:
        carry_out(made[0], corpus, as_json)
    else:
        _carry_out_together(made, corpus, as_json)


def _carry_out_together(runs: "list[Run]", corpus: "Corpus", as_json: bool) -> None:
    """Train a sweep and say what came of it, a line a run. Exit code 1 where one failed, 130 where
    it was stopped.
    """
    from windtunnel.train.loop import Watch, train_together
    from windtunnel.train.parallel import joined

    device = runs[0].recipe.train.device
    with joined(device) as ranks, display() as shown, stopping() as stop:
        watches = []
        for run in runs:
            step = shown.training(run.recipe.name)
            watches.append(Watch(say=shown.say, step=step, stop=stop, show=shown.show))
        summaries = train_together(runs, corpus, watches, ranks=ranks)
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in summaries]))
    else:
        print(f"{'run':12} {'beta':>7} {'lr':>8} {'accuracy':>8} {'margin':>8} {'KL':>7}  status")
        for run, summary in zip(runs, summaries, strict=True):
            print(_line(run, summary.status))
    if any(one.status == "failed" for one in summaries):
        raise typer.Exit(1)
    if any(one.status == "interrupted" for one in summaries):
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130)


def _line(run: "Run", status: str) -> str:
    asked = run.recipe.preference
    held = [line.validation.preference for line in run.validations()]
    found = held[-1] if held else None
    numbers = f"{'-':>8} {'-':>8} {'-':>7}"
    if found:
        numbers = f"{found.accuracy:8.1%} {found.margin:8.3f} {found.divergence:7.4f}"
    beta = f"{asked.beta:g}" if asked else "-"
    return f"{run.id:12} {beta:>7} {run.recipe.optimizer.lr:8.0e} {numbers}  {status}"


def _what(corpus: "Corpus") -> str:
    """What was found in the files, as one line."""
    from windtunnel.data.preferences import SOURCE

    entry, packing = corpus.manifest.sources[SOURCE], corpus.manifest.packing
    counts = {"malformed": entry.malformed, "duplicates": entry.duplicates}
    kind = "records"
    if packing:
        kind = "pairs" if packing.answers == "pairs" else "judged answers"
        counts["cut to the longest"] = packing.cut
        counts["left out, with nothing to prefer within it"] = packing.dropped
    files = [taken(entry)] if entry.taken else []
    notes = [f"{count:,} {what}" for what, count in counts.items() if count]
    found = (
        f"{corpus.folder.name}: {entry.train.documents // 2:,} {kind} to learn from, "
        f"{entry.validation.documents // 2:,} held out; {about(entry.train.tokens - 1)} tokens an "
        "epoch"
    )
    return "; ".join([found, *notes, *files])
