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
    "assistant": "assistant",
    "human": "user",
    "gpt": "assistant",
    "developer": "system",
    "prompter": "user",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
}
# Of a tool's turn, as ShareGPT and OpenAI's interface have it.
_TOOLS = ("tool", "function", "function_call", "function_response", "observation")
_SHAPES = "'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'conversations'"


class Fault(Exception):
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
            except Fault as fault:
                yield Malformed(record.where, str(fault))


def messages_of(conversation: str) -> list[Message]:
    """The messages of one item of `conversations`."""
    return json.loads(conversation)


def _messages(record: object) -> list[Message]:
    """The messages of one record. Raises Fault."""
    if not isinstance(record, dict):
        raise Fault(f"expected an object with {_SHAPES}")
    refuse_tools(record)
    if "messages" in record:
        messages = turns(record["messages"], "messages")
    elif "conversations" in record:
        messages = turns(record["conversations"], "conversations")
    elif "prompt" in record and "completion" in record:
        messages = [
            *side(record["prompt"], "prompt", "user"),
            *side(record["completion"], "completion", "assistant"),
        ]
    elif "instruction" in record and "output" in record:
        asked = [text_of(record[key], key) for key in ("instruction", "input") if record.get(key)]
        messages = [
            _message("user", "\n\n".join(asked)),
            _message("assistant", text_of(record["output"], "output")),
        ]
    else:
        raise Fault(f"expected {_SHAPES}")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Fault("no message of the assistant, so nothing to learn")
    # Who learns an empty answer learns to end at once.
    if not all(answer.strip() for answer in answers):
        raise Fault("an answer is empty, so there is nothing to learn but to end")
    in_order(messages)
    return messages


def in_order(messages: Sequence[Message]) -> None:
    """Raises Fault unless the user and the assistant speak by turns, the user first, after at most
    one message of the system.
    """
    said = [message["role"] for message in messages]
    spoken = said[1:] if said[:1] == ["system"] else said
    for number, role in enumerate(spoken):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            place = len(said) - len(spoken) + number + 1
            raise Fault(
                f"turns out of order: message {place} is of role '{role}', expected '{expected}'"
            )


def refuse_tools(record: dict[str, Any]) -> None:
    """Raises Fault where a record describes tools, which no format here can write."""
    if record.get("tools"):
        raise Fault("it offers tools to the assistant ('tools'), which the format here cannot hold")


def turns(given: object, field: str) -> list[Message]:
    """A list of messages, each of `role` and `content`, or of `from` and `value`. Raises Fault."""
    if not isinstance(given, list) or not all(isinstance(turn, dict) for turn in given):
        raise Fault(f"{field!r} is not a list of messages")
    return [_turn(turn) for turn in given]


def _turn(turn: dict[str, Any]) -> Message:
    if turn.get("tool_calls") or turn.get("function_call"):
        raise Fault("a message calls a tool ('tool_calls'), which the format here cannot hold")
    role = turn.get("role", turn.get("from"))
    content = "content" if "content" in turn else "value"
    return _message(_role(role), text_of(turn.get(content), content))


def side(value: object, field: str, role: Role) -> list[Message]:
    """A prompt or a completion, which is a text or a list of messages. Raises Fault."""
    if isinstance(value, list):
        return turns(value, field)
    return [_message(role, text_of(value, field))]


def _message(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def _role(name: Any) -> Role:
    if isinstance(name, str) and name in _TOOLS:
        raise Fault(f"role {name!r}: a tool speaks, which the format here cannot hold")
    if not isinstance(name, str) or name not in _ROLES:
        raise Fault(f"role {name!r}: expected one of {', '.join(_ROLES)}")
    return _ROLES[name]


def text_of(value: object, field: str) -> str:
    """A text, or the parts of one as OpenAI's interface has them, joined. Raises Fault."""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Fault(f"{field!r} holds no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Fault(f"{field!r} holds half of a surrogate pair, which is no character") from None
    return value


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
