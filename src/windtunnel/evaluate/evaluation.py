"""A model evaluated on whatever was asked: what was scored already is read, and the rest is scored
and kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.evaluate.bits import Texts, bits_per_byte
from windtunnel.evaluate.model import Evaluated, Show
from windtunnel.evaluate.needle import Far, answered, digest_of, saved
from windtunnel.evaluate.tasks import Asked, Task, evaluate_task
from windtunnel.evaluate.template import Template
from windtunnel.results.evaluation import Evaluation, Measure

_Scorer = Callable[..., tuple[list[str], list[Measure]]]
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that a person named, not loaded before it is needed."""

    name: str
    """What people are told."""
    tokens: int | None
    """Of the checkpoint of a run."""
    engine: str
    """What it is computed with."""
    folder: Path
    """Where its evaluations are kept."""
    load: Callable[[], Evaluated]
    template: Callable[[], Template]
    """How a conversation is written for it. Raises InputError where that is not known."""

    @cached_property
    def model(self) -> Evaluated:
        """Loaded at the first time."""
        return self.load()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person wants to know of a model."""

    texts: Sequence[Texts] = ()
    answers: Sequence[Callable[[Template | None], Texts]] = ()
    """Answers given their questions, which a template may write in another way."""
    tasks: Sequence[Task] = ()
    far: Far | None = None
    """Questions about long texts."""
    documents: Corpus | None = None
    """With `far`, whose held-out documents say what distant text is worth."""
    asked: Asked = field(default_factory=Asked)
    chat: bool = False
    """Whether questions are put by the model's chat template."""
    anew: bool = False
    """Whether what is kept is scored all the same."""


def evaluated(subject: Subject, wanted: Wanted, show: Show) -> Iterator[Evaluation]:
    """Every evaluation that is wanted, each kept as soon as it is there. Raises InputError."""
    template = subject.template() if wanted.chat else None
    for texts in wanted.texts:
        yield from _of_texts(subject, wanted, texts, False, show)
    for answers in wanted.answers:
        yield from _of_texts(subject, wanted, answers(template), bool(template), show)
    for task in wanted.tasks:
        yield from of_task(subject, wanted, task, show)
    if wanted.far:
        yield from _of_far(subject, wanted, wanted.far, show)


def of_task(subject: Subject, wanted: Wanted, task: Task, show: Show) -> list[Evaluation]:
    """A task, or a group and its parts."""
    settings = task.settings(wanted.asked, wanted.chat)
    key = _key(subject, settings)
    if not wanted.anew and (kept := _kept(subject, key)):
        return kept
    template = subject.template() if wanted.chat else None
    found = []
    for scored in evaluate_task(subject.model, task, wanted.asked, template, show):
        shots = {} if scored.shots is None else {"shots": str(scored.shots)}
        found.append(
            _keep(subject, key, scored.name, settings | shots, scored.items, scored.measures)
        )
    return found


def _of_texts(
    subject: Subject, wanted: Wanted, texts: Texts, marked: bool, show: Show
) -> list[Evaluation]:
    settings = {"text": texts.name, "data": texts.digest} | ({"chat": "yes"} if marked else {})
    key = _key(subject, settings)
    if not wanted.anew and (kept := _kept(subject, key)):
        return kept
    model, done = subject.model, 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        show(f"{subject.name}: {texts.name}", done, None)

    items, measure = bits_per_byte(model, texts, marked, told)
    show(f"{subject.name}: {texts.name}", done, done)
    return [_keep(subject, key, texts.name, settings, items, [measure])]


def _of_far(subject: Subject, wanted: Wanted, far: Far, show: Show) -> Iterator[Evaluation]:
    """Each kind of long question, and what distant text saves."""
    scorers: dict[str, tuple[str, _Scorer]] = {}
    for kind in far.kinds:
        scorers[f"far/{kind}"] = digest_of(far), partial(answered, kind=kind, far=far)
    if corpus := wanted.documents:
        scorer = partial(saved, corpus=corpus, far=far)
        scorers[f"far/{corpus.folder.name}"] = digest_of(far, corpus), scorer
    for name, (digest, score) in scorers.items():
        settings = {"task": name, "data": digest}
        key = _key(subject, settings)
        if not wanted.anew and (kept := _kept(subject, key)):
            yield from kept
            continue
        items, measures = score(subject.model, done=_Told(f"{subject.name}: {name}", show))
        yield _keep(subject, key, name, settings, items, measures)


class _Told:
    """Tells how much of something is done."""

    def __init__(self, what: str, show: Show) -> None:
        self._what, self._show, self._done = what, show, 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._show(self._what, self._done, None)


def _key(subject: Subject, settings: dict[str, str]) -> str:
    said = json.dumps([settings, subject.engine, subject.tokens], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _kept(subject: Subject, key: str) -> list[Evaluation]:
    """In the order in which they were scored, a group before its parts."""
    files = sorted(subject.folder.glob(f"{key}-*.json"))
    return [Evaluation.read(file) for file in files]


def _keep(
    subject: Subject,
    key: str,
    task: str,
    settings: dict[str, str],
    items: list[str],
    measures: list[Measure],
) -> Evaluation:
    made = Evaluation(
        task=task,
        model=subject.name,
        tokens=subject.tokens,
        engine=subject.engine,
        settings=settings,
        key=key,
        items=items,
        measures=measures,
    )
    name = _NOT_OF_NAMES.sub("-", task)[:80] or "task"
    made.write(subject.folder / f"{key}-{name}.json", make_folder=True)
    return made
