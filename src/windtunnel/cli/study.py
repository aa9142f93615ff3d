"""What every command that carries out a study does around it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from windtunnel.cli.display import display, stopping

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.train.loop import Watch


def carry_out(
    lab: Path,
    corpus: str,
    as_json: bool,
    study: "Callable[[Corpus, Watch], Path]",
    after: Callable[[dict[str, Any]], None],
) -> None:
    """Open the corpus and carry out a study on it, as `watched` does."""
    from windtunnel.data.shards import Corpus

    opened = Corpus.open(lab / "corpora" / corpus)
    watched(as_json, lambda watch: study(opened, watch), after)


def watched(
    as_json: bool, study: "Callable[[Watch], Path]", after: Callable[[dict[str, Any]], None]
) -> None:
    """Run the study, let `after` print its numbers, and print its summary and verdict (with
    --json its result.json alone). Exit code 1 for a failed verdict, 130 for an interruption.
    """
    from windtunnel.train.loop import Watch
    from windtunnel.tunnel.fleet.fleet import Interrupted

    with display() as shown, stopping() as stop:
        try:
            folder = study(Watch(shown.say, stop=stop, show=shown.show))
        except Interrupted:
            shown.say("interrupted; the same command goes on from here")
            raise typer.Exit(130) from None
    result = json.loads((folder / "result.json").read_text())
    if as_json:
        print(json.dumps(result))
    else:
        after(result)
        verdict = f"{result['verdict'].upper()}: " if result["verdict"] else ""
        print(f"\n{verdict}{result['summary']}\n{folder} holds the table")
    if result["verdict"] == "fail":
        raise typer.Exit(1)
