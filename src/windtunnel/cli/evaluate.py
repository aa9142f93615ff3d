"""`windtunnel evaluate`: how good a model is, and which of two is better."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display
from windtunnel.cli.options import DEFAULT_LAB, Json, Lab, position_of, typed
from windtunnel.errors import InputError
from windtunnel.tunnel.design import CONTEXTS, FRACTION, NUMBER

if TYPE_CHECKING:
    from windtunnel.evaluate.bits import Texts
    from windtunnel.evaluate.evaluation import Subject, Wanted
    from windtunnel.evaluate.model import Show
    from windtunnel.evaluate.tasks import Asked
    from windtunnel.results.evaluation import (
        Difference,
        Evaluation,
        Evaluations,
        FittedScore,
        Overlap,
        PaperScore,
    )
    from windtunnel.results.scores import TaskScores


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Runs, folders of checkpoints in another tool's layout, or GGUF files. Each after "
            "the first is compared with the first.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="A task: a name of lm-eval's; NAME=FILE to read its items from a file; a file of "
            "your own (questions with choices, with answers, with tests, or texts to end); or a "
            "configuration in FILE.yaml. May be given more than once.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="A set of tasks: minicpm, the paper's eleven, beside the paper's scores.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A folder with files for the suite, such as hellaswag.jsonl."
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Bits per byte of text: a file, a folder or a glob, or NAME=PATH.",
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Bits per byte of a corpus's held-out text, for each source."
        ),
    ] = None,
    solutions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Bits per byte of answers given their questions, from records."
        ),
    ] = None,
    far: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH,...",
            help="Whether what is far away is used, in texts of so many tokens, such as 1k,4k: "
            "questions about long texts, and what the distant part of the run's held-out documents "
            "saves in bits per byte.",
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Examples before each question; by default as the task says."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first so many items of each task or text."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put questions by the model's chat template.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Evaluate the checkpoint at this many tokens instead of the last.",
        ),
    ] = None,
    law: Annotated[
        float | None,
        typed(
            "--law",
            NUMBER,
            "Over four models or more, fit each task's score as a sigmoid of the bits per byte of "
            "the first text, and tell the score to expect at so many. Of runs that read one corpus "
            "the scores are kept, and a plan on it tells what its model may score.",
        ),
    ] = None,
    chance: Annotated[
        float,
        typed("--chance", FRACTION, "What guessing scores, for --law: 0.25 of four choices."),
    ] = 0.0,
    contamination: Annotated[
        bool,
        typer.Option(
            "--contamination", help="Look for the items in the text that the first run read."
        ),
    ] = False,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch missing data of lm-eval's tasks."),
    ] = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run code that a model wrote with your own rights where it cannot be shut in.",
        ),
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Score again what was scored already.")
    ] = False,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Score models on tasks and texts, and say which is better.

    Without a task or a text, the bits per byte of the held-out text of each run's corpus. Scores
    are kept with every item, in a run's folder, and nothing is scored twice.
    """
    from windtunnel.cli.subjects import subject_of
    from windtunnel.results.evaluation import Evaluations

    position = position_of("--at", at)
    if data and not suite:
        raise InputError("--data: it names files for --suite, and no suite is asked for")
    subjects = [subject_of(model, lab, position) for model in models]
    plain = not (task or suite or text or corpus or solutions or far)
    with display(quiet=as_json) as shown:
        from windtunnel.evaluate.compare import compared
        from windtunnel.evaluate.evaluation import evaluated
        from windtunnel.evaluate.score_law import fitted
        from windtunnel.evaluate.tasks import Asked

        asked = Asked(shots=shots, limit=limit, download=download, trust=trust)
        wanted = _wanted(
            lab, task or [], text or [], corpus or [], solutions or [], asked, chat, anew
        )
        found: list[list[Evaluation]] = []
        for named, subject in zip(models, subjects, strict=True):
            its = _of_its_corpus(named, lab, wanted) if plain else wanted
            if far:
                its = _with_far(its, far, named, lab)
            found.append(list(evaluated(subject, its, shown.show)))
        rows = _suite(suite, data, subjects[0], wanted, shown.show)
        differences = [one for others in found[1:] for one in compared(found[0], others)]
        laws = [] if law is None else list(fitted(found, law, chance))
        scores = [] if law is None else _kept_scores(lab, models, found, chance)
        overlaps = _overlaps(contamination, lab, models[0], wanted, shown.show)
    told = Evaluations(
        evaluations=[one for of_model in found for one in of_model],
        differences=differences,
        overlaps=overlaps,
        suite=rows,
        laws=laws,
        scores=scores,
    )
    if as_json:
        print(told.to_json())
        return
    _print(told, len(subjects) > 1)


def _wanted(
    lab: Path,
    tasks: list[str],
    texts: list[str],
    corpora: list[str],
    solutions: list[Path],
    asked: "Asked",
    chat: bool,
    anew: bool,
) -> "Wanted":
    from windtunnel.data.shards import Corpus
    from windtunnel.evaluate.bits import of_corpus, of_files, of_solutions
    from windtunnel.evaluate.evaluation import Wanted
    from windtunnel.evaluate.tasks import Task

    read: list[Texts] = []
    for given in texts:
        name, named, path = given.partition("=")
        if not named or Path(given).exists():
            name, path = Path(given).name or given, given
        read.append(of_files(name, path, asked.limit))
    for name in corpora:
        read += of_corpus(Corpus.open(lab / "corpora" / name), asked.limit)
    answers = [partial(of_solutions, path, limit=asked.limit) for path in solutions]
    return Wanted(
        texts=read,
        answers=answers,
        tasks=[Task.of(one) for one in tasks],
        asked=asked,
        chat=chat,
        anew=anew,
    )


def _is_file(named: str) -> bool:
    """Whether it is a model in another tool's layout, and no run."""
    return named.endswith(".gguf") or (Path(named) / "config.json").is_file()


def _of_its_corpus(named: str, lab: Path, wanted: "Wanted") -> "Wanted":
    """The held-out text of the corpus that a run was trained on."""
    from windtunnel.evaluate.bits import of_corpus
    from windtunnel.train.run import find_run, open_corpus

    run = None if _is_file(named) else find_run(lab, named)
    if run is None or run.recipe.is_imported:
        raise InputError(
            f"{named}: it has no corpus; name a --task, a --text, a --corpus or --solutions"
        )
    return replace(wanted, texts=of_corpus(open_corpus(lab, run.recipe), wanted.asked.limit))


def _with_far(wanted: "Wanted", lengths: str, named: str, lab: Path) -> "Wanted":
    """With questions about long texts, and with the long documents of a run's text."""
    from windtunnel.evaluate.needle import Far
    from windtunnel.family.longer import text_of
    from windtunnel.train.run import find_run

    far = Far(lengths=CONTEXTS.parse("--far", lengths))
    documents = None
    if not _is_file(named):
        run = find_run(lab, named)
        documents = None if run.recipe.is_imported else text_of(run)
    return replace(wanted, far=far, documents=documents)


def _suite(
    name: str | None, data: Path | None, subject: "Subject", wanted: "Wanted", show: "Show"
) -> "list[PaperScore]":
    from windtunnel.evaluate.suite import scored

    return list(scored(subject, name, data, wanted, show)) if name else []


def _kept_scores(
    lab: Path, models: list[str], found: "list[list[Evaluation]]", chance: float
) -> "list[TaskScores]":
    """What a plan makes laws of: kept where all models are runs that read one corpus."""
    from windtunnel.evaluate.score_law import scores_of
    from windtunnel.train.run import find_run

    if any(_is_file(named) for named in models):
        return []
    scores = list(scores_of([find_run(lab, named) for named in models], found, chance))
    for one in scores:
        one.keep(lab)
    return scores


def _overlaps(
    asked_for: bool, lab: Path, named: str, wanted: "Wanted", show: "Show"
) -> "list[Overlap]":
    """Of the tasks that were asked for, with what the first model read."""
    if not asked_for:
        return []
    from windtunnel.evaluate.contamination import Items, overlaps
    from windtunnel.evaluate.tasks import items_of
    from windtunnel.ship.subject import corpora_of
    from windtunnel.train.run import find_run, lineage

    read = corpora_of(lineage(find_run(lab, named)))
    corpora = {corpus.folder.name: corpus for corpus in read.values()}
    if not corpora:
        raise InputError(f"--contamination: the lab holds no corpus that {named} was trained on")
    items = [
        Items(task=name, texts=texts)
        for task in wanted.tasks
        for name, texts in items_of(task, wanted.asked)
    ]
    if not items:
        raise InputError("--contamination: name a --task whose items are to be looked for")
    return overlaps(items, corpora, show)


def _print(told: "Evaluations", several: bool) -> None:
    width = max([len("task"), *(len(one.task) for one in told.evaluations)]) + 2
    if told.evaluations:
        print(f"{'model':14}{'task':{width}}{'metric':32}{'score':>9}{'+-':>9}{'items':>8}")
    for one in told.evaluations:
        for measure in one.measures:
            taken = "" if measure.filter == "none" else f", {measure.filter}"
            error = "-" if measure.stderr is None else f"{measure.stderr:.4f}"
            print(
                f"{one.model[:12]:14}{one.task:{width}}{measure.metric + taken:32}"
                f"{measure.value:>9.4f}{error:>9}{len(one.items) or '-':>8}"
            )
    if told.differences:
        print()
    for one in told.differences:
        print(_difference(one))
    if several and not told.differences:
        print("\nno item was scored by both models in the same way: there is nothing to compare")
    for one in told.laws:
        print(_law(one))
    for one in told.scores:
        print(f"{one.task}: kept for plans of models that read {one.corpus}")
    for one in told.overlaps:
        print(
            f"{one.task} in {one.source}: {one.touched} of {one.items} items share {one.words} "
            f"words in a row, {one.share:.2%} of all such"
        )
    if told.suite:
        _print_suite(told.suite)


def _difference(one: "Difference") -> str:
    taken = "" if one.filter == "none" else f", {one.filter}"
    low, high = one.interval
    said = one.verdict if one.verdict == "no difference" else f"the second is {one.verdict}"
    return (
        f"{one.task}, {one.metric}{taken}: {one.first:.4f} and {one.second:.4f}, difference "
        f"{one.difference:+.4f}, 95% between {low:+.4f} and {high:+.4f}, {one.items} items: {said}"
    )


def _law(one: "FittedScore") -> str:
    low, high = one.interval90
    least, most = one.steepness90
    best, worst = one.reach
    seen = "" if least > 0 or most < 0 else "; the models show no law, since it could be flat"
    beyond = "" if best <= one.at <= worst else f", beyond the models' {best:.4f} to {worst:.4f}"
    return (
        f"{one.task}, {one.metric} over {one.models} models: {one.score:.4f} to expect at "
        f"{one.at:g} bits/byte of {one.text}{beyond}, 90% between {low:.4f} and {high:.4f}{seen}"
    )


def _print_suite(rows: "list[PaperScore]") -> None:
    papers = list(rows[0].paper)
    head = "".join(f"{name:>14}" for name in papers)
    print(f"\n{'set':11}{'shots':>6}{'here':>8}{'+-':>7}{head}  scored by")
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.2f}"
        error = "-" if row.stderr is None else f"{row.stderr:.2f}"
        theirs = "".join(f"{row.paper[name]:>14.2f}" for name in papers)
        print(f"{row.name:11}{row.shots:>6}{value:>8}{error:>7}{theirs}  {row.scored}")
    for row in rows:
        if row.why:
            print(f"{row.name}: {row.why}")
