"""Tasks out of a person's own files: what shape the records have, and lm-eval's own configuration
for it. Nothing is fetched.

To add a shape, add its record to `SHAPES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.choices import Table
from windtunnel.data.formats import Malformed
from windtunnel.data.readers import Taken, records
from windtunnel.errors import InputError
from windtunnel.evaluate.code import pass_of

Doc = Mapping[str, Any]

_QUESTION = ("question", "ctx", "context", "query", "problem", "prompt", "stem", "text")
_CHOICES = ("choices", "endings", "options")
_LABEL = ("answer", "label", "gold", "expected_index", "answer_index", "answerKey", "target")
_ANSWER = ("answer", "expected", "solution", "target", "output", "completion", "response")
# The last number of an answer, as lm-eval's GSM8K takes it.
_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Records of one shape, and how they are asked and scored."""

    name: str
    help: str
    """What its records hold."""
    read: Callable[[Doc], dict[str, Any] | None]
    """The record as the configuration wants it; None for one of another shape."""
    config: Mapping[str, Any]
    """For lm-eval's `ConfigurableTask`."""


def local_task(name: str, path: Path, trust: bool) -> dict[str, Any]:
    """The configuration of a task whose items are the records of a file. `trust`: code of a model
    may run where it can't be shut in. Raises InputError for records of no known shape, and for a
    record of another shape than the first.
    """
    values = values_of(path)
    shape = shape_of(values[0][1], values[0][0])
    docs = []
    for where, value in values:
        doc = shape.read(value) if isinstance(value, dict) else None
        if doc is None:
            raise InputError(f"{where}: expected {shape.help}, as in the records before it")
        docs.append(doc)
    config = dict(shape.config)
    if "process_results" in config:
        config["process_results"] = partial(config["process_results"], trust=trust)
    return config | {
        "task": name,
        "custom_dataset": dataset_of({"test": docs}),
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "default"},
        "metadata": {"version": 1.0},
    }


def dataset_of(splits: Mapping[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    """What lm-eval calls for a task's data: these records, by split."""

    def made(**_: Any) -> Any:
        from datasets import Dataset

        return {name: Dataset.from_list(list(docs)) for name, docs in splits.items()}

    return made


def values_of(path: Path) -> list[tuple[str, Any]]:
    """The records of a file, each with where it stands. Raises InputError for one that can't be
    read, and where there are none.
    """
    found = []
    for record in records(path):
        if isinstance(record, Malformed):
            raise InputError(f"{record.where}: {record.why}")
        if not isinstance(record, Taken):
            found.append((record.where, record.value))
    if not found:
        raise InputError(f"{path}: no record found; expected the items of a task")
    return found


def shape_of(value: Any, where: str) -> Shape:
    """The shape of a record. Raises InputError for one of no known shape."""
    for shape in SHAPES.values():
        if isinstance(value, dict) and shape.read(value) is not None:
            return shape
    held = ", ".join(value) if isinstance(value, dict) else type(value).__name__
    known = "; ".join(shape.help for shape in SHAPES.values())
    raise InputError(f"{where}: a record of no known shape ({held}); expected {known}")


def _first(doc: Doc, names: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    for name in names:
        value = doc.get(name)
        if isinstance(value, kinds) and not isinstance(value, bool):
            return value
    return None


def _choice(doc: Doc) -> dict[str, Any] | None:
    question = _first(doc, _QUESTION, (str,))
    choices = _first(doc, _CHOICES, (list, dict))
    labels = None
    if isinstance(choices, dict):  # {"text": [...], "label": [...]}, as in ARC
        choices, labels = choices.get("text"), choices.get("label")
    gold = _first(doc, _LABEL, (int, str))
    if question is None or not isinstance(choices, list) or gold is None:
        return None
    place = _place(gold, choices, labels)
    if place is None or not all(isinstance(choice, str) and choice for choice in choices):
        return None
    asked = question if "ctx" in doc or "context" in doc else f"Question: {question}\nAnswer:"
    return {"query": asked, "choices": [c.strip() for c in choices], "gold": place}


def _place(gold: int | str, choices: list[Any], labels: Any) -> int | None:
    """Which of the choices: by its index, its label, its letter or itself."""
    if isinstance(gold, str):
        if isinstance(labels, list) and gold in labels:
            return labels.index(gold)
        if gold in choices:
            return choices.index(gold)
        if gold.isdigit():
            gold = int(gold)
        elif len(gold) == 1 and gold.isalpha():
            gold = ord(gold.upper()) - ord("A")
        else:
            return None
    return gold if 0 <= gold < len(choices) else None


def _code(doc: Doc) -> dict[str, Any] | None:
    names = ("prompt", "test", "entry_point")
    if not all(isinstance(doc.get(name), str) for name in names):
        return None
    return {name: doc[name] for name in names}


def _mbpp(doc: Doc) -> dict[str, Any] | None:
    tests, text = doc.get("test_list"), doc.get("text") or doc.get("prompt")
    if not isinstance(tests, list) or not isinstance(text, str):
        return None
    asked = "\n".join(tests)
    return {
        "prompt": f"{text}\nYour code should pass these tests:\n{asked}\n",
        "test": "\n".join([doc.get("test_setup_code") or "", *tests]),
        "code": doc.get("code") or "",
    }


def _number(doc: Doc) -> dict[str, Any] | None:
    question = _first(doc, _QUESTION, (str,))
    answer = _first(doc, _ANSWER, (str, int, float))
    if question is None or answer is None:
        return None
    text = str(answer)
    last = text.rpartition("####")[2].strip().replace(",", "")
    if not re.fullmatch(r"-?\$?\d+(\.\d+)?", last):
        return None
    return {"query": f"Question: {question}\nAnswer:", "target": text, "number": last}


def _text(doc: Doc) -> dict[str, Any] | None:
    question = _first(doc, _QUESTION, (str,))
    answer = _first(doc, _ANSWER, (str,))
    if question is None or not answer:
        return None
    return {"query": f"Question: {question}\nAnswer:", "target": answer.strip()}


def _cloze(doc: Doc) -> dict[str, Any] | None:
    context, continuation = doc.get("context"), doc.get("continuation")
    if isinstance(context, str) and isinstance(continuation, str) and continuation.strip():
        return {"query": context.rstrip(), "target": continuation.strip()}
    text = doc.get("text")
    if len(doc) > 1 or not isinstance(text, str) or len(text.split()) < 2:
        return None
    before, _, last = text.rstrip().rpartition(" ")
    return {"query": before, "target": last}


def _mean(*metrics: str, **more: Any) -> list[dict[str, Any]]:
    return [{"metric": m, "aggregation": "mean", "higher_is_better": True} | more for m in metrics]


def _until(*stops: str, most: int) -> dict[str, Any]:
    return {"until": list(stops), "max_gen_toks": most, "do_sample": False, "temperature": 0.0}


_EXACT = _mean("exact_match", ignore_case=True, ignore_punctuation=False)
SHAPES: Table[Shape] = Table(
    "shape",
    (
        Shape(
            name="code",
            help="code: prompt, test and entry_point, as in HumanEval",
            read=_code,
            config={
                "output_type": "generate_until",
                "doc_to_text": "{{prompt}}",
                "doc_to_target": "{{test}}",
                "generation_kwargs": _until("\nclass", "\ndef", "\n#", "\nif", "\nprint", most=512),
                "process_results": pass_of,
                "metric_list": _mean("pass@1"),
            },
        ),
        Shape(
            name="mbpp",
            help="code from a sentence: text and test_list, as in MBPP",
            read=_mbpp,
            config={
                "output_type": "generate_until",
                "doc_to_text": "{{prompt}}[BEGIN]\n",
                "doc_to_target": "{{code}}\n[DONE]",
                "target_delimiter": "",
                "generation_kwargs": _until("[DONE]", most=512),
                "process_results": pass_of,
                "metric_list": _mean("pass@1"),
            },
        ),
        Shape(
            name="choice",
            help="choices: a question or ctx, choices or endings, and which of them is right",
            read=_choice,
            config={
                "output_type": "multiple_choice",
                "doc_to_text": "{{query}}",
                "doc_to_target": "{{gold}}",
                "doc_to_choice": "choices",
                "metric_list": _mean("acc", "acc_norm", "acc_bytes"),
            },
        ),
        Shape(
            name="number",
            help="a number: a question, and an answer that is one or ends in #### and one",
            read=_number,
            config={
                "output_type": "generate_until",
                "doc_to_text": "{{query}}",
                "doc_to_target": "{{target}}",
                "generation_kwargs": _until("Question:", "</s>", "<|im_end|>", most=256),
                "metric_list": _mean(
                    "exact_match",
                    ignore_case=True,
                    ignore_punctuation=False,
                    regexes_to_ignore=[",", r"\$", "(?s).*#### ", r"\.$"],
                ),
                "filter_list": [
                    {
                        "name": "strict-match",
                        "filter": [
                            {"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"},
                            {"function": "take_first"},
                        ],
                    },
                    {
                        "name": "flexible-extract",
                        "filter": [
                            {"function": "regex", "group_select": -1, "regex_pattern": _NUMBER},
                            {"function": "take_first"},
                        ],
                    },
                ],
            },
        ),
        Shape(
            name="cloze",
            help="the end of a text: context and continuation, or text alone, whose last word "
            "is asked for",
            read=_cloze,
            config={
                "output_type": "loglikelihood",
                "doc_to_text": "{{query}}",
                "doc_to_target": "{{' ' + target}}",  # no delimiter is put before it
                "target_delimiter": "",
                "metric_list": [
                    *_mean("acc"),
                    {
                        "metric": "perplexity",
                        "aggregation": "perplexity",
                        "higher_is_better": False,
                    },
                ],
            },
        ),
        Shape(
            name="text",
            help="a text: a question and the answer that is to be given word for word",
            read=_text,
            config={
                "output_type": "generate_until",
                "doc_to_text": "{{query}}",
                "doc_to_target": "{{target}}",
                "generation_kwargs": _until("\n", most=128),
                "metric_list": _EXACT,
                "filter_list": [
                    {
                        "name": "none",
                        "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
                    }
                ],
            },
        ),
    ),
)
