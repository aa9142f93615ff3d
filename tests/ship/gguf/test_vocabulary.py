"""A tokenizer as GGUF's vocabulary: the kinds of its tokens, and what no vocabulary can be."""

import json
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.ship.gguf.byte_level import ByteLevel
from windtunnel.ship.gguf.sentencepiece import BYTE_NAMES, SentencePiece
from windtunnel.ship.gguf.tokens import Kind
from windtunnel.ship.gguf.vocabulary import from_tokenizer, read, to_tokenizer, write

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's numbers


def changed(corpus: Corpus, **model: Any) -> dict[str, Any]:
    definition = json.loads(corpus.tokenizer.definition)
    definition["model"] |= model
    return definition


def tokenizer_of(definition: dict[str, Any], end: str = "<|end|>") -> Tokenizer:
    return Tokenizer(json.dumps(definition).encode(), "made", end)


def added(index: int, content: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": special} | flags


def test_every_token_has_its_kind_and_spare_rows_are_unused(corpus: Corpus) -> None:
    definition = json.loads(corpus.tokenizer.definition)
    size = corpus.tokenizer.vocab
    definition["added_tokens"].append(added(size, "<mine>", special=False))
    made = tokenizer_of(definition)
    found = from_tokenizer(made, size + 3)
    assert isinstance(found, ByteLevel) and len(found.tokens) == len(found.types) == size + 3
    special = {one["content"] for one in definition["added_tokens"] if one["special"]}
    assert special, "some of it are"
    for token, kind in zip(found.tokens[:size], found.types, strict=False):
        assert kind == (CONTROL if token in special else NORMAL), token
    assert (found.tokens[size], found.types[size]) == ("<mine>", USER_DEFINED)
    assert list(found.tokens[size + 1 :]) == [f"[unused {size + 1}]", f"[unused {size + 2}]"]
    assert list(found.types[size + 1 :]) == [UNUSED] * 2
    smaller = from_tokenizer(made, 10)
    assert len(smaller.tokens) == size + 1, "no token is lost where the model has fewer rows"


def test_kinds_of_text_follow_from_the_kinds_of_tokens(corpus: Corpus) -> None:
    found = from_tokenizer(corpus.tokenizer, corpus.tokenizer.vocab + 1)
    kinds = dict(zip(found.tokens, found.kinds(), strict=True))
    assert kinds["<|end|>"] is Kind.SPECIAL and kinds[found.tokens[-1]] is Kind.SPECIAL
    assert kinds["a"] is Kind.WHOLE
    assert kinds["Ã"] is Kind.PART, "the first byte of two"


def test_a_byte_level_vocabulary_becomes_its_tokenizer_again(corpus: Corpus) -> None:
    found = from_tokenizer(corpus.tokenizer, corpus.tokenizer.vocab + 2)
    end = corpus.tokenizer.eos
    for before, behind in ((None, None), (end, None), (None, end), (end, end)):
        definition = json.loads(to_tokenizer(found, before, behind))
        assert len(definition["model"]["vocab"]) == corpus.tokenizer.vocab
        assert {one["content"] for one in definition["added_tokens"]} == {
            token for token, kind in zip(found.tokens, found.types, strict=True) if kind == CONTROL
        }
        assert all(one["special"] for one in definition["added_tokens"])
        again = tokenizer_of(definition)
        text = "wind <|end|> tunnel\n 12 é"
        assert again.encode(text).tolist() == corpus.tokenizer.encode(text).tolist()
        marked = corpus.tokenizer.encode_marked("wind")
        around = [end] * (before is not None), [end] * (behind is not None)
        assert again.encode_marked("wind") == [*around[0], *marked, *around[1]]
        if before is None and behind is None:
            assert definition["post_processor"] is None
            continue
        pair = definition["post_processor"]["pair"]
        assert [part.get("Sequence", {}).get("id") for part in pair if "Sequence" in part] == [
            "A",
            "B",
        ]
        types = [next(iter(part.values()))["type_id"] for part in pair]
        assert types == sorted(types) and set(types) == {0, 1}


def test_a_token_that_is_not_special_is_added_as_such(corpus: Corpus) -> None:
    definition = json.loads(corpus.tokenizer.definition)
    size = corpus.tokenizer.vocab
    definition["added_tokens"].append(added(size, "<mine>", special=False))
    found = from_tokenizer(tokenizer_of(definition), size + 1)
    again = json.loads(to_tokenizer(found))
    special = {one["content"]: one["special"] for one in again["added_tokens"]}
    assert special["<mine>"] is False and special["<|end|>"] is True
    assert {one["id"]: one["content"] for one in again["added_tokens"]}[size] == "<mine>"
    assert "<mine>" not in again["model"]["vocab"], "it is looked for before words are cut"


def sentencepiece(unknown: str | None = "<unk>") -> Tokenizer:
    vocab = {name: index for index, name in enumerate(["<unk>", "</s>", *BYTE_NAMES, "▁", "a"])}
    definition = {
        "version": "1.0",
        "added_tokens": [added(0, "<unk>", special=True), added(1, "</s>", special=True)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": vocab,
            "merges": [],
        },
    }
    return tokenizer_of(definition, "</s>")


def test_sentencepiece_has_bytes_and_an_unknown_token() -> None:
    found = from_tokenizer(sentencepiece(), 260)
    assert isinstance(found, SentencePiece)
    assert list(found.types) == [UNKNOWN, CONTROL, *[BYTE] * 256, NORMAL, NORMAL]
    assert found.settings()["unk_token_id"] == 0
    assert [kind.name for kind in found.kinds()[:3]] == ["SPECIAL", "SPECIAL", "PART"]
    assert [kind.name for kind in found.kinds()[-2:]] == ["WHOLE", "WHOLE"]
    without = from_tokenizer(sentencepiece(None), 260)
    assert without.types[0] == CONTROL and "unk_token_id" not in without.settings()
    assert json.loads(to_tokenizer(found))["model"]["unk_token"] == "<unk>"
    assert found.in_text["<0x00>"] == 2 and found.in_text["<unk>"] == 0


def test_bytes_of_a_byte_level_tokenizer_are_text(corpus: Corpus) -> None:
    """`<0x41>` is a word like others where there is no byte fallback."""
    vocab = changed(corpus)["model"]["vocab"]
    size = corpus.tokenizer.vocab
    definition = changed(corpus, vocab=vocab | {"<0x41>": size})
    found = from_tokenizer(tokenizer_of(definition), size + 1)
    assert found.types[size] == NORMAL


def test_another_kind_of_model_is_refused(corpus: Corpus) -> None:
    known: Any = type("Known", (), {})()
    known.definition = json.dumps(changed(corpus, type="WordPiece"))
    with pytest.raises(InputError, match="gguf: a tokenizer of kind WordPiece; expected a BPE"):
        from_tokenizer(known, 320)


class Writer:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.written.update({name.removeprefix("add_"): value})


NAMES = {
    "tokenizer.ggml.model": "tokenizer_model",
    "tokenizer.ggml.tokens": "token_list",
    "tokenizer.ggml.token_type": "token_types",
    "tokenizer.ggml.pre": "tokenizer_pre",
    "tokenizer.ggml.merges": "token_merges",
    "tokenizer.ggml.scores": "token_scores",
    "tokenizer.ggml.add_space_prefix": "add_space_prefix",
}


def test_what_is_written_is_read_again(corpus: Corpus) -> None:
    for made in (corpus.tokenizer, sentencepiece()):
        found, writer = from_tokenizer(made, made.vocab), Writer()
        write(found, writer)
        again = read(lambda key, writer=writer: writer.written[NAMES[key]])
        assert again == found


def fields(**changes: Any) -> Any:
    known = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.token_type": [NORMAL, CONTROL],
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": [],
    }
    return (known | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}).__getitem__


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "bert"}, "a tokenizer of kind 'bert'; expected 'gpt2'"),
        ({"model": ["gpt2"]}, "a tokenizer of kind"),
        ({"tokens": ["a", 3]}, r"tokenizer\.ggml: tokens"),
        ({"token_type": [NORMAL]}, "token_type has 1 kinds for 2 tokens"),
        ({"token_type": [NORMAL] * 3}, "token_type has 3 kinds for 2 tokens"),
        ({"tokens": ["a", ""]}, "token 1 is empty"),
        ({"tokens": ["a", "a"]}, "'a' is token 0 and token 1"),
    ],
)
def test_what_no_tokenizer_can_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(fields(**changes))
    assert read(fields()).tokens == ["a", "b"]


def test_characters_that_stand_for_no_byte_are_no_text() -> None:
    """Bytes that can't be printed have characters from U+0100 to U+0143."""
    found = read(fields(tokens=["ŀ", "ń", "Ġa"], token_type=[NORMAL] * 3))
    assert found.kinds() == [Kind.PART, Kind.PART, Kind.WHOLE]
