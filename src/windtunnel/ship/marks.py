"""The tokens around a text and behind an answer, as tokenizer_config.json and
generation_config.json name them: by these alone an engine knows where a text begins and where an
answer ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Tokens of a model by their meaning, as ids."""

    begin: int | None
    """What begins a text; None where nothing is named."""
    end: int
    """What ends an answer, for an engine that knows but one such token."""
    ends: tuple[int, ...]
    """All that end an answer, `end` among them."""
    pad: int | None
    """What fills up a batch; None where nothing is named."""


def marks_of(
    tokenizer: Tokenizer,
    tokenizer_config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
) -> Marks:
    """What these two files say of a tokenizer; its end of a document where they name no end.
    Raises InputError for an end that is no token of it.
    """

    def token(role: str) -> int | None:
        name = token_name(tokenizer_config, role)
        return tokenizer.find(name) if name else None

    def ids(role: str) -> list[int]:
        listed = _ids_in(generation_config.get(f"{role}_token_id"), tokenizer.vocab)
        named = token(role)
        return listed if named is None or named in listed else [*listed, named]

    end, pad = token("eos"), token("pad")
    if end is None and (name := token_name(tokenizer_config, "eos")):
        raise InputError(f"eos_token {name!r}: the tokenizer has no such token")
    ends = ids("eos") or [tokenizer.eos]
    begins = [*tokenizer.before[:1], *ids("bos")]
    pads = ids("pad")
    return Marks(
        begin=begins[0] if begins else None,
        end=ends[0] if end is None else end,
        ends=tuple(ends),
        pad=pad if pad is not None or not pads else pads[0],
    )


def named_marks(
    marks: Marks, tokenizer: Tokenizer, tokenizer_config: Mapping[str, Any]
) -> dict[str, Any]:
    """tokenizer_config.json with the names of these tokens."""
    settings = dict(tokenizer_config)
    tokens = {"bos": marks.begin, "eos": marks.end, "pad": marks.pad}
    for role, token in tokens.items():
        if token is None:
            settings.pop(f"{role}_token", None)
        else:
            # An object, as old versions wrote it, is no name to the present transformers.
            settings[f"{role}_token"] = tokenizer.name(token)
    return settings


def mark_ids(marks: Marks) -> dict[str, Any]:
    """The fields of config.json and generation_config.json that hold these tokens' ids."""
    return {
        "bos_token_id": marks.begin,
        "eos_token_id": list(marks.ends) if len(marks.ends) > 1 else marks.end,
        "pad_token_id": marks.pad,
    }


def token_name(tokenizer_config: Mapping[str, Any], role: str) -> str | None:
    """The name of a role's token: it is written as a text, or as an object that holds it."""
    token = tokenizer_config.get(f"{role}_token")
    name = token.get("content") if isinstance(token, Mapping) else token
    return name if isinstance(name, str) else None


def _ids_in(value: object, vocab: int) -> list[int]:
    """The ids of tokens, each once, in a field that holds one or a list of them."""
    values = value if isinstance(value, list) else [value]
    found: dict[int, None] = {}
    for one in values:
        # A config that nobody adapted to its tokenizer may name ids that there are not.
        if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < vocab:
            found[one] = None
    return list(found)
