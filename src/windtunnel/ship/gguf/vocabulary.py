"""A `tokenizer.json` as GGUF's vocabulary, and back."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.ship.gguf.byte_level import ByteLevel
from windtunnel.ship.gguf.sentencepiece import BYTE_NAMES, SentencePiece, is_sentencepiece
from windtunnel.ship.gguf.tokens import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
)

_KINDS: dict[str, type[ByteLevel] | type[SentencePiece]] = {
    kind.model: kind for kind in (ByteLevel, SentencePiece)
}


def from_tokenizer(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary, filled up to the `size` tokens of the model. Raises InputError for a
    tokenizer that llama.cpp cannot follow.
    """
    definition = json.loads(tokenizer.definition)
    model = definition["model"]
    if (kind := model.get("type", "BPE")) != "BPE":
        raise InputError(f"gguf: a tokenizer of kind {kind}; expected a BPE")
    with_bytes = is_sentencepiece(definition)
    # A model often has more rows than its tokenizer has tokens; llama.cpp wants a name for each.
    tokens = [f"[unused {index}]" for index in range(max(size, tokenizer.vocab))]
    types = [UNUSED] * len(tokens)
    for token, index in model["vocab"].items():
        tokens[index] = token
        types[index] = BYTE if with_bytes and token in BYTE_NAMES else NORMAL
    for added in definition["added_tokens"]:
        index = tokenizer.id(added["content"])  # the file may say another, which is not used
        tokens[index] = added["content"]
        types[index] = CONTROL if added["special"] else USER_DEFINED
        if with_bytes and added["content"] == model.get("unk_token"):
            types[index] = UNKNOWN
    return (SentencePiece if with_bytes else ByteLevel).of(definition, tokens, types)


def to_tokenizer(
    vocabulary: Vocabulary, before: int | None = None, behind: int | None = None
) -> bytes:
    """A `tokenizer.json`, which puts the tokens `before` and `behind` around every text. Raises
    InputError where it has no equal there.
    """
    usual = {
        "type": "BPE",
        "dropout": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
    }
    steps = vocabulary.steps()
    # A spare row of the model is no token: llama.cpp makes it of no text.
    added = [
        _added_token(index, token, special=kind != USER_DEFINED)
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": _post_processor(vocabulary, before, behind),
        **steps,
        "model": usual | steps["model"],
    }
    return json.dumps(definition, indent=1, ensure_ascii=False).encode()


def write(vocabulary: Vocabulary, writer: Any) -> None:
    """Write it with a gguf.GGUFWriter."""
    settings = {
        "tokenizer_model": vocabulary.model,
        "token_list": list(vocabulary.tokens),
        "token_types": list(vocabulary.types),
    }
    for name, value in (settings | vocabulary.settings()).items():
        getattr(writer, f"add_{name}")(value)


def read(field: Callable[[str], Any]) -> Vocabulary:
    """The vocabulary of a file; `field` gives the content of a metadata key. Raises InputError for
    another kind of tokenizer, and for one that contradicts itself.
    """
    kind = field("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(
            f"a tokenizer of kind '{kind}'; expected 'gpt2', a byte-level BPE, or 'llama', a BPE "
            "of SentencePiece"
        )
    try:
        found = _KINDS[kind].read(field)
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
