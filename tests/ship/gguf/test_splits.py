"""Every rule by which llama.cpp splits a text into words: files that name it are read as llama.cpp
reads them.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ship_models import portable_of, weights_of
from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers, trainers
from unicode_lines import unicode_line

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.recipe import Model
from windtunnel.ship.gguf import model as gguf
from windtunnel.ship.gguf.splits import _SPLITS, BYTES, Split, split_name, split_named
from windtunnel.ship.held_out import ODD_LINES

pytest.importorskip("gguf")

from gguf_files import rewritten

LINES = (
    *ODD_LINES,
    "It's 12345 o'clock, I'LL, WE'VE, don'T",
    "a1b22c333d4444 55555  leading   spaces\n\n\nnew  \r\n lines \t tab",
    "x=1;y+=2; $5.00 <b>|a|</b> ^~` ... !!! ?? ,,",
    "foo\u00a0bar\u3000baz \u2028 q ！、。中文abc١٢٣ ²³¼ Ⅷ \u1680\u0085x\x0by\x0cz\x1c w",
    "in  12  345   67 and    8901",
    "camelCase HTTPServer ÉCOLE École ÀÉÎ naïve STRASSE straße",
    *(unicode_line(seed) for seed in range(60)),
)


@pytest.fixture(scope="module")
def definition() -> dict:
    """A tokenizer.json whose merges know no words, so that every cut shows in the ids."""
    fast = Fast(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = whole  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=8,
    )
    text = [*LINES * 3, *(unicode_line(seed) for seed in range(1000, 1500))]
    fast.train_from_iterator(text, trainer)
    made = json.loads(fast.to_str())
    # a word that no merges lead to
    made["model"]["vocab"]["ĠHTTPServer"] = len(made["model"]["vocab"])
    return made


@pytest.fixture(scope="module")
def named(definition: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A GGUF file that names a rule."""
    folder = tmp_path_factory.mktemp("named")
    model = Model(width=32, depth=1, heads=2, vocab=len(definition["model"]["vocab"]), ffn=32)
    portable = portable_of(model, weights_of(model), tokenizer_of(definition, _SPLITS[0]))
    gguf.write(folder / "x.gguf", portable, "Q8_0")

    def make(name: str) -> Path:
        file = folder / f"{name}.gguf"
        said = {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": None}
        return rewritten(folder / "x.gguf", file, said)

    return make


def tokenizer_of(definition: dict, split: Split) -> Tokenizer:
    model = definition["model"] | {"ignore_merges": split.whole_words}
    made = definition | {"pre_tokenizer": split.pre_tokenizer, "model": model}
    return Tokenizer(json.dumps(made).encode())


def agrees(file: Path) -> None:
    from windtunnel.ship.llama_cpp import LlamaCpp

    tokenizer = gguf.read(file).tokenizer
    with LlamaCpp(file) as engine:
        for line, ids in zip(LINES, engine.tokenise(LINES), strict=True):
            assert tokenizer.encode(line).tolist() == ids, (file.name, ascii(line))
        # with the token that begins a text, where a file that names this rule means it
        (ids,) = engine.tokenise(["one"], marked=True)
        assert tokenizer.encode_marked("one") == ids, file.name


@pytest.mark.parametrize("split", _SPLITS, ids=lambda split: split.names[0])
def test_a_file_that_names_a_rule_is_read_as_llama_cpp_reads_it(
    split: Split, named: Callable[[str], Path]
) -> None:
    pytest.importorskip("xllamacpp")
    agrees(named(split.names[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for split in _SPLITS for name in split.names[1:]])
def test_so_is_every_other_name_of_it(name: str, named: Callable[[str], Path]) -> None:
    pytest.importorskip("xllamacpp")
    agrees(named(name))


def test_no_two_rules_give_the_same_ids(definition: dict) -> None:
    """Or these lines could not tell one from the other."""
    found = set()
    for split in _SPLITS:
        ids = tokenizer_of(definition, split).encode_batch(LINES)
        found.add(json.dumps([line.tolist() for line in ids]))
    assert len(found) == len(_SPLITS)


@pytest.mark.parametrize("split", _SPLITS, ids=lambda split: split.names[0])
def test_a_rule_is_written_by_its_first_name(split: Split) -> None:
    assert split_name(split.pre_tokenizer, split.whole_words) == split.names[0]
    for name in split.names:
        assert split_named(name) is split


def test_words_that_are_tokens_belong_to_the_rule() -> None:
    words = next(split for split in _SPLITS if split.names[0] == "llama-bpe").pre_tokenizer
    assert split_name(words, True) == "llama-bpe"
    assert split_name(words, False) == "dbrx"
    with pytest.raises(InputError, match="'gpt-2', but its ignore_merges is true"):
        split_name(BYTES, True)


def test_a_rule_that_is_not_known_is_refused(named: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"x\.gguf|splits text as 'falcon'; expected one of smol"):
        gguf.read(named("falcon"))


def test_a_tokenizer_without_merges_is_refused(definition: dict, tmp_path: Path) -> None:
    """llama.cpp loads no such file."""
    alphabet = {token: i for token, i in definition["model"]["vocab"].items() if i <= 256}
    model = definition["model"] | {"vocab": alphabet, "merges": []}
    tokenizer = tokenizer_of(definition | {"model": model}, _SPLITS[0])
    shape = Model(width=32, depth=1, heads=2, vocab=tokenizer.vocab, ffn=32)
    portable = portable_of(shape, weights_of(shape), tokenizer)
    with pytest.raises(InputError, match=r"no merges, and llama\.cpp loads none .* --vocab"):
        gguf.write(tmp_path / "y.gguf", portable, "F32")
    assert not list(tmp_path.iterdir())
