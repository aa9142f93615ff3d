"""What every command that carries out a study does around it, and how its options are made."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from windtunnel.cli import app
from windtunnel.cli.display import display, paragraph, stopping
from windtunnel.cli.standing import option_for
from windtunnel.tunnel.design import SWITCH, Option, options_of
from windtunnel.tunnel.fleet.where import HERE, PLACES, train_on

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus
    from windtunnel.results.study import Experiment, N, StudyResult
    from windtunnel.train.loop import Watch

Command = Callable[..., None]

On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="WORD|ADDRESS",
        help="Where the runs are trained: "
        + "; ".join(f"{one.name}, by {one.help}" for one in PLACES.values())
        + ". With an address, ray://HOST:PORT, of the cluster whose Ray client server that is.",
    ),
]
_GOES_ON = "interrupted; the same command goes on from here"


def study_command(design: type, **more: type) -> Callable[[Command], Command]:
    """Register a function as a command. In place of its parameter `design` the command has an
    option for each field of that Design, and the function is given the Design that was typed;
    `more` are further ones, by the parameters that they stand for.
    """
    designs = {"design": design} | more
    options = {name: options_of(each) for name, each in designs.items()}

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            typed = {}
            for name, each in designs.items():
                values = {o.name: _value(o, given.pop(o.name)) for o in options[name]}
                typed[name] = each(**values)
            function(**typed, **given)

        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            parameters += map(_parameter, options[name]) if name in options else [parameter]
        # typer reads both, and would follow __wrapped__ for what it doesn't find
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        del command.__wrapped__  # type: ignore[attr-defined]
        every: list[Option] = []
        for named in options.values():
            every += named
        return app.command(cls=_with_words(every))(command)

    return register


def _parameter(option: Option) -> inspect.Parameter:
    if option.kind is SWITCH:
        typed: type = bool
        default, about = option.default, typer.Option(option.flag, help=option.help)
    else:
        typed, default = str, option.kind.show(option.default)
        about = typer.Option(option.flag, help=option.help, metavar=option.kind.metavar)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[typed, about],
    )


def _value(option: Option, given: Any) -> Any:
    return given if option.kind is SWITCH else option.kind.parse(option.flag, given)


def _with_words(options: list[Option]) -> type[TyperCommand]:
    """A command whose help names the words of tables. They are asked for only when that help is
    shown: a table may be slow to import, and `windtunnel --help` builds every command.
    """
    helps = {option.name: option for option in options if option.kind.known}

    class WithWords(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            for parameter in self.params:
                if parameter.name in helps:
                    parameter.help = helps[parameter.name].full_help  # type: ignore[attr-defined]
            super().format_options(ctx, formatter)

    return WithWords


@contextmanager
def following(if_interrupted: str = _GOES_ON) -> "Iterator[Watch]":
    """A watch that shows how far something has come, and asks it to stop at Ctrl-C. What is
    interrupted by it ends the command with this line, and exit code 130.
    """
    from windtunnel.train.loop import Watch
    from windtunnel.tunnel.fleet.fleet import Interrupted

    with display() as shown, stopping() as stop:
        try:
            yield Watch(say=shown.say, stop=stop, show=shown.show)
        except Interrupted:
            shown.say(if_interrupted)
            raise typer.Exit(130) from None


def carry_out(
    lab: Path,
    corpus: str,
    as_json: bool,
    experiment: "Experiment[N, Any]",
    study: "Callable[[Corpus, Watch], Path]",
    after: "Callable[[StudyResult[N]], None]",
    on: str = HERE,
) -> None:
    """Open the corpus and carry out a study on it, as `watched` does, with workers as `--on` asks
    for them.
    """
    train_on(on)
    from windtunnel.data.shards import Corpus

    opened = Corpus.open(lab / "corpora" / corpus)
    watched(lab, as_json, experiment, lambda watch: study(opened, watch), after)


def watched(
    lab: Path,
    as_json: bool,
    experiment: "Experiment[N, Any]",
    study: "Callable[[Watch], Path]",
    after: "Callable[[StudyResult[N]], None]",
) -> None:
    """Run the study, let `after` print its numbers, and print its summary and verdict (with
    --json its result.json alone). Exit code 1 for a failed verdict, 130 for an interruption.
    """
    from windtunnel.results.study import read_study

    with following() as watch:
        folder = study(watch)
    result = read_study(lab, experiment)
    if as_json:
        print(result.to_json())
    else:
        print_study(lab, folder, result, after)
    if result.verdict == "fail":
        raise typer.Exit(1)


def print_study(
    lab: Path, folder: Path, result: "StudyResult[N]", after: "Callable[[StudyResult[N]], None]"
) -> None:
    """The numbers, as `after` prints them, and behind them, where a terminal ends: the verdict and
    what to do next.
    """
    from windtunnel.report.readings import READINGS

    after(result)
    option = option_for(lab)
    verdict = result.verdict.upper() if result.verdict else "NO VERDICT"
    print()
    paragraph(f"{verdict}: {result.summary}")
    if reading := READINGS.get(result.study):
        paragraph(reading.next(result, option).replace("`", ""))
    print(f"{folder} holds the table; windtunnel report{option} draws it")
