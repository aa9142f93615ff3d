"""BPE of SentencePiece with byte fallback: in as a folder, out as llama.cpp's `llama`, and back,
with the same ids everywhere.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ship_models import portable_of, weights_of
from unicode_lines import unicode_line

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.recipe import Model
from windtunnel.ship.export import export
from windtunnel.ship.gguf import model as gguf
from windtunnel.ship.gguf.file import metadata
from windtunnel.ship.gguf.tokens import Kind
from windtunnel.ship.gguf.vocabulary import from_tokenizer
from windtunnel.ship.held_out import ODD_LINES
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.portable import PortableModel

pytest.importorskip("gguf")

from gguf_files import rewritten

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,\n'éß中"
# By their scores, the best first: words that overlap, and spaces in a row.
PIECES = (
    *("th", "▁t", "in", "he", "er", "an", "▁the", "the", "▁th", "ing", "re", "on", "▁a"),
    *("▁▁", "at", "en", "▁in", "▁an", "nd", "and", "▁and", "▁▁▁▁", "▁▁▁", "aa", "aaa", "aaaa"),
    *("▁H", "lo", "ell", "el", "ello", "▁Hello", "Hello", "é中", "\n\n", "'s"),
)
LINES = (
    *ODD_LINES,
    *("", " ", "   ", "▁", "\n\n", " one", "  two   and    more ", "a▁b ▁ c"),
    *("then and there, the thing's in hand", "aaaaa aaaaaa  aaaaaaa", "Hello, Hellohello HELLO"),
    *(
        "<s>hi</s> <unk> <0x41> [unused 340]",
        "éé中é中中",
        "tool<tool>tool <tool> tool",
        "naïve ÿ\u0000\u0007",
    ),
    *(unicode_line(seed) for seed in range(80)),
)


def definition(pieces: Sequence[str] = PIECES, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json: `<unk>`, `<s>`, `</s>`, all bytes, characters, pieces, and one added token
    that is text.
    """
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: index for index, token in enumerate([*names, *CHARACTERS, *pieces])}
    merges = []
    for piece in pieces:
        halves = [[piece[:at], piece[at:]] for at in range(1, len(piece))]
        merges += [pair for pair in halves if pair[0] in vocab and pair[1] in vocab]
    model = {"vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": True}
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    added = [("<unk>", 0, True), ("<s>", 1, True), ("</s>", 2, True), ("<tool>", len(vocab), False)]
    marked = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, "special": special} | marked
            for token, index, special in added
        ],
        "normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {"type": "BPE", "fuse_unk": True} | model,
    } | parts


def tokenizer_of(content: dict[str, Any]) -> Tokenizer:
    return Tokenizer(json.dumps(content).encode())


def portable(content: dict[str, Any], vocab: int = 0, **config: Any) -> PortableModel:
    tokenizer = tokenizer_of(content)
    model = Model(width=32, depth=1, heads=2, vocab=vocab or tokenizer.vocab, ffn=32)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    weights = {name: 0.3 * tensor for name, tensor in weights_of(model).items()}
    return portable_of(model, weights, tokenizer, 300, **settings | config)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def make(content: dict[str, Any], **how: Any) -> Path:
        gguf.write(tmp_path / "x.gguf", portable(content, **how), "F32")
        return tmp_path / "x.gguf"

    return make


TEXT, MORE = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}
BEGINS = {
    "type": "TemplateProcessing",
    "single": [BEGIN, TEXT],
    "pair": [BEGIN, TEXT, BEGIN, MORE],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
KEPT = {"type": "Sequence", "decoders": definition()["decoder"]["decoders"][:3]}
NEVER = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
WAYS: dict[str, dict[str, Any]] = {
    "a space before": definition(),
    "no merges": definition(()),
    "no space before": definition(normalizer=REPLACE, decoder=KEPT),
    "none before, by Metaspace": definition(normalizer=None, pre_tokenizer=NEVER, decoder=KEPT),
}


@pytest.mark.parametrize("way", WAYS)
def test_llama_cpp_gives_our_ids(way: str, written: Callable[..., Path]) -> None:
    """Of text, and of text with special tokens. Also of a model that has more rows than its
    tokenizer has tokens.
    """
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    content = WAYS[way] | {"post_processor": BEGINS}
    ours, file = tokenizer_of(content), written(content, vocab=384)
    again = gguf.read(file).tokenizer
    with LlamaCpp(file) as engine:
        found, marked = engine.tokenise(LINES), engine.tokenise(LINES, marked=True)
    for line, ids, with_special in zip(LINES, found, marked, strict=True):
        for tokenizer in (ours, again):
            assert tokenizer.encode(line).tolist() == ids, ascii(line)
            assert tokenizer.encode_marked(line) == with_special, ascii(line)
        assert again.decode(ids) == ours.decode(ids)
    pieces = {content["model"]["vocab"].get(piece) for piece in PIECES}
    assert any(pieces & set(ids) for ids in found) == (way != "no merges")


def test_random_pieces_are_merged_in_one_order(written: Callable[..., Path]) -> None:
    """Pieces of three letters overlap in every way that there is."""
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    for seed in range(6):
        source = random.Random(seed)
        letters = source.choice(["ab", "abc", "abc▁"])
        pieces = [*letters]
        while len(pieces) < 25:
            piece = source.choice(pieces) + source.choice(pieces)
            if piece not in pieces and len(piece) < 9:
                pieces.append(piece)
        made = pieces[len(letters) :]
        source.shuffle(made)
        file, ours = written(definition(made)), tokenizer_of(definition(made))
        text = letters.replace("▁", " ")
        lines = ["".join(source.choices(text, k=source.randint(1, 40))) for _ in range(60)]
        with LlamaCpp(file) as engine:
            for line, ids in zip(lines, engine.tokenise(lines), strict=True):
                assert ours.encode(line).tolist() == ids, (seed, line)


def test_transformers_gives_them_too(written: Callable[..., Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    again = gguf.read(written(definition()))
    (tmp_path / "folder").mkdir()
    LAYOUTS["llama"].write(tmp_path / "folder", again, "fp32")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    ours = tokenizer_of(definition())
    for line in LINES:
        ids = theirs.encode(line, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(line).tolist() == ids, ascii(line)


def test_a_folder_comes_in_and_goes_out_checked(tmp_path: Path) -> None:
    """Probabilities too, those of single bytes among them."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("transformers")
    (tmp_path / "theirs").mkdir()
    source = portable(definition(post_processor=BEGINS))
    LAYOUTS["llama"].write(tmp_path / "theirs", source, "fp32")
    run = import_model(tmp_path / "theirs", tmp_path / "lab")
    for layout in ("llama", "gguf"):
        made = export(run, layout, tmp_path / layout)
        assert made.agreement.good and made.agreement.wrong_lines == 0, made.agreement
    (file,) = (tmp_path / "gguf").glob("*.gguf")
    fields = metadata(file)
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"]
    assert fields["tokenizer.ggml.unknown_token_id"] == 0
    assert import_model(file, tmp_path / "lab").recipe.model == run.recipe.model


def test_what_the_tokens_are() -> None:
    found = from_tokenizer(tokenizer_of(definition()), 384)
    named = dict(zip(found.tokens, found.kinds(), strict=True))
    assert named["<0x41>"] is Kind.PART and named["▁the"] is Kind.WHOLE
    others = ("<unk>", "<s>", "<tool>", "[unused 380]")
    assert {named[token] for token in others} == {Kind.SPECIAL}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"normalizer": {"type": "NFKC"}}, "normalises text by NFKC; llama.cpp puts a space"),
        ({"normalizer": None}, "normalises text by nothing"),
        (
            {"normalizer": None, "pre_tokenizer": NEVER | {"prepend_scheme": "first"}},
            "cuts text into words",
        ),
        ({"pre_tokenizer": NEVER | {"split": True}}, "cuts text into words"),
    ],
)
def test_text_changed_in_another_way_is_refused(
    change: dict[str, Any], says: str, written: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match=says):
        written(definition(**change))


def test_other_merges_than_llama_cpp_makes_are_refused(written: Callable[..., Path]) -> None:
    model = definition()["model"]

    def refused(merges: list[list[str]], says: str, vocab: dict[str, int] | None = None) -> None:
        changed = model | {"merges": merges, "vocab": vocab or model["vocab"]}
        with pytest.raises(InputError, match=says):
            written(definition() | {"model": changed})

    merges = model["merges"]
    left_out = [pair for pair in merges if pair != ["a", "nd"]]
    refused(left_out, "would merge 'a' and 'nd' into 'and', which this tokenizer does not")
    late = [*left_out, ["a", "nd"]]
    refused(late, "merges into 'and' early and late")
    # two characters that are no tokens make one
    vocab = {**model["vocab"], "öö": len(model["vocab"])}
    refused(merges, "would merge 'ö' and 'ö' into 'öö'", vocab)
    vocab = {token: index for token, index in model["vocab"].items() if token != "<0x7F>"}
    refused(merges, "has no token <0x7F>", vocab)


def test_an_added_token_of_replaced_text_is_refused(written: Callable[..., Path]) -> None:
    content = definition()
    content["added_tokens"][-1]["normalized"] = True
    with pytest.raises(InputError, match=r"'<tool>' is looked for after .* \(normalized\)"):
        written(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda scores: [0.0] * len(scores), "'.*' and '.*' have one score"),
        (lambda scores: scores[:-1], r"scores: \d+ for \d+ tokens"),
        (lambda scores: "none", "scores: .* not allowed"),
    ],
)
def test_scores_without_an_order_are_refused(
    change: Callable[[list[float]], Any], says: str, written: Callable[..., Path], tmp_path: Path
) -> None:
    file = written(definition())
    scores = change(metadata(file)["tokenizer.ggml.scores"])
    with pytest.raises(InputError, match=rf"y\.gguf: .*{says}"):
        gguf.read(rewritten(file, tmp_path / "y.gguf", {"tokenizer.ggml.scores": scores}))


def test_a_file_that_says_nothing_of_a_space_has_one(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    file = written(definition())
    said = rewritten(file, tmp_path / "y.gguf", {"tokenizer.ggml.add_space_prefix": None})
    assert gguf.read(said).tokenizer.encode("the").tolist() == [
        definition()["model"]["vocab"]["▁the"]
    ]


def test_a_file_that_says_nothing_of_a_beginning_has_one(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    """As llama.cpp takes it: the second token, before every text."""
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    unsaid = dict.fromkeys(["tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"])
    file = rewritten(written(definition()), tmp_path / "y.gguf", unsaid)
    with LlamaCpp(file) as engine:
        (ids,) = engine.tokenise(["the"], marked=True)
    assert gguf.read(file).tokenizer.encode_marked("the") == ids
    assert ids[0] == 1
