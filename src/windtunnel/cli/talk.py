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
from windtunnel.cli.options import DEFAULT_LAB, Lab, typed
from windtunnel.tunnel.design import AMOUNT, FRACTION

if TYPE_CHECKING:
    from windtunnel.ship.chat import Answers, Chat

_HELP = "An empty line or Ctrl-D ends the conversation; /new starts another."


@app.command()
def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, or a run: its id, its name, its path, or the first digits of its id."
        ),
    ],
    system: Annotated[
        str, typer.Option(help="A system message to put before the conversation.")
    ] = "",
    temperature: Annotated[
        float,
        typed("--temperature", AMOUNT, "The sampling temperature; 0 takes the likeliest token."),
    ] = 0.8,
    top_p: Annotated[
        float,
        typed(
            "--top-p",
            FRACTION,
            "Choose among the likeliest tokens that together have this probability.",
        ),
    ] = 0.95,
    most: Annotated[
        int, typer.Option(min=1, help="The most tokens that an answer may have.")
    ] = 256,
    seed: Annotated[
        int, typer.Option(min=0, help="The seed; the same one gives the same answers.")
    ] = 0,
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Talk with a run or a GGUF file in the terminal."""
    from windtunnel.ship.chat import Chat, Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, most=most)
    with _who_answers(model, lab) as who:
        talk = Chat(who, sampling, system)
        print(f"{model}: {_HELP}", file=sys.stderr)
        for line in _typed():
            if line == "/new":
                talk.turns.clear()
            else:
                _answer(talk, line)


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes one that is free.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; the default lets only this machine connect."),
    ] = "127.0.0.1",
    context: Annotated[
        int,
        typer.Option(
            min=0,
            help="The longest conversation, in tokens; 0 takes the limit that the file states.",
        ),
    ] = 0,
) -> None:
    """Serve a GGUF file to other programs.

    This starts llama.cpp's own server, which has the interface of OpenAI's.
    """
    from windtunnel.ship.serve import serve as run

    def ready(url: str) -> None:
        print(f"{url} (Ctrl-C ends it)", flush=True)

    with _until_asked_to_stop() as wait:
        run(file, host, port, context, ready, wait)


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
    # Ctrl-C ends this answer alone, and the conversation goes on.
    with contextlib.suppress(KeyboardInterrupt):
        talk.ask(line, lambda piece: print(piece, end="", flush=True))
    print(flush=True)


@contextmanager
def _until_asked_to_stop() -> Iterator[Callable[[], None]]:
    """A function that returns at Ctrl-C or SIGTERM."""
    asked = threading.Event()

    def wait() -> None:
        # In turns of a second: on some systems a signal is only heard between two of them.
        while not asked.wait(timeout=1):
            pass

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, lambda *_: asked.set())
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
