"""The tokens around a text and behind an answer, as GGUF's metadata have them."""

from typing import Any

import pytest

from windtunnel.errors import InputError
from windtunnel.ship.gguf.marks import around, read

NAMES = ["a", "<|end|>", "<s>", "<|im_end|>", "<pad>", "<|eot_id|>"]
NORMAL, CONTROL = 1, 3


def fields(**changes: Any) -> dict[str, Any]:
    known = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": NAMES,
        "token_type": [NORMAL, CONTROL, CONTROL, CONTROL, CONTROL, NORMAL],
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (known | changes).items()}


def test_an_answer_ends_at_what_is_named_and_at_the_usual_names() -> None:
    """Of special tokens: `<|eot_id|>` is text here."""
    settings, generation = read(fields())
    assert generation == {"eos_token_id": [2, 1, 3]}
    assert settings == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"}
    _, more = read(fields(eot_token_id=0, eom_token_id=4))
    assert more == {"eos_token_id": [2, 0, 4, 1, 3]}


def test_other_roles_and_a_template_are_named_where_they_are_there() -> None:
    known = fields(bos_token_id=0, padding_token_id=4) | {"tokenizer.chat_template": "by file"}
    settings, _ = read(known)
    assert settings == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "a",
        "eos_token": "<s>",
        "pad_token": "<pad>",
        "chat_template": "by file",
    }


@pytest.mark.parametrize("token", [-1, 6, "2", 1.0])
def test_a_token_that_is_none_is_refused(token: Any) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.ggml\.bos_token_id: .*, of 6 tokens"):
        read(fields(bos_token_id=token))
    assert read(fields(bos_token_id=5))[0]["bos_token"] == "<|eot_id|>"


def test_a_file_must_name_an_end() -> None:
    known = fields()
    del known["tokenizer.ggml.eos_token_id"]
    with pytest.raises(KeyError):
        read(known)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, (None, None)),
        ({"bos_token_id": 0}, (None, None)),
        ({"bos_token_id": 0, "add_bos_token": True}, (0, None)),
        ({"add_bos_token": True}, (None, None)),
        ({"add_eos_token": True}, (None, 2)),
        ({"bos_token_id": 0, "add_bos_token": True, "add_eos_token": True}, (0, 2)),
        ({"bos_token_id": 0, "pre": "llama-bpe"}, (0, None)),
        ({"bos_token_id": 0, "pre": "llama-bpe", "add_bos_token": False}, (None, None)),
        ({"model": "llama", "pre": "default"}, (1, None)),
        ({"model": "llama", "pre": "default", "bos_token_id": 4}, (4, None)),
        ({"model": "llama", "pre": "default", "add_bos_token": False}, (None, None)),
    ],
)
def test_what_is_put_around_a_text(
    said: dict[str, Any], found: tuple[int | None, int | None]
) -> None:
    """Llama 3's rule and SentencePiece begin a text where a file does not say; the latter with
    token 1.
    """
    assert around(fields(**said)) == found
