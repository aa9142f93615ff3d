"""A byte-level `tokenizer.json` as GGUF's vocabulary and back. llama.cpp knows the rules by which
a text is split into words by name only, so a tokenizer whose rules have no name there cannot be
written.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of token (gguf.TokenType)

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# llama.cpp's name for a way to split text -> the `pre_tokenizer` of tokenizer.json that does the
# same
_SPLITS: dict[str, dict[str, Any]] = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES],
    },
    "gpt-2": _BYTES,
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": _LLAMA_3},
                "behavior": "Isolated",
                "invert": False,
            },
            _BYTES | {"use_regex": False},
        ],
    },
}
_SAME = {"default": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}
_WHOLE_WORDS = ("llama-bpe",)  # a word that is a token is taken whole, whatever the merges say


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF holds of a tokenizer. `merges` are two tokens with a space between."""

    split: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    end: int


def from_tokenizer(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary with the model's number of tokens. Raises InputError for what llama.cpp
    cannot do as we do.
    """
    definition = json.loads(tokenizer.definition)
    model = definition["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise InputError(
            f"gguf: a tokenizer of kind {model.get('type')}; expected a byte-level BPE"
        )
    if definition.get("normalizer"):
        raise InputError(
            f"gguf: the tokenizer normalises text ({definition['normalizer']['type']}); llama.cpp would not"
        )
    tokens: list[str | None] = [None] * max(size, tokenizer.vocab)
    types = [NORMAL] * len(tokens)
    for token, index in model["vocab"].items():
        tokens[index] = token
    for added in definition["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    named = [
        token if token is not None else f"[unused {index}]" for index, token in enumerate(tokens)
    ]
    types = [
        kind if token is not None else UNUSED for kind, token in zip(types, tokens, strict=True)
    ]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return Vocabulary(_name_of(definition["pre_tokenizer"]), named, types, merges, tokenizer.eos)


def to_tokenizer(vocabulary: Vocabulary) -> bytes:
    """A `tokenizer.json`. Raises InputError for rules that have no equal in it."""
    split = _SAME.get(vocabulary.split, vocabulary.split)
    if split not in _SPLITS:
        raise InputError(
            f"a tokenizer that splits text as '{split}'; expected one of {', '.join(_SPLITS)}"
        )
    numbered = list(enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)))
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for i, (token, kind) in numbered
        if kind != NORMAL
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": split in _WHOLE_WORDS,
        "vocab": {token: i for i, (token, kind) in numbered if kind in (NORMAL, CONTROL)},
        "merges": [merge.split(" ") for merge in vocabulary.merges],
    }
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _SPLITS[split],
        "post_processor": None,
        "decoder": _BYTES,
        "model": model,
    }
    return json.dumps(definition, indent=1, ensure_ascii=False).encode()


def write(vocabulary: Vocabulary, writer: Any) -> None:
    """Into a gguf.GGUFWriter. No token is put before or behind a text: ours never does."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    # llama.cpp has ids of its own for a vocabulary that names none
    writer.add_bos_token_id(vocabulary.end)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def read(field: Callable[[str], Any]) -> Vocabulary:
    """`field` gives the content of a metadata key. Raises InputError for another kind of
    tokenizer.
    """
    if (kind := field("tokenizer.ggml.model")) != "gpt2":
        raise InputError(f"a tokenizer of kind '{kind}'; expected 'gpt2', a byte-level BPE")
    named = ("pre", "tokens", "token_type", "merges", "eos_token_id")
    return Vocabulary(*(field(f"tokenizer.ggml.{name}") for name in named))


class Kind(Enum):
    """What a token's text is: whole characters of UTF-8, bytes of one, or none."""

    WHOLE = auto()
    PART = auto()
    SPECIAL = auto()


def kinds(vocabulary: Vocabulary) -> list[Kind]:
    """Of each token of a byte-level vocabulary."""
    numbered = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return [
        Kind.SPECIAL if kind != NORMAL else Kind.WHOLE if _is_text(token) else Kind.PART
        for token, kind in numbered
    ]


def _name_of(pre_tokenizer: Any) -> str:
    for name, known in _SPLITS.items():
        if _core(pre_tokenizer) == _core(known):
            return name
    raise InputError(
        f"gguf: llama.cpp has no name for how this tokenizer splits text; known: {', '.join(_SPLITS)}"
    )


def _core(node: Any) -> Any:
    """Without what changes no id: where a token's text begins and ends, and sequences of one."""
    if isinstance(node, dict):
        if node.get("type") == "Sequence" and len(node["pretokenizers"]) == 1:
            return _core(node["pretokenizers"][0])
        return {key: _core(value) for key, value in node.items() if key != "trim_offsets"}
    return [_core(part) for part in node] if isinstance(node, list) else node


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable characters of Latin-1 stand for themselves, the others for what
    comes after 255.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(rest)
    }


_BYTE_OF = _byte_of_character()


def _is_text(token: str) -> bool:
    try:
        return bytes(_BYTE_OF[character] for character in token).decode() is not None
    except (KeyError, UnicodeDecodeError):
        return False
