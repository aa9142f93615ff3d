"""`windtunnel pairs`: preference pairs out of a run's own answers."""

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, RunName, typed
from windtunnel.tunnel.design import AMOUNT, FRACTION


@app.command()
def pairs(
    run: RunName,
    prompts: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Questions: JSON lines, JSON or parquet with a prompt or a question in each "
            "record, and the right answer where the verifier needs one.",
        ),
    ],
    score: Annotated[
        str,
        typer.Option(
            metavar="WORD|MODULE:FUNCTION",
            help="What scores an answer: exact, equal to the record's answer; number, with the "
            "same last number; or a function of the record and the answer that returns a number.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write the pairs to, as JSON lines.")
    ] = Path("pairs.jsonl"),
    answers: Annotated[
        int, typer.Option(metavar="N", min=2, help="How many answers to sample to each question.")
    ] = 8,
    most: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens of an answer, at most.")
    ] = 256,
    temperature: Annotated[
        float, typed("--temperature", AMOUNT, "What divides the logits; 1 leaves them as they are.")
    ] = 1.0,
    top_p: Annotated[
        float,
        typed("--top-p", FRACTION, "Sample from the likeliest tokens with this probability."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the sampling.")] = 0,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Let a run answer questions, and write pairs of its answers.

    `windtunnel dpo` learns from what is written. No other model is asked: a verifier decides.
    """
    from windtunnel.train.run import find_run

    answering = find_run(lab, run)
    from windtunnel.family.pairs import Asked
    from windtunnel.family.pairs import pairs as make

    asked = Asked(
        score=score,
        answers=answers,
        most=most,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    with display() as shown:
        found = make(answering, prompts, out, asked, shown.show)
    if as_json:
        print(found.to_json())
        return
    print(
        f"{found.path}: {found.pairs:,} pairs of {found.questions:,} questions; mean score "
        f"{found.mean_score:.3f} of {found.answers:,} answers, {found.solved:.1%} of the questions "
        "solved at least once"
    )
