"""Tasks by name or out of files, asked of a model through lm-eval, as evaluations with every item.

A name is looked up among lm-eval's own tasks, whose data are taken from this machine's cache; they
are fetched only where a person says so. `NAME=FILE` reads the items of such a task from a file in
the task's own shape; a FILE alone has a shape of `local_tasks.SHAPES`; a FILE.yaml is a task's
configuration.
"""

from __future__ import annotations

import functools
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windtunnel.errors import InputError, did_you_mean
from windtunnel.evaluate.local_tasks import dataset_of, local_task, values_of
from windtunnel.evaluate.model import Evaluated, Show
from windtunnel.evaluate.scores import BITS, ratio, standard_error
from windtunnel.evaluate.template import Template
from windtunnel.files import sha256_of
from windtunnel.results.evaluation import Measure

if TYPE_CHECKING:
    from lm_eval.api.model import LM

# Resamples for metrics that are no mean; a mean has a formula.
_RESAMPLES = 1000
_SEED = 1234  # lm-eval's own
# Why tasks run code of a model with nothing around it: theirs are run here by `code` instead.
_OWN_CODE = ("humaneval", "mbpp")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every task."""

    shots: int | None = None
    """Examples before each question; None: as many as the task says."""
    limit: int | None = None
    """Items, at most: the first ones."""
    download: bool = False
    """Whether data that are not on this machine may be fetched."""
    trust: bool = False
    """Whether code of a model may run where it can't be shut in."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One that a person named."""

    asked: str
    """As it was typed."""
    name: str
    files: tuple[Path, ...] = ()
    """Its items, and for its examples another file; none where lm-eval has the data."""

    @classmethod
    def of(cls, text: str) -> Task:
        """`hellaswag`, `hellaswag=FILE`, `gsm8k=FILE,EXAMPLES` or `FILE`. Raises InputError."""
        name, given, where = text.partition("=")
        if given and not Path(text).exists():
            files = tuple(Path(part) for part in where.split(",") if part)
            if not name or not 1 <= len(files) <= 2:
                raise InputError(
                    f"--task {text}: expected NAME=FILE, or NAME=FILE,EXAMPLES with another file "
                    "from which the examples are drawn"
                )
        elif Path(text).is_file():
            name, files = Path(text).name.split(".")[0], (Path(text),)
        else:
            name, files = text, ()
        for file in files:
            if not file.is_file():
                raise InputError(f"--task {text}: there is no file {file}")
        return cls(asked=text, name=name, files=files)

    def settings(self, asked: Asked, chat: bool) -> dict[str, str]:
        """All that decides its scores beside the model."""
        found = {"task": self.asked if not self.files else self.asked.partition("=")[0]}
        if self.files:
            found["task"] = self.name
            found["data"] = " ".join(sha256_of(file)[:16] for file in self.files)
            found["read as"] = "lm-eval's task" if "=" in self.asked else "a file"
        for setting, value in (("shots", asked.shots), ("limit", asked.limit)):
            if value is not None:
                found[setting] = str(value)
        if chat:
            found["chat"] = "yes"
        return found | {"lm_eval": version("lm_eval")}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of one task, or of one part of a group."""

    name: str
    items: list[str]
    measures: list[Measure]
    shots: int | None
    """None of a group."""


def evaluate_task(
    model: Evaluated, task: Task, asked: Asked, template: Template | None, show: Show
) -> list[Scored]:
    """The scores of a task, or of a group and each of its parts; `template`: how its questions are
    put to a model that has learnt to answer. Raises InputError.
    """
    _prepare(asked.download)
    from windtunnel.evaluate.harness import Harness

    return scored_by(Harness(model, template, show), task, asked, chat=template is not None)


def scored_by(lm: LM, task: Task, asked: Asked, chat: bool = False) -> list[Scored]:
    """The same, by any model of lm-eval's; `chat`: it writes questions by its own template."""
    _prepare(asked.download)
    loaded = _loaded(task, asked)
    from lm_eval.evaluator import evaluate

    _seed()
    try:
        found = evaluate(
            lm=lm,
            task_dict=_with_shots(loaded, asked.shots),
            limit=asked.limit,
            bootstrap_iters=_RESAMPLES,
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=asked.trust,
        )
    except (ValueError, AssertionError, KeyError, IndexError) as error:
        raise InputError(f"--task {task.asked}: {_line(error)}") from error
    if found is None:
        raise InputError(f"--task {task.asked}: lm-eval gave no result")
    return list(_scored(dict(found)))


def _loaded(task: Task, asked: Asked) -> list[Any]:
    """lm-eval's own objects. Raises InputError."""
    if task.name in _OWN_CODE and not task.files:
        raise InputError(
            f"--task {task.name}: give its problems as a file, --task FILE.jsonl: they are then "
            "run shut in, which lm-eval does not do"
        )
    if len(task.files) == 1 and "=" not in task.asked and task.files[0].suffix != ".yaml":
        return [_local(task, asked)]
    yaml = bool(task.files) and task.files[0].suffix == ".yaml" and "=" not in task.asked
    manager = _manager(defaults=not yaml)
    spec: str | dict[str, Any] = str(task.files[0]) if yaml else task.name
    if task.files and not yaml and not _is_single(manager, task.name):
        # a name of the person's own or of a group, for items of a shape that is known
        return [_local(task, asked)]
    if not yaml and task.name not in manager.task_index:
        near = did_you_mean(task.name, manager.all_tasks)
        raise InputError(f"--task {task.asked}: no such file, and no task of lm-eval{near}")
    if task.files and not yaml:
        spec = {"task": task.name, **_data(task)}
    try:
        loaded = manager.load([spec])
    except Exception as error:
        # whatever the hub's libraries say where something is not there, or is no longer
        raise InputError(f"--task {task.asked}: {_missing(error, asked)}") from error
    parts = {name for children in loaded.get("group_map", {}).values() for name in children}
    groups = [group for name, group in loaded.get("groups", {}).items() if name not in parts]
    return groups or list(loaded["tasks"].values())


def _with_shots(loaded: Sequence[Any], shots: int | None) -> Any:
    """The tasks and groups as `lm_eval.evaluate` wants them, with as many examples before each
    question; where a task says that there are none, there are none. lm-eval's `simple_evaluate`
    does the same, and then asks git and pip what stands around it.
    """
    found = _manager(defaults=False).load(list(loaded))
    for task in found["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (shots is not None and own != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=_SEED)
    return found


def _seed() -> None:
    """As lm-eval does before it loads tasks and asks: some draw their choices."""
    random.seed(0)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)


def _is_single(manager: Any, name: str) -> bool:
    """Whether it is a task of lm-eval, no group of them, and none that runs code by itself."""
    return name in manager.all_subtasks and name not in _OWN_CODE


def _local(task: Task, asked: Asked) -> Any:
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=local_task(task.name, task.files[0], asked.trust))


def _data(task: Task) -> dict[str, Any]:
    """What makes a task of lm-eval read files instead."""
    splits = dict(zip(("test", "train"), task.files, strict=False))
    docs = {split: _docs(file) for split, file in splits.items()}
    examples = "train" if "train" in docs else "test"
    return {
        "custom_dataset": dataset_of(docs),
        "dataset_path": None,
        "dataset_name": None,
        "dataset_kwargs": None,
        "test_split": "test",
        "validation_split": None,
        "training_split": None,
        "fewshot_split": examples,
    }


def _docs(file: Path) -> list[dict[str, Any]]:
    docs = []
    for where, value in values_of(file):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, as the task's own data have it")
        docs.append(value)
    return docs


def items_of(task: Task, asked: Asked) -> Iterator[tuple[str, list[str]]]:
    """The items of a task, or of each part of a group, as text: questions with the right answer.
    Raises InputError.
    """
    _prepare(asked.download)
    for loaded in _loaded(task, asked):
        for one in loaded.get_all_tasks() if hasattr(loaded, "get_all_tasks") else [loaded]:
            docs = [doc for _, doc in one.doc_iterator(limit=asked.limit)]
            yield one.task_name, [_as_text(one, doc) for doc in docs]


def _as_text(task: Any, doc: dict[str, Any]) -> str:
    question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
    if task.config.doc_to_choice is not None and isinstance(answer, int):
        answer = task.doc_to_choice(doc)[answer]
    return f"{question} {answer}"


def _scored(found: Mapping[str, Any]) -> Iterator[Scored]:
    """Out of lm-eval's results, a group before its parts."""
    groups = found.get("groups", {})
    for name in [*groups, *(name for name in found["results"] if name not in groups)]:
        samples = found.get("samples", {}).get(name, [])
        better = found["higher_is_better"].get(name, {})
        measures = []
        for key, value in found["results"][name].items():
            metric, comma, filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = found["results"][name].get(f"{metric}_stderr,{filter}")
            of_items = [one for one in samples if one["filter"] == filter and metric in one]
            is_better = better.get(metric)
            measures.append(
                _measure(
                    metric,
                    filter,
                    float(value),
                    error,
                    True if is_better is None else bool(is_better),
                    [one[metric] for one in of_items],
                )
            )
        if measures:
            first = samples[0]["filter"] if samples else ""
            ids = [one["doc_hash"][:16] for one in samples if one["filter"] == first]
            yield Scored(
                name=name,
                items=ids,
                measures=measures,
                shots=found["n-shot"].get(name) if name not in groups else None,
            )


def _measure(
    metric: str, filter: str, value: float, error: Any, better: bool, raw: Sequence[Any]
) -> Measure:
    """With the values of items, where the score is their mean or their ratio."""
    values = weights = None
    if metric == BITS and all(isinstance(one, tuple | list) for one in raw) and raw:
        values = np.array([-one[0] / np.log(2) for one in raw], float)
        weights = np.array([one[1] for one in raw], float)
    elif raw and all(isinstance(one, bool | int | float | np.number) for one in raw):
        values, weights = np.array(raw, float), np.ones(len(raw))
    if values is not None and weights is not None and np.isclose(ratio(values, weights), value):
        return Measure(
            metric=metric,
            filter=filter,
            value=value,
            stderr=standard_error(values, weights),
            higher_is_better=better,
            values=values.tolist(),
            weights=weights.tolist() if metric == BITS else None,
        )
    known = isinstance(error, float) and np.isfinite(error)
    return Measure(
        metric=metric,
        filter=filter,
        value=value,
        stderr=error if known else None,
        higher_is_better=better,
    )


@functools.cache
def _manager(defaults: bool) -> Any:
    """lm-eval's own tasks, which it takes seconds to list, or an empty list for files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


def _prepare(download: bool) -> None:
    """Import lm-eval with the libraries below it keeping to themselves, and unless a person says so
    to this machine. Raises InputError where it is not installed.
    """
    # all of these are read when they are imported
    os.environ["TQDM_DISABLE"] = "1"  # bars of ours are shown
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "0" if download else "1"
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        if error.name != "lm_eval":
            raise
        raise InputError("tasks need lm-eval: pip install 'windtunnel[evaluate]'") from None
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _missing(error: Exception, asked: Asked) -> str:
    if asked.download:
        return f"its data could not be fetched: {_line(error)}"
    return (
        "its data are not on this machine; --download fetches them, or give them as a file, "
        f"NAME=FILE ({_line(error)})"
    )


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    said = str(error).strip().splitlines()
    return (said[0] if said else type(error).__name__)[:300]
