"""Preferences that tests share: of a user's two words, the assistant shall say the first twice."""

import json
from pathlib import Path
from typing import Any

from conftest import WORDS


def some_pairs(count: int = 400) -> list[dict[str, Any]]:
    """All different, of 6 to about 20 tokens an answer; every fifth has an earlier turn."""
    pairs = []
    for index, (first, second) in enumerate((a, b) for a in WORDS for b in WORDS[:12] if a != b):
        prompt: Any = f"{first} {second}?"
        if index % 5 == 0:
            prompt = [
                {"role": "user", "content": second},
                {"role": "assistant", "content": f"{second} {second}"},
                {"role": "user", "content": prompt},
            ]
        rejected = f"{second} {first} {second}" if index % 3 == 0 else f"{second} {second}"
        pairs.append({"prompt": prompt, "chosen": f"{first} {first}", "rejected": rejected})
    return pairs[:count]


def some_judged(count: int = 400) -> list[dict[str, Any]]:
    """The answers of these pairs one by one, each with its label."""
    judged = []
    for pair in some_pairs(count):
        for key in ("chosen", "rejected"):
            judged.append(
                {"prompt": pair["prompt"], "completion": pair[key], "label": key == "chosen"}
            )
    return judged


def write_lines(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file
