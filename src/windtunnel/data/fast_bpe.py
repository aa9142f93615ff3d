"""A byte-level BPE of Hugging Face's tokenizers run by tiktoken, which applies the same merges
several times faster.

What can be translated: the splits of GPT-2, of GPT-2 with every digit by itself (what this
project trains), and one regular expression (as Llama 3 has). What cannot raises `Untranslatable`
with the reason. Whether the ids are the same is for `encoding.py` to prove; here, a document with
a character that the two do not class alike (their Unicode tables may be of different years) goes
to tokenizers.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import tiktoken
import tokenizers
from tokenizers import models

from windtunnel.data.tokenizer import Tokenizer, chunks

# GPT-2's expression, and the same where digits were cut out before. All that needs no look-ahead
# is in one group, which tiktoken's engine then runs as one automaton: 1.4 times as fast as the
# expression in its usual order.
GPT2 = r"(?: ?\p{L}+| ?\p{N}+|'(?:[sdmt]|ll|ve|re)| ?[^\s\p{L}\p{N}]+)|\s+(?!\S)|\s"
DIGITS = r"(?: ?\p{L}+|\p{N}|'(?:[sdmt]|ll|ve|re)| ?[^\s\p{L}\p{N}]+)|\s+(?![^\s\p{N}])|\s"
END = "\0<|end|>"  # behind each document; one that holds the character 0 is encoded by tokenizers
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


class Untranslatable(ValueError):
    """Why tiktoken cannot stand in for a tokenizer."""


class FastBpe:
    """A tokenizer's encoding by tiktoken. Raises Untranslatable where that can't stand in."""

    def __init__(self, tokenizer: Tokenizer):
        definition = json.loads(tokenizer.definition)
        pattern = _pattern(definition)
        ranks = _ranks(definition)
        # The end token parts the documents of a batch, and must come from nothing else.
        if tokenizer.eos in ranks.values():
            raise Untranslatable("its end token may come from text")
        self._tokenizer = tokenizer
        self._fast = _encoding(pattern, ranks, {END: tokenizer.eos})
        self._characters = _Characters(definition["pre_tokenizer"], pattern)
        self.tokens = list(ranks)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens, each text with the end token behind it, and how many tokens each text has
        with it.
        """
        refused = {"\0"} | self._characters.disputed(texts)
        if all(refused.isdisjoint(text) for text in texts):
            return self._encode_together(texts)
        alone = [
            self._encode_together([text])[0][:-1]
            if refused.isdisjoint(text)
            else self._tokenizer.encode(text)
            for text in texts
        ]
        return with_ends(self._tokenizer, alone)

    def _encode_together(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """One call for all: with a call for each document of half a kilobyte it was up to a fifth
        slower.
        """
        flat: list[str] = []
        last = np.empty(len(texts), np.int64)  # the chunk that each text ends with
        for index, text in enumerate(texts):
            flat += chunks(text)
            last[index] = len(flat) - 1
        # One string, each chunk with an end token that only its own special name can make.
        joined = "".join(chunk + END for chunk in flat)
        found = self._fast.encode_to_numpy(joined, allowed_special={END}, disallowed_special=())
        ids = found.astype(self._tokenizer.dtype)
        ends = np.flatnonzero(ids == self._tokenizer.eos)
        if len(flat) > len(texts):  # the end tokens between the chunks of a text go
            ids = np.delete(ids, np.delete(ends, last))
        ends = ends[last] - (last - np.arange(len(texts)))
        return ids, np.diff(ends, prepend=-1)


def with_ends(
    tokenizer: Tokenizer, documents: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The documents' tokens in one piece, each with the end token behind it, and their lengths
    with it.
    """
    end = np.array([tokenizer.eos], tokenizer.dtype)
    parts: list[np.ndarray] = []
    for document in documents:
        parts += (document, end)
    return np.concatenate(parts), np.array([len(document) + 1 for document in documents], np.int64)


def _pattern(definition: dict) -> str:
    """The expression whose matches are the words that a pre-tokenizer of Hugging Face makes."""
    if definition.get("normalizer"):
        raise Untranslatable("it changes the text first (a normalizer)")
    if any(not added["special"] for added in definition.get("added_tokens", [])):
        raise Untranslatable("it has added tokens that are made from text")
    whole = definition.get("pre_tokenizer") or {}
    steps = whole.get("pretokenizers", [whole])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or len(steps) > 2:
        raise Untranslatable("its pre-tokenizer is none of those that can be translated")
    words = last.get("use_regex", True)
    first = steps[0] if len(steps) == 2 else {}
    match (first.get("type"), words):
        case (None, True):
            return GPT2
        case ("Digits", True) if first["individual_digits"]:
            return DIGITS
        case ("Split", False) if first["behavior"] == "Isolated" and not first["invert"]:
            if expression := first["pattern"].get("Regex"):
                return expression
    raise Untranslatable("its pre-tokenizer is none of those that can be translated")


# What a BPE may have besides its merges, and tiktoken has not.
_NOT_PLAIN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def _ranks(definition: dict) -> dict[bytes, int]:
    """Each token's bytes and id; tiktoken merges the pair whose result has the lowest id."""
    model = definition["model"]
    if model.get("type") != "BPE" or any(model.get(name) for name in _NOT_PLAIN):
        raise Untranslatable("its model is not a plain byte-level BPE")
    special = {added["content"] for added in definition.get("added_tokens", [])}
    byte_of = {character: byte for byte, character in enumerate(_ALPHABET)}
    ranks: dict[bytes, int] = {}
    try:
        for token, rank in model["vocab"].items():
            if token not in special:
                ranks[bytes(map(byte_of.__getitem__, token))] = rank
    except KeyError as error:
        raise Untranslatable(f"a token holds {error}, which stands for no byte") from None
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise Untranslatable("some bytes have no token")
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    # tiktoken merges by rank of the result; that is the order of merges only if the ids rise with
    # it.
    made = [model["vocab"]["".join(pair)] for pair in pairs]
    if made != sorted(made):
        raise Untranslatable("its ids are not in the order of its merges")
    # with `ignore_merges` a word that is a token is taken whole, as tiktoken does
    if len(set(made)) != len(ranks) - 256 and not model.get("ignore_merges"):
        raise Untranslatable("it has tokens that no merge makes")
    return ranks


def _alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2): itself where it
    can be printed.
    """
    # The three ranges of Latin-1 that print; the other bytes are moved behind them.
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


_ALPHABET = _alphabet()


def _encoding(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    try:
        return tiktoken.Encoding(
            "bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )
    except ValueError as error:
        raise Untranslatable(f"tiktoken refuses it ({error})") from error


class _Characters:
    """Finds the characters that the two split differently, each tried once, when it first occurs.

    They are tried beside a letter, a digit, a mark and spaces, with a BPE of its own that merges
    across every border which there could be: its ids tell where words end, whatever the
    tokenizer's own vocabulary would merge.
    """

    # {0}: the character.
    PROBE = "a{0}!a\n {0}  \n!{0}a\n1{0} {0}x   {0}\n'{0} "

    def __init__(self, pre_tokenizer: dict, pattern: str):
        singles = [bytes([byte]) for byte in range(256)]
        pairs = [bytes(pair) for pair in product(b"a !1'", range(256))]
        pairs += [bytes([byte, ord("!")]) for byte in range(128, 256)]
        ranks = {token: i for i, token in enumerate(singles + pairs)}
        vocab = {"".join(map(_ALPHABET.__getitem__, token)): i for token, i in ranks.items()}
        merges = [(_ALPHABET[left], _ALPHABET[right]) for left, right in pairs]
        definition = json.loads(tokenizers.Tokenizer(models.BPE(vocab, merges)).to_str())
        definition["pre_tokenizer"] = pre_tokenizer
        self._slow = tokenizers.Tokenizer.from_str(json.dumps(definition))
        self._fast = _encoding(pattern, ranks, {})
        self._tried: set[str] = set()
        self._disputed: set[str] = set()

    def disputed(self, texts: Iterable[str]) -> set[str]:
        """Those found up to now, these texts included."""
        found: set[str] = set()
        for text in texts:
            if not text.isascii():
                found.update("".join(NOT_ASCII.findall(text)))
        for character in found - self._tried:
            probe = self.PROBE.format(character)
            # Ids of a BPE that merges over every border tell where the words end.
            if self._slow.encode(probe).ids != self._fast.encode_ordinary(probe):
                self._disputed.add(character)
        self._tried |= found
        return self._disputed
