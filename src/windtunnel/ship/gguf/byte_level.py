"""A byte-level BPE, which GGUF calls `gpt2`: a text is split into words, whose bytes are merged.

llama.cpp knows the rules by which a text is split only by name, so a tokenizer whose rules have no
name there cannot be written.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.ship.gguf.splits import BYTES, split_name, split_named
from windtunnel.ship.gguf.tokens import NORMAL, Kind, Vocabulary


@dataclass(frozen=True, kw_only=True)
class ByteLevel(Vocabulary):
    """Characters of a token stand for bytes."""

    model: ClassVar[str] = "gpt2"
    split: str
    """llama.cpp's name for how text is split into words."""
    merges: Sequence[str]
    """Two tokens each, with a space between."""

    @classmethod
    def of(
        cls, definition: dict[str, Any], tokens: Sequence[str], types: Sequence[int]
    ) -> "ByteLevel":
        """That of a tokenizer.json. Raises InputError where llama.cpp cannot follow it."""
        model = definition["model"]
        if normalizer := definition.get("normalizer"):
            raise InputError(
                f"gguf: the tokenizer normalises text ({normalizer['type']}); llama.cpp would not"
            )
        split = split_name(definition.get("pre_tokenizer"), bool(model.get("ignore_merges")))
        if not model["merges"]:
            raise InputError(
                "gguf: the tokenizer has no merges, and llama.cpp loads none without; build the "
                "corpus with a larger --vocab"
            )
        # tokenizer.json has merges as "a b" in old files, and as ["a", "b"] in new ones
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        return cls(tokens=tokens, types=types, split=split, merges=merges)

    @classmethod
    def read(cls, field: Callable[[str], Any]) -> "ByteLevel":
        """That of a file; `field` gives the content of a metadata key."""
        return cls(
            tokens=field("tokenizer.ggml.tokens"),
            types=field("tokenizer.ggml.token_type"),
            split=field("tokenizer.ggml.pre"),
            merges=field("tokenizer.ggml.merges"),
        )

    def settings(self) -> dict[str, Any]:
        return {
            "tokenizer_pre": self.split,
            "token_merges": list(self.merges),
            "add_space_prefix": False,
        }

    def steps(self) -> dict[str, Any]:
        split = split_named(self.split)
        model = {
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.whole_words,
            "vocab": self.in_text,
            "merges": [merge.split(" ") for merge in self.merges],
        }
        return {
            "normalizer": None,
            "pre_tokenizer": split.pre_tokenizer,
            "decoder": BYTES,
            "model": model,
        }

    def kinds(self) -> list[Kind]:
        found = []
        for token, kind in zip(self.tokens, self.types, strict=True):
            if kind != NORMAL:
                found.append(Kind.SPECIAL)
            else:
                found.append(Kind.WHOLE if _is_text(token) else Kind.PART)
        return found


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
