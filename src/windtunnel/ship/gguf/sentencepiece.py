"""A BPE of SentencePiece with byte fallback, which GGUF calls `llama`: the tokenizer of Llama 2, of
Mistral and of MiniCPM 1B and 2B.

A space is `▁`, and one is put before a text. No words are cut: pairs are merged wherever they
stand, and a character that is no token becomes the tokens of its bytes, `<0xE2>` and so on. GGUF
has no list of merges. llama.cpp merges any two neighbours that make a token, that of the highest
score first; tokenizer.json lists the pairs in their order. The two are the same where every pair
that makes a token is listed, and all pairs that make one token stand together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.ship.gguf.tokens import BYTE, NORMAL, UNKNOWN, Kind, Vocabulary

_SPACE = "▁"
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PUT_BEFORE = {"type": "Prepend", "prepend": _SPACE}
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class SentencePiece(Vocabulary):
    """Tokens of characters, and one for each byte."""

    model: ClassVar[str] = "llama"
    scores: Sequence[float]
    """Of each token: that of the highest score is made first."""
    space_before: bool
    """Whether a text begins with a space of the tokenizer's own."""

    @classmethod
    def of(
        cls, definition: dict[str, Any], tokens: Sequence[str], types: Sequence[int]
    ) -> "SentencePiece":
        """That of a tokenizer.json. Raises InputError where llama.cpp would make other ids."""
        model = definition["model"]
        if model.get("ignore_merges") or definition.get("pre_tokenizer") != _cut(definition):
            raise InputError(
                "gguf: a tokenizer with byte fallback that cuts text into words; llama.cpp has "
                "none such"
            )
        for added in definition["added_tokens"]:
            if not added["special"] and added["normalized"]:
                raise InputError(
                    f"gguf: the added token {added['content']!r} is looked for after spaces have "
                    "been replaced (normalized); llama.cpp looks for it before"
                )
        pairs: list[Pair] = []
        for merge in model["merges"]:
            # tokenizer.json has merges as "a b" in old files, and as ["a", "b"] in new ones
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pairs.append((left, right))
        _check_pairs(tokens, types, pairs)
        rank: dict[str, int] = {}
        for index, (left, right) in enumerate(pairs):
            rank.setdefault(left + right, index)
        # What no merge makes comes last, though nothing asks for its score.
        scores = [-float(rank.get(token, len(pairs))) for token in tokens]
        before = _puts_space_before(definition)
        return cls(tokens=tokens, types=types, scores=scores, space_before=before)

    @classmethod
    def read(cls, field: Callable[[str], Any]) -> "SentencePiece":
        """That of a file; `field` gives the content of a metadata key."""
        try:
            before = field("tokenizer.ggml.add_space_prefix")
        except KeyError:
            before = True  # as llama.cpp takes it
        return cls(
            tokens=field("tokenizer.ggml.tokens"),
            types=field("tokenizer.ggml.token_type"),
            scores=field("tokenizer.ggml.scores"),
            space_before=before,
        )

    def settings(self) -> dict[str, Any]:
        found = {
            "tokenizer_pre": "default",
            "token_scores": list(self.scores),
            "add_space_prefix": self.space_before,
        }
        if UNKNOWN in self.types:
            found["unk_token_id"] = self.types.index(UNKNOWN)
        return found

    def steps(self) -> dict[str, Any]:
        if len(self.scores) != len(self.tokens):
            raise InputError(
                f"tokenizer.ggml.scores: {len(self.scores)} for {len(self.tokens)} tokens"
            )
        _check_bytes(self.tokens, self.types)
        before = [_PUT_BEFORE] if self.space_before else []
        after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * len(before)
        spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
        unknown = self.tokens[self.types.index(UNKNOWN)] if UNKNOWN in self.types else None
        model = {
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": self.in_text,
            "merges": [list(pair) for pair in self._pairs()],
        }
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*before, _REPLACED]},
            "pre_tokenizer": None,
            "decoder": {
                "type": "Sequence",
                "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *after],
            },
            "model": model,
        }

    def kinds(self) -> list[Kind]:
        known = {NORMAL: Kind.WHOLE, BYTE: Kind.PART}
        return [known.get(kind, Kind.SPECIAL) for kind in self.types]

    def _pairs(self) -> list[Pair]:
        """All pairs that make a token, in the order of its score. Raises InputError where two
        tokens have one score: which is made first would depend on where they stand.
        """
        numbers = _of_text(self.tokens, self.types)
        made = {token: list(_pairs_of(token, numbers)) for token in numbers}
        ordered = sorted((token for token in made if made[token]), key=self._score_of(numbers))
        for first, second in pairwise(ordered):
            if self.scores[numbers[first]] == self.scores[numbers[second]]:
                raise InputError(
                    f"tokenizer.ggml.scores: {first!r} and {second!r} have one score, and a "
                    "tokenizer.json has no such order"
                )
        return [pair for token in ordered for pair in made[token]]

    def _score_of(self, numbers: Mapping[str, int]) -> Callable[[str], float]:
        return lambda token: -self.scores[numbers[token]]


def is_sentencepiece(definition: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is of this kind."""
    model = definition["model"]
    return model.get("type", "BPE") == "BPE" and bool(model.get("byte_fallback"))


def _cut(definition: dict[str, Any]) -> Any:
    """The `pre_tokenizer` that does not cut: none, or one that replaces spaces and no more."""
    pre_tokenizer = definition.get("pre_tokenizer")
    if isinstance(pre_tokenizer, dict) and definition.get("normalizer") is None:
        never = {"replacement": _SPACE, "prepend_scheme": "never", "split": False}
        return {"type": "Metaspace"} | never
    return None


def _puts_space_before(definition: dict[str, Any]) -> bool:
    """Whether a space is put before every text. Raises InputError where the text is changed in
    another way than llama.cpp changes it.
    """
    normalizer = definition.get("normalizer")
    if normalizer is None and definition.get("pre_tokenizer"):
        return False
    steps = [normalizer]
    if isinstance(normalizer, dict) and normalizer["type"] == "Sequence":
        steps = normalizer["normalizers"]
    if steps == [_REPLACED]:
        return False
    if steps == [_PUT_BEFORE, _REPLACED]:
        return True
    names = ", ".join(step["type"] if step else "nothing" for step in steps)
    raise InputError(
        f"gguf: the tokenizer normalises text by {names}; llama.cpp puts a space before it "
        f"(Prepend) and replaces spaces by {_SPACE} (Replace)"
    )


def _check_bytes(tokens: Sequence[str], types: Sequence[int]) -> None:
    """Raises InputError unless every byte is a token."""
    there = {token for token, kind in zip(tokens, types, strict=True) if kind == BYTE}
    for name in BYTE_NAMES:
        if name not in there:
            raise InputError(f"a tokenizer with byte fallback has no token {name}")


def _check_pairs(tokens: Sequence[str], types: Sequence[int], pairs: Sequence[Pair]) -> None:
    """Raises InputError where llama.cpp would merge other pairs, or in another order."""
    _check_bytes(tokens, types)
    numbers = _of_text(tokens, types)
    listed = set(pairs)
    for left, right in pairs:
        if left not in numbers or right not in numbers or left + right not in numbers:
            raise InputError(
                f"gguf: the tokenizer merges {left!r} and {right!r}, which are no tokens of text"
            )
    for token in tokens:
        for pair in _pairs_of(token, numbers, any_character=True):
            if pair not in listed:
                raise InputError(
                    f"gguf: llama.cpp would merge {pair[0]!r} and {pair[1]!r} into {token!r}, "
                    "which this tokenizer does not"
                )
    seen: set[str] = set()
    made = [left + right for left, right in pairs]
    for last, token in pairwise(["", *made]):
        if token in seen and token != last:
            raise InputError(
                f"gguf: the tokenizer merges into {token!r} early and late, and llama.cpp has one "
                "place for it"
            )
        seen.add(token)


def _of_text(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """The tokens that are characters of text, and their ids."""
    numbered = enumerate(zip(tokens, types, strict=True))
    return {token: index for index, (token, kind) in numbered if kind == NORMAL}


def _pairs_of(
    token: str, numbers: Mapping[str, int], any_character: bool = False
) -> Iterator[Pair]:
    """The pairs of tokens that make one, the earliest first half first. `any_character`: also those
    with a character that is no token, which llama.cpp merges as well.
    """

    def stands(part: str) -> bool:
        return part in numbers or (any_character and len(part) == 1)

    halves = [(token[:at], token[at:]) for at in range(1, len(token))]
    usual = [pair for pair in halves if stands(pair[0]) and stands(pair[1])]
    yield from sorted(usual, key=lambda pair: [numbers.get(part, -1) for part in pair])
