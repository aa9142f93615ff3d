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
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from windtunnel.errors import InputError
from windtunnel.files import write_whole

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
# Those of them that end a turn of a conversation where a tokenizer has another one for documents.
ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")
LARGEST_VOCAB = 1 << 20
_CONFIG = "tokenizer_config.json"  # where a tokenizer.json's end is named, beside it
_OF_CHAT = ("chat_template", "bos_token", "eos_token", "pad_token", "unk_token")  # of its keys
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

    def __init__(
        self,
        definition: bytes,
        name: str = "tokenizer.json",
        end: str | int | None = None,
        settings: dict[str, Any] | None = None,
    ):
        """From the bytes of a tokenizer.json; `name` is what errors call it. `end`: the token, or
        its id, that whoever made it says a text ends with. `settings`: the tokenizer_config.json
        that came with it. Raises InputError where the bytes are no tokenizer, and where no token
        ends a document.
        """
        self.settings = settings or {}
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
        self.eos: int = self._find_end(name, end)
        """The token that ends a document."""
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
        """The tokenizer in a file, with the end that a tokenizer_config.json beside it names.
        Raises InputError.
        """
        try:
            definition = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected a tokenizer.json"
            ) from error
        settings = _settings(Path(path))
        return cls(definition, str(path), _content(settings.get("eos_token")), settings)

    def save(self, path: str | Path) -> None:
        """Writes the very bytes that were loaded, so that the hash stays."""
        Path(path).write_bytes(self.definition)

    @property
    def identity(self) -> str:
        """Names all that decides the ids that it makes: the hash of the file, and the end where
        another is named than the file itself would tell.
        """
        named = "" if self._likeliest_end() == self.eos else f" {self.name(self.eos)}"
        return f"{self.sha256}{named}"

    def keep(self, folder: Path) -> None:
        """Write tokenizer.json into a folder of a lab, and beside it a tokenizer_config.json that
        names its end where nothing in the file itself tells it, and holds the chat template that
        came with it. Raises InputError.
        """
        told = {}
        if self._likeliest_end() != self.eos:
            told["eos_token"] = self.name(self.eos)
        if "chat_template" in self.settings:
            told |= {key: self.settings[key] for key in _OF_CHAT if key in self.settings}
        # The end first: a tokenizer.json that is there is whole.
        if told:
            write_whole(folder / _CONFIG, json.dumps(told))
        write_whole(folder / "tokenizer.json", self.definition)

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

    def encode_marked(self, text: str, around: bool = True) -> list[int]:
        """The ids of a text as programs ask an engine for them: special tokens that are written in
        it are these tokens, and what the tokenizer puts `around` every text is there.
        """
        return self._marking.encode(text, add_special_tokens=around).ids

    def spans(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids of a text in which special tokens are written by name, int64 (n,), and where in
        it each begins and ends, in characters.
        """
        found = self._marking.encode(text, add_special_tokens=False)
        offsets = np.array(found.offsets, np.int64).reshape(-1, 2)
        return np.array(found.ids, np.int64), offsets[:, 0], offsets[:, 1]

    @cached_property
    def before(self) -> tuple[int, ...]:
        """The ids that it puts before every text, where it is not told to leave them out."""
        return self._around[0]

    @cached_property
    def behind(self) -> tuple[int, ...]:
        """The ids that it puts behind every text."""
        return self._around[1]

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

    def find(self, token: str) -> int | None:
        """The id of one token by its name; None where there is none."""
        return self._fast.token_to_id(token)

    def name(self, token: int) -> str:
        """The name of one token by its id. Raises InputError."""
        found = self._fast.id_to_token(token)
        if found is None:
            raise InputError(f"this tokenizer has no token {token}")
        return found

    @cached_property
    def special(self) -> frozenset[str]:
        """The names of the tokens that stand for no text."""
        added = self._fast.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    @property
    def dtype(self) -> np.dtype:
        """What a token is on disk, little-endian."""
        return np.dtype("<u2" if self.vocab <= 1 << 16 else "<u4")

    def _find_end(self, name: str, end: str | int | None) -> int:
        named = self._fast.id_to_token(end) if isinstance(end, int) else end
        told = None if named is None else self._fast.token_to_id(named)
        # What a chat model names is often the end of a turn; its documents end with another.
        if told is not None and named not in ENDS_OF_TURN:
            return told
        found = self._likeliest_end()
        if found is None:
            raise InputError(
                f"{name}: no token that ends a document; expected one of {', '.join(ENDS)}, or one "
                "that a tokenizer_config.json beside it names as eos_token"
            )
        return found

    def _likeliest_end(self) -> int | None:
        """The token that ends a document by its name alone."""
        there = (self._fast.token_to_id(token) for token in ENDS)
        return next((token for token in there if token is not None), None)

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        """The same, which makes special tokens of their names."""
        made = tokenizers.Tokenizer.from_str(self.definition.decode())
        made.no_truncation()
        made.no_padding()
        return made

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # one letter, which is a token or several of its own, between what is put around it
        found = self._marking.encode("a", add_special_tokens=True)
        marks = found.special_tokens_mask
        first = marks.index(0) if 0 in marks else len(marks)
        last = len(marks) - marks[::-1].index(0) if 0 in marks else len(marks)
        return tuple(found.ids[:first]), tuple(found.ids[last:])

    def _count_bytes(self) -> np.ndarray:
        counts = np.zeros(self.vocab, np.int32)
        for token, i in self._fast.get_vocab(with_added_tokens=False).items():
            counts[i] = len(token) if self._byte_level else _plain_bytes(token)
        for i, added in self._fast.get_added_tokens_decoder().items():
            # A special token stands for none of the text, an added word for itself.
            counts[i] = 0 if added.special else len(added.content.encode())
        return counts


def _settings(path: Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer.json; empty where there is none. Raises
    InputError where it cannot be read.
    """
    config = path.with_name(_CONFIG)
    if path.name != "tokenizer.json" or not config.is_file():
        return {}
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{config}: not JSON that can be read ({error})") from None
    return settings if isinstance(settings, dict) else {}


def _content(token: object) -> str | None:
    """The name of a token, which is given as a text, or as an object that holds it."""
    named = token.get("content") if isinstance(token, dict) else token
    return named if isinstance(named, str) else None


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
