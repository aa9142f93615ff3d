"""Conversations out of JSON lines, JSON or parquet, in the shapes that people keep them in:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}                        each a text, or a list of messages
    {"instruction": "...", "input": "...", "output": "..."}       without `input`, too
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}

Other keys are ignored.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from windtunnel.data.chat_format import Message, Role
from windtunnel.data.formats import FORMATS, Malformed
from windtunnel.data.readers import Found, Taken, files, records
from windtunnel.errors import InputError
from windtunnel.files import named, sha256_of

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_SHAPES = "'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'conversations'"


class _Fault(Exception):
    """Why a value holds no conversation."""


def conversation_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that these files, folders and globs stand for; of a folder, those whose names say
    that they may hold conversations. Raises InputError for what does not exist.
    """
    kinds = [one for one in FORMATS.values() if one.records]
    found = []
    for path in paths:
        there = files(path)
        if Path(path).is_dir():
            there = [file for file in there if any(kind.is_named(file.name) for kind in kinds)]
        if not there:
            endings = ", ".join(", ".join(kind.endings) for kind in kinds)
            raise InputError(
                f"{named(path)}: expected conversations, in files that end in {endings}"
            )
        found += there
    return found


def content_digest(found: Sequence[Path]) -> str:
    """A hash of what these files hold, in this order. Raises InputError for one that cannot be
    read.
    """
    content = hashlib.sha256()
    for file in found:
        try:
            content.update(bytes.fromhex(sha256_of(file)))
        except OSError as error:
            raise InputError(f"{named(file)}: cannot be read ({error.strerror})") from None
    return content.hexdigest()


def conversations(found: Sequence[Path], format: str | None = None) -> Iterator[Found]:
    """Every conversation, as the JSON of its messages, which `messages_of` reads; `format`: of the
    files, where it is not to be seen from what they hold.
    """
    for file in found:
        for record in records(file, format):
            if isinstance(record, Malformed | Taken):
                yield record
                continue
            try:
                yield json.dumps(_messages(record.value), ensure_ascii=False)
            except _Fault as fault:
                yield Malformed(record.where, str(fault))


def messages_of(conversation: str) -> list[Message]:
    """The messages of one item of `conversations`."""
    return json.loads(conversation)


def _messages(record: object) -> list[Message]:
    """The messages of one record. Raises _Fault."""
    if not isinstance(record, dict):
        raise _Fault(f"expected an object with {_SHAPES}")
    if "messages" in record:
        messages = _turns(record["messages"], "messages", "role", "content")
    elif "conversations" in record:
        messages = _turns(record["conversations"], "conversations", "from", "value")
    elif "prompt" in record and "completion" in record:
        messages = [
            *_side(record["prompt"], "prompt", "user"),
            *_side(record["completion"], "completion", "assistant"),
        ]
    elif "instruction" in record and "output" in record:
        asked = [_text(record[key], key) for key in ("instruction", "input") if record.get(key)]
        messages = [
            _message("user", "\n\n".join(asked)),
            _message("assistant", _text(record["output"], "output")),
        ]
    else:
        raise _Fault(f"expected {_SHAPES}")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise _Fault("no message of the assistant, so nothing to learn")
    # Who learns an empty answer learns to end at once.
    if not all(answer.strip() for answer in answers):
        raise _Fault("an answer is empty, so there is nothing to learn but to end")
    return messages


def _turns(turns: object, field: str, role: str, content: str) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _Fault(f"{field!r} is not a list of messages")
    return [_message(_role(turn.get(role)), _text(turn.get(content), content)) for turn in turns]


def _side(value: object, field: str, role: Role) -> list[Message]:
    """A prompt or a completion, which is a text or a list of messages."""
    if isinstance(value, list):
        return _turns(value, field, "role", "content")
    return [_message(role, _text(value, field))]


def _message(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def _role(name: Any) -> Role:
    if not isinstance(name, str) or name not in _ROLES:
        raise _Fault(f"role {name!r}: expected one of {', '.join(_ROLES)}")
    return _ROLES[name]


def _text(value: object, field: str) -> str:
    """A text, or the parts of one as OpenAI's interface has them, joined."""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise _Fault(f"{field!r} holds no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault(f"{field!r} holds half of a surrogate pair, which is no character") from None
    return value


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
