"""Conversations out of JSON lines, in the shapes that people keep them in:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}                        each a text, or a list of messages
    {"instruction": "...", "input": "...", "output": "..."}       without `input`, too
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}

Other keys of a line are ignored.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from windtunnel.data.chat_format import Message, Role
from windtunnel.data.readers import Malformed, files, json_records
from windtunnel.errors import InputError

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_SHAPES = "'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'conversations'"


class _Fault(Exception):
    """Why a line holds no conversation."""


def conversation_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that these files, folders and globs stand for. Raises InputError for one that
    does not exist or is not of JSON lines.
    """
    found = []
    for path in paths:
        of_lines = [file for file in files(path) if file.name.lower().endswith(ENDINGS)]
        if not of_lines:
            endings = ", ".join(ENDINGS)
            raise InputError(
                f"{path}: expected conversations in JSON lines, in a file that ends in {endings}"
            )
        found += of_lines
    return found


def content_digest(found: Sequence[Path]) -> str:
    """A hash of what these files hold, in this order. Raises InputError for one that cannot be
    read.
    """
    content = hashlib.sha256()
    for file in found:
        try:
            with file.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    return content.hexdigest()


def conversations(found: Sequence[Path]) -> Iterator[str | Malformed]:
    """Every conversation, as the JSON of its messages, which `messages_of` reads."""
    for file in found:
        for line in json_records(file):
            if isinstance(line, Malformed):
                yield line
                continue
            try:
                yield json.dumps(_messages(line.value), ensure_ascii=False)
            except _Fault as fault:
                yield Malformed(line.where, str(fault))


def messages_of(conversation: str) -> list[Message]:
    """The messages of one item of `conversations`."""
    return json.loads(conversation)


def _messages(record: object) -> list[Message]:
    """The messages of one line. Raises _Fault."""
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
    if not any(message["role"] == "assistant" for message in messages):
        raise _Fault("no message of the assistant, so nothing to learn")
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
    if not isinstance(value, str):
        raise _Fault(f"{field!r} holds no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault(f"{field!r} holds half of a surrogate pair, which is no character") from None
    return value
