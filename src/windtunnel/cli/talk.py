"""`windtunnel chat` and `serve`: talk with a model, and let programs talk with it."""

import contextlib
import io
import re
import select
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
from windtunnel.errors import InputError
from windtunnel.tunnel.design import AMOUNT, CONTEXT, FRACTION

if TYPE_CHECKING:
    from windtunnel.ship.chat import Answers, Chat

# All but the tab and the end of a line.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTEXT_HELP = (
    "The longest conversation with a file, in tokens; by default the limit that the file states, "
    "up to 32,768 tokens and 1 GiB of memory."
)
_HELP = "An empty line or Ctrl-D ends it; /new starts another conversation."


@app.command()
def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE.gguf",
            help="A run: its id, its name, its path, or the first digits of its id; or a GGUF "
            "file.",
        ),
    ],
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="A system message to put before the conversation.")
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
        int, typer.Option(metavar="N", min=1, help="The most tokens that an answer may have.")
    ] = 256,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="The seed; the same one gives the same answers.")
    ] = 0,
    context: Annotated[int | None, typed("--context", CONTEXT, _CONTEXT_HELP)] = None,
    lab: Lab = DEFAULT_LAB,
) -> None:
    """Talk with a run or a GGUF file in the terminal.

    Ctrl-C stops an answer; twice, it ends the conversation. Text that is piped in is read to its
    end, a line at a time, and each line stands before its answer.
    """
    from windtunnel.ship.chat import Chat, Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, most=most)
    with _who_answers(model, lab, context) as who:
        print(f"Talking to {model}. {_HELP}", file=sys.stderr)
        if not _converse(Chat(who, sampling, system)):
            raise typer.Exit(1)


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file.")],
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="The port to listen on; 0 takes one that is free.",
        ),
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The address to listen on; the default lets only this machine connect.",
        ),
    ] = "127.0.0.1",
    context: Annotated[int | None, typed("--context", CONTEXT, _CONTEXT_HELP)] = None,
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
def _who_answers(model: str, lab: Path, context: int | None) -> Iterator["Answers"]:
    if model.endswith(".gguf") or Path(model).is_file():
        from windtunnel.ship.chat import GGUFModel

        with GGUFModel(Path(model), context) as who:
            yield who
        return
    from windtunnel.ship.chat import OwnModel
    from windtunnel.train.run import find_run

    yield OwnModel(find_run(lab, model))


def _converse(talk: "Chat") -> bool:
    """Answer what is typed or piped in, to its end; whether nothing was refused."""
    # a byte that is no UTF-8 is a question mark, not the end
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    fine = True
    interrupted = 0
    with contextlib.suppress(KeyboardInterrupt):
        for line in _typed():
            if sys.stdin.isatty():
                interrupted = 0
            else:
                _say(f"> {line}\n")
            if line == "/new":
                talk.turns.clear()
                continue
            try:
                talk.ask(line, _say)
            except KeyboardInterrupt:
                # The first ends this answer alone, and the conversation goes on.
                interrupted += 1
                if interrupted > 1:
                    break
                print(flush=True)
                continue
            except InputError as error:
                print(f"windtunnel: {error}", file=sys.stderr)
                fine = False
                continue
            print(end=_end_of_answer(), flush=True)
    return fine


def _end_of_answer() -> str:
    """What is piped in leaves an empty line before the next question."""
    return "\n" if sys.stdin.isatty() else "\n\n"


def _typed() -> Iterator[str]:
    """Lines that a person types, until an empty one or Ctrl-D; or all that are piped in and hold
    something.
    """
    at_terminal = sys.stdin.isatty()
    while True:
        if at_terminal:
            print("> ", end="", flush=True)
            _await_typing()
        try:
            line = input().strip()
        except EOFError:
            return
        if line:
            yield line
        elif at_terminal:
            return


def _await_typing() -> None:
    """Wait for a line to be typed, in turns: a Ctrl-C that comes just before `input` begins to read
    would not be heard there until the next key.
    """
    while not select.select([sys.stdin], [], [], 0.5)[0]:
        pass


def _say(piece: str) -> None:
    """Print a piece of an answer. On a terminal, control characters are shown and not sent: they
    could do anything there.
    """
    if sys.stdout.isatty():
        piece = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", piece)
    print(piece, end="", flush=True)


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
