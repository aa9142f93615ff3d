"""Preferences out of JSON lines, JSON or parquet, in the shapes that people keep them in:

    {"prompt": "...", "chosen": "...", "rejected": "..."}         each a text, or a list of messages
    {"chosen": [...], "rejected": [...]}      whole conversations, whose beginning is the same; with
                                              `prompt` beside them too, as UltraFeedback has them
    {"prompt": "...", "completion": "...", "label": true}         an answer that was judged, for KTO

Other keys are ignored. One record is two documents of a corpus: a question with two answers; or a
question with an answer that was judged.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.data.chat_format import Message
from windtunnel.data.conversations import Fault, in_order, refuse_tools, side, text_of
from windtunnel.data.formats import Malformed
from windtunnel.data.readers import Found, Taken, records
from windtunnel.recipe import Answers

_PAIRS = "'prompt', 'chosen' and 'rejected'"
_JUDGED = "'prompt', 'completion' and 'label'"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer to a question, or two of which the first is the better one."""

    prompt: list[Message]
    answers: list[list[Message]]
    good: bool
    """Whether the answer was judged good; of two, always."""

    def to_json(self) -> str:
        """As `judged_of` reads it."""
        return json.dumps([self.prompt, self.answers, self.good], ensure_ascii=False)


def judged_of(text: str) -> Judged:
    """One item of `judgements`."""
    prompt, answers, good = json.loads(text)
    return Judged(prompt=prompt, answers=answers, good=good)


def judgements(found: Sequence[Path], needs: Answers, format: str | None = None) -> Iterator[Found]:
    """Every record, as the JSON that `judged_of` reads: pairs, or single answers, for which pairs
    are taken apart. `format`: of the files, where it is not to be seen from what they hold.
    """
    for file in found:
        for record in records(file, format):
            if isinstance(record, Malformed | Taken):
                yield record
                continue
            try:
                for one in _judged(record.value, needs):
                    yield one.to_json()
            except Fault as fault:
                yield Malformed(record.where, str(fault))


def _judged(record: object, needs: Answers) -> list[Judged]:
    """What one record holds. Raises Fault."""
    if not isinstance(record, dict):
        raise Fault(f"expected an object with {_PAIRS}, or {_JUDGED}")
    refuse_tools(record)
    if "chosen" in record or "rejected" in record:
        pair = _pair(record)
        if needs == "pairs":
            return [pair]
        return [
            Judged(prompt=pair.prompt, answers=[answer], good=good)
            for answer, good in zip(pair.answers, (True, False), strict=True)
        ]
    if "completion" in record and "label" in record:
        if needs == "pairs":
            raise Fault("single answers with a label, which only --loss kto learns from")
        return [_single(record)]
    raise Fault(f"expected {_PAIRS}, or {_JUDGED}")


def _pair(record: dict[str, Any]) -> Judged:
    for key in ("chosen", "rejected"):
        if record.get(key) is None:
            raise Fault(f"no {key!r} beside {'rejected' if key == 'chosen' else 'chosen'!r}")
    prompt = side(record["prompt"], "prompt", "user") if record.get("prompt") else []
    chosen, rejected = (_whole(prompt, record[key], key) for key in ("chosen", "rejected"))
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if chosen == rejected:
        raise Fault("'chosen' and 'rejected' are the same, so neither can be preferred")
    answers = [chosen[shared:], rejected[shared:]]
    for key, answer in zip(("chosen", "rejected"), answers, strict=True):
        if not answer or answer[0]["role"] != "assistant":
            raise Fault(f"{key!r} does not go on with an answer where the two part")
        _check(chosen[:shared], answer, key)
    return Judged(prompt=chosen[:shared], answers=answers, good=True)


def _whole(prompt: list[Message], value: object, key: str) -> list[Message]:
    """A conversation to its end: what is given, or the prompt and what is given."""
    given = side(value, key, "assistant")
    if not given:
        raise Fault(f"{key!r} holds no message")
    if given[0]["role"] == "assistant":
        if not prompt:
            raise Fault(f"no 'prompt' that {key!r} would answer")
        return [*prompt, *given]
    return given


def _single(record: dict[str, Any]) -> Judged:
    if not isinstance(record["label"], bool | int) or record["label"] not in (0, 1):
        raise Fault(f"'label' is {record['label']!r}; expected true or false")
    if not record.get("prompt"):
        raise Fault("no 'prompt' that the completion would answer")
    prompt = side(record["prompt"], "prompt", "user")
    answer = side(record["completion"], "completion", "assistant")
    _check(prompt, answer, "completion")
    return Judged(prompt=prompt, answers=[answer], good=bool(record["label"]))


def _check(prompt: list[Message], answer: list[Message], key: str) -> None:
    """Raises Fault for turns out of order, and for an empty answer."""
    in_order([*prompt, *answer])
    said = [message["content"] for message in answer if message["role"] == "assistant"]
    if not all(text_of(text, key).strip() for text in said):
        raise Fault(f"an answer of {key!r} is empty, so there is nothing to learn but to end")
