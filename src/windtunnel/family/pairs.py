"""Preference pairs from a model itself: it answers questions several times, a verifier that needs
no other model scores the answers, and of each question a better and a worse one make a pair.

With `dpo` on what is written, and both once more from there, it is a small and plain form of
reinforcement learning.

To add a verifier, add its record to `VERIFIERS`; any function will do without one.
"""

import hashlib
import importlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.choices import Table
from windtunnel.data.chat_format import Message, format_of
from windtunnel.data.conversations import Fault, conversation_files, in_order, side
from windtunnel.data.formats import Malformed
from windtunnel.data.readers import Progress, Taken, records
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.files import named, write_whole
from windtunnel.model.generate import answers, sampler
from windtunnel.results.pairs import PairsFound
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run

_TOGETHER = 16  # questions that are answered, and then scored, at once

# The question's record, and an answer -> how good it is; the higher the better, 1 is right.
Score = Callable[[dict[str, Any], str], Any]


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """One way to score an answer."""

    name: str
    help: str
    score: Score


def _exact(record: dict[str, Any], answer: str) -> float:
    return float(answer.strip() == _right(record).strip())


def _last_number(record: dict[str, Any], answer: str) -> float:
    given, right = _number_in(answer), _number_in(_right(record))
    return float(given is not None and given == right)


def _right(record: dict[str, Any]) -> str:
    if "answer" not in record:
        raise InputError("a prompt has no 'answer' to compare with; expected one in every record")
    return str(record["answer"])


def _number_in(text: str) -> float | None:
    """The last number of a text, its thousands perhaps set off by commas."""
    for word in reversed(text.replace(",", "").split()):
        try:
            return float(word.strip("$%.!?()*"))
        except ValueError:
            continue
    return None


VERIFIERS = Table(
    "verifier",
    [
        Verifier(name="exact", help="the answer is the record's, but for blanks", score=_exact),
        Verifier(
            name="number",
            help="the last number of the answer is that of the record's",
            score=_last_number,
        ),
    ],
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person may choose."""

    score: str
    """A verifier's name, or `module:function`, which takes the question's record and an answer, and
    returns a number or a bool."""
    answers: int = 8
    """To each question."""
    most: int = 256
    """Tokens of an answer."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def pairs(
    run: Run,
    prompts: Sequence[str | Path],
    out: Path,
    asked: Asked,
    progress: Progress | None = None,
) -> PairsFound:
    """Write a pair of each question that was answered both better and worse, as JSON lines that
    `dpo` reads. The same run, questions and seed give the same pairs. Raises InputError, and then
    nothing is written.
    """
    score = verifier(asked.score)
    questions = list(_questions(prompts))
    tokenizer = Tokenizer.load(run.tokenizer)
    lines: list[str] = []
    scored: list[float] = []
    solved = 0
    answered = _answered(run, tokenizer, [messages for _, messages in questions], asked)
    for number, texts in enumerate(answered):
        record, messages = questions[number]
        marks = [_mark(score, record, text, asked.score) for text in texts]
        scored += marks
        solved += max(marks) >= 1
        pair = _pair(messages, dict(zip(texts, marks, strict=True)), _seed(asked.seed, messages))
        lines += [json.dumps(pair, ensure_ascii=False)] if pair else []
        if progress:
            progress("answer questions", number + 1, len(questions))
    write_whole(out, "".join(line + "\n" for line in lines))
    return PairsFound(
        run=run.id,
        path=out,
        questions=len(questions),
        answers=len(scored),
        mean_score=sum(scored) / len(scored),
        solved=solved / len(questions),
        pairs=len(lines),
    )


def verifier(name: str) -> Score:
    """The function that scores. Raises InputError for a name that is no verifier's and no
    function's.
    """
    if ":" not in name:
        return VERIFIERS.choose(name, f"--score {name}").score
    module, _, function = name.partition(":")
    # as Python itself does for a script: what lies in the working folder can be imported
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--score {name}: {error}") from None
    if not callable(found):
        raise InputError(f"--score {name}: not a function")
    return found


def _questions(paths: Sequence[str | Path]) -> Iterator[tuple[dict[str, Any], list[Message]]]:
    """Every record with a question, and the question. Raises InputError for one that has none."""
    for file in conversation_files(paths):
        there = False
        for found in records(file):
            if isinstance(found, Taken):
                continue
            if isinstance(found, Malformed):
                raise InputError(f"{found.where}: {found.why}")
            there = True
            try:
                yield found.value, _question(found.value)
            except Fault as fault:
                raise InputError(f"{found.where}: {fault}") from None
        if not there:
            raise InputError(f"{named(file)}: no question in it")


def _question(record: object) -> list[Message]:
    """Raises Fault."""
    if not isinstance(record, dict) or not (record.get("prompt") or record.get("question")):
        raise Fault("expected an object with 'prompt' or 'question'")
    messages = side(record.get("prompt") or record["question"], "prompt", "user")
    in_order(messages)
    if messages[-1]["role"] != "user":
        raise Fault("the prompt does not end with the user, so there is nothing to answer")
    return messages


def _answered(
    run: Run, tokenizer: Tokenizer, questions: Sequence[list[Message]], asked: Asked
) -> Iterator[list[str]]:
    """The answers to each question. Raises InputError for one that is too long for the run."""
    form, model = format_of(tokenizer), load_model(run)
    prompts = [form.encode(tokenizer, messages) for messages in questions]
    for number, ids in enumerate(prompts, 1):
        if len(ids) >= model.context:
            raise InputError(
                f"question {number}: {len(ids)} tokens; {run.id} sees {model.context} at most"
            )
    ends, each = {*form.ends(tokenizer), tokenizer.eos}, range(asked.answers)
    for start in range(0, len(prompts), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        seeds = [
            _seed(asked.seed, messages) + number for messages in questions[part] for number in each
        ]
        again = [ids for ids in prompts[part] for _ in each]
        choose = sampler(asked.temperature, asked.top_p, seeds)
        texts = [tokenizer.decode(ids) for ids in answers(model, again, asked.most, choose, ends)]
        for first in range(0, len(texts), asked.answers):
            yield texts[first : first + asked.answers]


def _seed(seed: int, messages: list[Message]) -> int:
    """Of one question, wherever it stands among the others."""
    text = json.dumps([seed, messages])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def _mark(score: Score, record: dict[str, Any], text: str, name: str) -> float:
    """Raises InputError where the verifier fails, or gives no number."""
    try:
        value: object = score(record, text)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--score {name}: {type(error).__name__}: {error}") from error
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise InputError(f"--score {name}: it gave {value!r}; expected a number, true or false")
    return float(value)


def _pair(messages: list[Message], marks: dict[str, float], seed: int) -> dict[str, Any] | None:
    """One of the best answers and one of the worst; None where all are alike. An empty answer makes
    no pair, since there would be nothing to learn but to end.
    """
    marks = {text: mark for text, mark in marks.items() if text.strip()}
    if not marks or max(marks.values()) == min(marks.values()):
        return None
    chance = random.Random(seed)
    picked = []
    for mark in (max(marks.values()), min(marks.values())):
        picked.append(chance.choice(sorted(text for text in marks if marks[text] == mark)))
    chosen, rejected = picked
    scores = [marks[chosen], marks[rejected]]
    return {"prompt": messages, "chosen": chosen, "rejected": rejected, "scores": scores}
