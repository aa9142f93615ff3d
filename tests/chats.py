"""Conversations that tests share: the assistant says a user's word twice."""

import json
from pathlib import Path

from conftest import WORDS

Chat = dict[str, list[dict[str, str]]]


def chat(*turns: str) -> Chat:
    """Turns of the user and the assistant by turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def some_chats() -> list[Chat]:
    """720 of them, all different, of 6 to about 20 tokens; every fifth has two turns."""
    chats = []
    for index, (first, second) in enumerate((a, b) for a in WORDS for b in WORDS[:12]):
        turns = [f"{first} {second}?", f"{first} {first}"]
        chats.append(chat(*turns, *([second, f"{second} {second}"] if index % 5 == 0 else [])))
    return chats


def write_chats(file: Path, chats: list[Chat] | None = None) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in chats or some_chats()))
    return file
