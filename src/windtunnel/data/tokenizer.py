"""Text to token ids and back: a byte-level BPE trained on the corpus, or any `tokenizer.json`
that a person brings.

A trained tokenizer splits text as GPT-2 does with every digit by itself (what llama.cpp calls
`smollm`), so that the same file serves training, transformers and GGUF. Its special tokens are
ids 0 to 3 and are never made from text.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from windtunnel.errors import InputError

END = "<|end|>"
SPECIAL = (END, "<|user|>", "<|assistant|>", "<|system|>")
SMALLEST_VOCAB = 256 + len(SPECIAL)
# Tokens that end a document in the tokenizers that people bring, the likeliest first.
ENDS = (
    END,
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<eos>",
    "<|eos|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
    "[SEP]",
)
LARGEST_VOCAB = 1 << 20
# Characters of a word when a tokenizer is trained: every merge goes through a whole word, so what
# one without end takes grows with its square. None of a natural language is as long.
_LONGEST_WORD = 512
# Words as the tokenizer cuts them: letters, blanks, or anything else but digits, of which each is
# one.
_ENDLESS = re.compile(
    rf"(?:[^\W\d_]{{{_LONGEST_WORD + 1},}}|\s{{{_LONGEST_WORD + 1},}}"
    rf"|(?:[^\w\s]|_){{{_LONGEST_WORD + 1},}})"
)
CHUNK = 1 << 17  # characters encoded at once; a text without a single space must not cost gigabytes


class Tokenizer:
    """A tokenizer and the few facts about it that training needs."""

    def __init__(self, definition: bytes, name: str = "tokenizer.json"):
        """From the bytes of a tokenizer.json; `name` is what errors call it. Raises InputError
        where they are none, or where no token ends a document.
        """
        try:
            self._fast = tokenizers.Tokenizer.from_str(definition.decode())
        except Exception as error:  # tokenizers raises bare Exception for whatever it cannot parse
            raise InputError(f"{name}: not a Hugging Face tokenizer.json ({error})") from error
        self.definition = definition
        self._fast.no_truncation()
        self._fast.no_padding()
        # "<|end|>" inside a document is seven characters, not the end
        self._fast.encode_special_tokens = True
        ids = self._fast.get_vocab(with_added_tokens=True).values()
        self.vocab: int = max(ids, default=-1) + 1
        self.eos: int = self._find_end(name)
        self.sha256: str = hashlib.sha256(definition).hexdigest()
        self._byte_level = _is_byte_level(json.loads(definition))
        self.token_bytes: np.ndarray = self._count_bytes()
        """How many bytes of text each token stands for, int32 (vocab,): special ones for none."""

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> "Tokenizer":
        """A byte-level BPE of at most `vocab` tokens (fewer when the texts have no more pairs to
        merge). Raises InputError for a size that no such tokenizer can have.
        """
        if not SMALLEST_VOCAB <= vocab <= LARGEST_VOCAB:
            raise InputError(
                f"vocab {vocab}: expected between {SMALLEST_VOCAB} (all bytes) and {LARGEST_VOCAB}"
            )
        fast = tokenizers.Tokenizer(models.BPE())
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.pre_tokenizer = pre_tokenizers.Sequence([digits, words])  # type: ignore[assignment]
        fast.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(SPECIAL),
            # All 256 bytes: no text is unknown to it.
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        short = chain.from_iterable(map(_without_endless_words, texts))
        fast.train_from_iterator(short, trainer)
        return cls(fast.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in a file. Raises InputError."""
        try:
            return cls(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected a tokenizer.json"
            ) from error

    def save(self, path: str | Path) -> None:
        """Writes the very bytes that were loaded, so that the hash stays."""
        Path(path).write_bytes(self.definition)

    def encode(self, text: str) -> np.ndarray:
        """The ids (tokens,) of a text, without any special token added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text as `dtype`, without any special token added."""
        cut = [list(chunks(text)) if self._byte_level else [text] for text in texts]
        flat = list(chain.from_iterable(cut))
        encodings = iter(self._fast.encode_batch_fast(flat, add_special_tokens=False))
        found = []
        for parts in cut:
            ids = [np.array(next(encodings).ids, dtype=self.dtype) for _ in parts]
            found.append(np.concatenate([np.zeros(0, self.dtype), *ids]))
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, special tokens by their names."""
        return self._fast.decode([int(i) for i in ids], skip_special_tokens=False)

    def has(self, token: str) -> bool:
        """Whether there is a token of this name."""
        return self._fast.token_to_id(token) is not None

    def id(self, token: str) -> int:
        """The id of one token by its name, for instance `<|user|>`. Raises InputError."""
        found = self._fast.token_to_id(token)
        if found is None:
            raise InputError(f"this tokenizer has no token {token!r}")
        return found

    @property
    def dtype(self) -> np.dtype:
        """What a token is on disk, little-endian."""
        return np.dtype("<u2" if self.vocab <= 1 << 16 else "<u4")

    def _find_end(self, name: str) -> int:
        for token in ENDS:
            if (found := self._fast.token_to_id(token)) is not None:
                return found
        raise InputError(
            f"{name}: no token that ends a document; expected one of {', '.join(ENDS)}"
        )

    def _count_bytes(self) -> np.ndarray:
        counts = np.zeros(self.vocab, np.int32)
        for token, i in self._fast.get_vocab(with_added_tokens=False).items():
            counts[i] = len(token) if self._byte_level else _plain_bytes(token)
        for i, added in self._fast.get_added_tokens_decoder().items():
            # A special token stands for none of the text, an added word for itself.
            counts[i] = 0 if added.special else len(added.content.encode())
        return counts


def _is_byte_level(definition: dict) -> bool:
    """Whether each character of a token stands for one byte."""

    def has(node: object) -> bool:
        if isinstance(node, dict):
            return node.get("type") == "ByteLevel" or any(has(child) for child in node.values())
        return isinstance(node, list) and any(has(child) for child in node)

    return has(definition.get("pre_tokenizer")) or has(definition.get("decoder"))


def _plain_bytes(token: str) -> int:
    """Bytes of a token of SentencePiece's kind: `<0x0A>` is one byte, `▁` a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace("▁", " ").encode())


def _without_endless_words(text: str) -> Iterator[str]:
    """The text in parts, of which none has a word of more than `_LONGEST_WORD` characters."""
    for part in chunks(text):
        start = 0
        for endless in _ENDLESS.finditer(part):
            yield part[start : endless.start()]
            for begin in range(*endless.span(), _LONGEST_WORD):
                yield part[begin : min(begin + _LONGEST_WORD, endless.end())]
            start = endless.end()
        yield part[start:]


def chunks(text: str) -> Iterator[str]:
    """Cuts a long text where every byte-level tokenizer ends a word anyway, so that the ids stay
    the same.
    """
    start = 0
    while len(text) - start > CHUNK:
        end = _safe_cut(text, start + CHUNK // 2, start + CHUNK)
        yield text[start:end]
        start = end
    yield text[start:]


def _safe_cut(text: str, low: int, high: int) -> int:
    """Before a space between two letters, else after a line end between two; `high` if there is
    neither.
    """
    for mark, keep in ((" ", 0), ("\n", 1)):
        at = text.rfind(mark, low, high)
        # A cut here is one that every byte-level tokenizer makes: a space belongs to the word
        # behind it.
        while at > low:
            if text[at - 1].isalpha() and text[at + 1 : at + 2].isalpha():
                return at + keep
            at = text.rfind(mark, low, at)
    return high
