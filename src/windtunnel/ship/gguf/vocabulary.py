"""A byte-level `tokenizer.json` as GGUF's vocabulary, and back.

llama.cpp knows the rules by which a text is split into words only by name, so a tokenizer whose
rules have no name there cannot be written.
"""

import json
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.ship.gguf.splits import BYTES, split_name, split_named

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of token (gguf.TokenType)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True))
class Vocabulary:
    """What GGUF holds of a tokenizer. Raises pydantic.ValidationError for what is of another
    type.
    """

    split: str
    """llama.cpp's name for how text is split into words."""
    tokens: Sequence[str]
    types: Sequence[int]
    """The kind of each token: NORMAL, CONTROL, ..."""
    merges: Sequence[str]
    """Two tokens each, with a space between."""


def from_tokenizer(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary, filled up to the `size` tokens of the model. Raises InputError for a
    tokenizer that llama.cpp cannot follow.
    """
    definition = json.loads(tokenizer.definition)
    model = definition["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise InputError(
            f"gguf: a tokenizer of kind {model.get('type')}; expected a byte-level BPE"
        )
    if normalizer := definition.get("normalizer"):
        raise InputError(
            f"gguf: the tokenizer normalises text ({normalizer['type']}); llama.cpp would not"
        )
    split = split_name(definition["pre_tokenizer"], bool(model.get("ignore_merges")))
    if not model["merges"]:
        raise InputError(
            "gguf: the tokenizer has no merges, and llama.cpp loads none without; build the corpus "
            "with a larger --vocab"
        )
    # A model often has more rows than its tokenizer has tokens; llama.cpp wants a name for each.
    tokens = [f"[unused {index}]" for index in range(max(size, tokenizer.vocab))]
    types = [UNUSED] * len(tokens)
    for token, index in model["vocab"].items():
        tokens[index] = token
        types[index] = NORMAL
    for added in definition["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    # tokenizer.json has merges as "a b" in old files, and as ["a", "b"] in new ones
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return Vocabulary(split=split, tokens=tokens, types=types, merges=merges)


def to_tokenizer(
    vocabulary: Vocabulary, before: int | None = None, behind: int | None = None
) -> bytes:
    """A `tokenizer.json`, which puts the tokens `before` and `behind` around every text. Raises
    InputError for a way to split text that has no equal there.
    """
    split = split_named(vocabulary.split)
    tokens: dict[str, int] = {}
    added: list[dict[str, Any]] = []
    numbered = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    for index, (token, kind) in numbered:
        # Special tokens are in the vocabulary and among the added ones, as when they are trained.
        if kind in (NORMAL, CONTROL):
            tokens[token] = index
        if kind != NORMAL:
            added.append(_added_token(index, token, special=kind != USER_DEFINED))
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": split.whole_words,
        "vocab": tokens,
        "merges": [merge.split(" ") for merge in vocabulary.merges],
    }
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split.pre_tokenizer,
        "post_processor": _post_processor(vocabulary, before, behind),
        "decoder": BYTES,
        "model": model,
    }
    return json.dumps(definition, indent=1, ensure_ascii=False).encode()


def write(vocabulary: Vocabulary, writer: Any) -> None:
    """Write it with a gguf.GGUFWriter."""
    settings = {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": vocabulary.split,
        "token_list": list(vocabulary.tokens),
        "token_types": list(vocabulary.types),
        "token_merges": list(vocabulary.merges),
        "add_space_prefix": False,
    }
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)


def read(field: Callable[[str], Any]) -> Vocabulary:
    """The vocabulary of a file; `field` gives the content of a metadata key. Raises InputError for
    another kind of tokenizer, and for one that contradicts itself.
    """
    if (kind := field("tokenizer.ggml.model")) != "gpt2":
        raise InputError(f"a tokenizer of kind '{kind}'; expected 'gpt2', a byte-level BPE")
    try:
        found = Vocabulary(
            split=field("tokenizer.ggml.pre"),
            tokens=field("tokenizer.ggml.tokens"),
            types=field("tokenizer.ggml.token_type"),
            merges=field("tokenizer.ggml.merges"),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(f"tokenizer.ggml: {where}: {fault['msg']}") from None
    _check(found)
    return found


def _check(vocabulary: Vocabulary) -> None:
    """Raises InputError for what no tokenizer can be."""
    tokens = vocabulary.tokens
    if len(vocabulary.types) != len(tokens):
        raise InputError(
            f"tokenizer.ggml.token_type has {len(vocabulary.types)} kinds for {len(tokens)} tokens"
        )
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token:
            raise InputError(f"tokenizer.ggml.tokens: token {index} is empty")
        if (first := seen.setdefault(token, index)) != index:
            raise InputError(f"tokenizer.ggml.tokens: {token!r} is token {first} and token {index}")


class Kind(Enum):
    """What a token's text is: whole characters of UTF-8, bytes of one, or no text."""

    WHOLE = auto()
    PART = auto()
    SPECIAL = auto()


def kinds(vocabulary: Vocabulary) -> list[Kind]:
    """The kind of each token of a byte-level vocabulary."""
    found = []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind != NORMAL:
            found.append(Kind.SPECIAL)
        else:
            found.append(Kind.WHOLE if _is_text(token) else Kind.PART)
    return found


def _added_token(index: int, token: str, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _post_processor(
    vocabulary: Vocabulary, before: int | None, behind: int | None
) -> dict[str, Any] | None:
    """What puts these tokens around every text, and around each of two."""
    if before is None and behind is None:
        return None

    def around(text: str, kind: int) -> list[dict[str, Any]]:
        parts = [_special_token(vocabulary.tokens[before], kind)] if before is not None else []
        parts.append({"Sequence": {"id": text, "type_id": kind}})
        if behind is not None:
            parts.append(_special_token(vocabulary.tokens[behind], kind))
        return parts

    tokens = {
        vocabulary.tokens[token]: {
            "id": vocabulary.tokens[token],
            "ids": [token],
            "tokens": [vocabulary.tokens[token]],
        }
        for token in (before, behind)
        if token is not None
    }
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": tokens,
    }


def _special_token(name: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": kind}}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable characters of Latin-1 stand for themselves, and the characters from
    256 on for the other bytes, in their order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(256) if byte not in printable)
    return table | {chr(256 + index): byte for index, byte in enumerate(rest)}


_BYTE_OF = _byte_of_character()


def _is_text(token: str) -> bool:
    try:
        return bytes(_BYTE_OF[character] for character in token).decode() is not None
    except (KeyError, UnicodeDecodeError):
        return False
