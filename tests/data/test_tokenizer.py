"""The tokenizer: nothing is lost, every byte is counted, and the same text gives the same file."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from windtunnel.data.tokenizer import CHUNK, SPECIAL, Tokenizer, _without_endless_words
from windtunnel.errors import InputError

TEXTS = [
    "The wind tunnel blows at 12,345 m/s.\n\n\tdef f(x):\n        return x ** 2\n" * 5,
    "Größe, naïve café, Ελληνικά, русский язык, 日本語のテキスト, العربية, हिन्दी",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u200b\ufeff \x00\x01 \r\n\r\n   trailing   ",
    "<|end|> <|user|> are words here, not tokens",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_and_every_byte_is_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_and_every_byte_is_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert not set(ids.tolist()) & set(range(len(SPECIAL)))


def test_special_tokens_come_first_and_are_worth_no_bytes(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id(token) for token in SPECIAL] == [0, 1, 2, 3]
    assert tokenizer.eos == 0
    assert tokenizer.token_bytes[:4].tolist() == [0, 0, 0, 0]
    assert (tokenizer.token_bytes[4:] > 0).all()
    assert (
        tokenizer.token_bytes.shape == (tokenizer.vocab,)
        and tokenizer.token_bytes.dtype == np.int32
    )


@pytest.mark.parametrize(
    "unit", ["The quick brown fox, 1234 times.\n", "ένα δύο τρία\n", "wörter mit ümläuten "]
)
def test_cutting_a_long_text_does_not_change_its_ids(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (3 * CHUNK // len(unit))
    whole = tokenizers.Tokenizer.from_str(tokenizer.definition.decode()).encode(text).ids
    assert tokenizer.encode(text).tolist() == whole


def test_a_long_text_without_a_space_is_encoded(tokenizer: Tokenizer) -> None:
    text = "ü" * 1_000_000
    ids = tokenizer.encode(text)
    assert tokenizer.token_bytes[ids].sum() == 2_000_000 and tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "unit", ["ACGT", "\u6f22\u5b57", "\u3042", "=", "-_", " ", "\t\n", "\u00e9\u00df", "1", "a1"]
)
def test_no_word_that_a_tokenizer_is_trained_on_is_without_end(unit: str) -> None:
    """What training takes grows with the square of a word's length."""
    endless = unit * (300_000 // len(unit))
    text = f"Some words, {endless} and others.{endless}"
    parts = list(_without_endless_words(text))
    assert "".join(parts) == text
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    lengths = []
    for part in parts:
        lengths += [end - start for _, (start, end) in words.pre_tokenize_str(part)]
    assert max(lengths) <= 513, "and perhaps the blank before it"


def test_a_text_of_words_is_trained_on_as_it_is() -> None:
    text = f"Donau{'dampf' * 90}schiff, {'=' * 500} and {' ' * 400} no more.\n" * 40
    assert list(_without_endless_words(text)) == [text]


def test_training_is_deterministic_across_processes() -> None:
    script = (
        "from windtunnel.data.tokenizer import Tokenizer; import random; r = random.Random(1)\n"
        "print(Tokenizer.train([' '.join(str(r.getrandbits(20)) + 'abcdefg'[r.randrange(7):] "
        "for _ in range(5000))"
        " for _ in range(20)], 1000).sha256)"
    )
    hashes = {subprocess.check_output([sys.executable, "-c", script], text=True) for _ in range(2)}
    assert len(hashes) == 1


def test_saving_keeps_the_hash(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.sha256 == tokenizer.sha256
    assert loaded.sha256 == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    assert loaded.encode(TEXTS[0]).tolist() == tokenizer.encode(TEXTS[0]).tolist()


def test_a_sentencepiece_like_tokenizer_counts_bytes(tmp_path: Path) -> None:
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁wind", "é", "t", "u"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"
    )
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    fast.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")]
    )
    fast.add_special_tokens(["</s>", "<unk>"])
    fast.save(str(tmp_path / "t.json"))
    tokenizer = Tokenizer.load(tmp_path / "t.json")
    counted = {piece: int(tokenizer.token_bytes[i]) for i, piece in enumerate(pieces)}
    assert counted["</s>"] == 0 and counted["<0xAB>"] == 1 and counted["▁"] == 1
    assert counted["▁wind"] == 5 and counted["é"] == 2 and tokenizer.eos == 1
    text = "tut é 漢"
    assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize(
    "content", ["", "{}", "not json", '{"version": "1.0"}', json.dumps({"model": 3})]
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(InputError, match=r"t\.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "t.json"))
    with pytest.raises(InputError, match="no token that ends a document"):
        Tokenizer.load(tmp_path / "t.json")


def test_missing_files_and_tiny_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        Tokenizer.load(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="vocab 200"):
        Tokenizer.train(TEXTS, 200)
