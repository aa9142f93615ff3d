"""The faster engine gives the ids of Hugging Face's tokenizers, or says why it does not stand in
for them.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from windtunnel.data import fast_bpe
from windtunnel.data.build import build
from windtunnel.data.encoding import ODD, encoders, engine
from windtunnel.data.fast_bpe import FastBpe, Untranslatable, with_ends
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Manifest
from windtunnel.data.tokenizer import CHUNK, END, Tokenizer

WORDS = (
    "the wind's tunnel blows at 12,345 m/s; we've don't I'll größer naïve  русский 日本語です。\n\n"
    "\tdef f(x):\n    return"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
byte_level = pre_tokenizers.ByteLevel


def trained(pre_tokenizer: object, vocab: int = 600) -> Tokenizer:
    """A tokenizer trained on text in which everything that a splitter must tell apart is
    frequent.
    """
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizer  # type: ignore[assignment]
    fast.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([WORDS * 20, *ODD * 3, "a!a 1! 1a  !  1  a\n\n"] * 3, trainer)
    return Tokenizer(fast.to_str().encode())


SPLITS: dict[str, Callable[[], object]] = {
    "GPT-2": lambda: byte_level(add_prefix_space=False),
    "digits": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=False)]
    ),
    "Llama 3": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@pytest.fixture(scope="module", params=SPLITS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(SPLITS[request.param]())


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> FastBpe:
    return FastBpe(tokenizer)


def same(tokenizer: Tokenizer, fast: FastBpe, texts: list[str]) -> bool:
    expected = with_ends(tokenizer, tokenizer.encode_batch(texts))
    found = fast.encode(texts)
    assert found[0].dtype == expected[0].dtype
    return all(map(np.array_equal, found, expected))


def test_odd_text_has_the_same_ids(tokenizer: Tokenizer, fast: FastBpe) -> None:
    assert same(tokenizer, fast, ODD)
    assert all(same(tokenizer, fast, [text]) for text in ODD)
    assert engine(tokenizer, [WORDS]).startswith("tiktoken ")


@given(st.lists(st.text(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_same_ids(tokenizer: Tokenizer, fast: FastBpe, texts: list[str]) -> None:
    assert same(tokenizer, fast, texts)


@given(
    st.lists(st.sampled_from([*"aéя字'sS  \n\t\r1½!,\u00a0\u0301\u200d\0", "'s", "'ll", "  ", END]))
)
@settings(max_examples=200, deadline=None)
def test_any_run_of_what_splits_words_has_the_same_ids(
    tokenizer: Tokenizer, fast: FastBpe, parts: list[str]
) -> None:
    assert same(tokenizer, fast, ["".join(parts)])


@pytest.mark.parametrize("unit", [WORDS, "字", " ", "!", "a\u0301"])
def test_long_texts_among_short_ones_have_the_same_ids(
    tokenizer: Tokenizer, fast: FastBpe, unit: str
) -> None:
    long = unit * (2 * CHUNK // len(unit) + 1)
    assert same(tokenizer, fast, ["short", long, "", long[:CHUNK], "x", long])


def test_every_character_is_split_alike_or_disputed() -> None:
    """The 13 that tokenizers 0.23 takes for digits and tiktoken 0.14 does not are of Unicode 17."""
    characters = [
        chr(code) for code in (*range(0x3000), *range(0x11D00, 0x11E00), *range(0x16FF0, 0x17000))
    ]
    tokenizer = trained(SPLITS["digits"]())
    fast = FastBpe(tokenizer)
    texts = [f"1{c} {c}a  {c}{c}!{c}" for c in characters]
    assert all(same(tokenizer, fast, texts[i : i + 512]) for i in range(0, len(texts), 512))


def test_a_character_that_is_classed_otherwise_goes_to_tokenizers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if tiktoken's tables did not know a letter yet."""
    monkeypatch.setattr(fast_bpe, "GPT2", fast_bpe.GPT2.replace(r"\p{L}", r"[\p{L}--у]"))
    tokenizer = trained(SPLITS["GPT-2"]())
    fast = FastBpe(tokenizer)
    texts = ["русский язык", "plain", "größer"]
    assert same(tokenizer, fast, texts)
    assert fast._characters.disputed(texts) == {"у"}
    assert not np.array_equal(
        fast._encode_together(texts)[0], with_ends(tokenizer, tokenizer.encode_batch(texts))[0]
    )


def test_a_wrong_translation_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_bpe, "GPT2", fast_bpe.GPT2.replace(r"\s+(?!\S)|\s", r"\s+"))
    tokenizer = trained(SPLITS["GPT-2"]())
    assert "tiktoken gives other ids" in engine(tokenizer, [WORDS])


def edited(change: Callable[[dict], None]) -> Tokenizer:
    definition = json.loads(trained(SPLITS["GPT-2"](), 400).definition)
    change(definition)
    return Tokenizer(json.dumps(definition).encode())


def reversed_ids(definition: dict) -> None:
    model = definition["model"]
    made = ["".join(pair) for pair in model["merges"]]
    ids = sorted(model["vocab"][token] for token in made)
    model["vocab"] |= dict(zip(made, reversed(ids), strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(normalizer=json.loads(normalizers.NFC().__getstate__())), "normalizer"),
        (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizer"),
        (lambda d: d.update(pre_tokenizer=None), "pre-tokenizer"),
        (lambda d: d["model"].update(dropout=0.1), "plain byte-level BPE"),
        (
            lambda d: d["added_tokens"].append(
                d["added_tokens"][0] | {"id": 400, "content": "<t>", "special": False}
            ),
            "added tokens",
        ),
        (lambda d: d["model"]["vocab"].update({"ab字": 400}), "stands for no byte"),
        (lambda d: d["model"]["vocab"].update({"qqqq": 400}), "no merge makes"),
        (reversed_ids, "order of its merges"),
    ],
)
def test_what_cannot_be_translated_is_encoded_by_tokenizers_and_says_why(
    change: Callable[[dict], None], reason: str
) -> None:
    tokenizer = edited(change)
    assert reason in engine(tokenizer, [WORDS])
    with pytest.raises(Untranslatable, match=reason):
        FastBpe(tokenizer)


@pytest.mark.parametrize("by", ["tiktoken 0", "tokenizers 0"])
def test_either_engine_encodes_spans_of_a_file(tmp_path: Path, by: str) -> None:
    tokenizer = trained(SPLITS["digits"]())
    tokenizer.save(tmp_path / "tokenizer.json")
    texts = [WORDS, "\0", "zwölf", WORDS[:9]]
    data = [text.encode() for text in texts]
    (tmp_path / "text").write_bytes(b"".join(data))
    sizes = np.array([len(part) for part in data])
    spans = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
    with encoders(tmp_path / "tokenizer.json", by, 1) as encode:
        found = list(encode([(tmp_path / "text", spans[:3]), (tmp_path / "text", spans[3:])]))
    ids = np.concatenate([part[0] for part in found])
    assert np.array_equal(ids, with_ends(tokenizer, tokenizer.encode_batch(texts))[0])
    assert sum(part[1].sum() for part in found) == len(ids)


def test_a_corpus_is_the_same_by_either_engine_and_tells_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{i} {WORDS} \0 {i * i}" for i in range(300)] + [f"{i} {WORDS}" for i in range(300)]
    source = Documents(read=lambda: iter(texts), origin="a test")
    fast = build(tmp_path / "fast", {"a": source}, vocab=400, workers=1)
    monkeypatch.setattr(fast_bpe, "DIGITS", r"\s+|\S+")
    slow = build(tmp_path / "slow", {"a": source}, vocab=400, workers=1)
    assert fast.manifest.encoded_by.startswith("tiktoken ")
    assert slow.manifest.encoded_by.endswith("(tiktoken gives other ids)")
    assert fast.digest == slow.digest and fast.manifest.fingerprint == slow.manifest.fingerprint
    before = json.loads(fast.manifest.to_json())
    del before["encoded_by"]
    assert (
        Manifest.from_json(json.dumps(before).encode(), "a corpus of before").encoded_by
        == "tokenizers"
    )
