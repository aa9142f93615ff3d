"""`windtunnel chat` and `serve`: talk with a model, and let programs talk with it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.options import DEFAULT_LAB, Lab

if TYPE_CHECKING:
    from windtunnel.ship.chat import Answers, Chat

_HELP = "an empty line or Ctrl-D ends; /new forgets what was said"


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(help="A GGUF file, or a run's id (or its beginning), name or path.")
    ],
    system: Annotated[
        str, typer.Option(help="What the model is told before the conversation.")
    ] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token.")] = 0.8,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Out of the likeliest tokens of this probability.")
    ] = 0.95,
    most: Annotated[int, typer.Option(min=1, help="Tokens of one answer at most.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Talk with a run or a GGUF file in the terminal."""
    from windtunnel.ship.chat import Chat, Sampling

    with _who_answers(model, lab) as who:
        talk = Chat(who, Sampling(temperature, top_p, seed, most), system)
        print(f"{model}: {_HELP}", file=sys.stderr)
        for line in _typed():
            if line == "/new":
                talk.turns.clear()
            else:
                _answer(talk, line)


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Whom to listen to: this machine alone if not given.")
    ] = "127.0.0.1",
    context: Annotated[
        int, typer.Option(min=0, help="Tokens of the longest conversation; 0: the file's.")
    ] = 0,
) -> None:
    """Serve a GGUF file to programs: llama.cpp's own server, which speaks as OpenAI's does."""
    from windtunnel.ship.serve import serve as run

    with _until_asked_to_stop() as wait:
        run(
            file,
            host,
            port,
            context,
            lambda url: print(f"{url} (Ctrl-C ends it)", flush=True),
            wait,
        )


@contextmanager
def _who_answers(model: str, lab: Path) -> Iterator["Answers"]:
    if model.endswith(".gguf") or Path(model).is_file():
        from windtunnel.ship.chat import GGUFModel

        with GGUFModel(Path(model)) as who:
            yield who
        return
    from windtunnel.ship.chat import OwnModel
    from windtunnel.train.run import find_run

    yield OwnModel(find_run(lab, model))


def _typed() -> Iterator[str]:
    """Lines that a person types, or that are piped in, until an empty one, Ctrl-D or Ctrl-C."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        yield line


def _answer(talk: "Chat", line: str) -> None:
    with contextlib.suppress(
        KeyboardInterrupt
    ):  # which ends this answer only: the next line goes on
        talk.ask(line, lambda piece: print(piece, end="", flush=True))
    print(flush=True)


@contextmanager
def _until_asked_to_stop() -> Iterator[Callable[[], None]]:
    """A function that returns at Ctrl-C or SIGTERM."""
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: _wait(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(asked: threading.Event) -> None:
    while not asked.wait(
        timeout=1
    ):  # in turns: a signal is heard between two of them on every system
        pass
