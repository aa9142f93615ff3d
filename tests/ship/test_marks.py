"""The tokens around a text and behind an answer, in and out again: engines begin, render and end
as with the source.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speakers import SAYS, SPEAKERS

from windtunnel.data.build import build
from windtunnel.data.chat_format import Message
from windtunnel.data.readers import Documents
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.family import upcycle
from windtunnel.family.sft import Asked, sft
from windtunnel.recipe import dump
from windtunnel.ship.chat import OwnModel, Sampling
from windtunnel.ship.export import Disagreement, export
from windtunnel.ship.held_out import documentation
from windtunnel.ship.import_model import import_model
from windtunnel.ship.layouts import LAYOUTS, FolderLayout, layout_of
from windtunnel.ship.llama_cpp import LlamaCpp
from windtunnel.ship.marks import Marks, mark_ids, marks_of, named_marks
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.subject import Subject
from windtunnel.ship.template import conversation
from windtunnel.ship.verify import verify
from windtunnel.train.loop import train
from windtunnel.train.run import Run, open_run

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

LINES = [
    "a line",
    "",
    " <s>[INST] hi<|eot_id|><|fin|> </s>",
    "zz <|im_end|>\n<|im_start|>user\n 12",
]
QUESTION: list[Message] = [{"role": "user", "content": "Who is there?"}]
ENDING = [name for name in SPEAKERS if name != "endless"]
WITH_TEMPLATE = [name for name, one in SPEAKERS.items() if "chat_template" in one.tokenizer_config]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Run]]:
    """The folder of a speaker, and the run that it was imported as."""
    place = tmp_path_factory.mktemp("speakers")
    known: dict[str, tuple[Path, Run]] = {}

    def make(name: str) -> tuple[Path, Run]:
        if name not in known:
            folder = SPEAKERS[name].folder(place / name)
            known[name] = folder, import_model(folder, place / "lab")
        return known[name]

    return make


def _written(run: Run, to: str, place: Path) -> Path:
    """What an engine loads, without the check that is made of every export."""
    place.mkdir(exist_ok=True)
    return LAYOUTS[to].write(place, Subject.of(run).portable, LAYOUTS[to].dtypes[0])


def _said_by_transformers(folder: Path, messages: list[Message]) -> tuple[str, int]:
    """The answer, without special tokens, and how many tokens it took."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    ids = made[prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True), len(ids)


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("name", ENDING)
def test_what_goes_in_and_out_has_the_same_special_tokens(
    name: str, to: str, made: Callable[[str], tuple[Path, Run]], tmp_path: Path
) -> None:
    folder, run = made(name)
    source = layout_of(folder).read(folder)
    again = layout_of(written := _written(run, to, tmp_path)).read(written)
    for line in (*LINES, conversation(source) or "x"):
        assert again.tokenizer.encode_marked(line) == source.tokenizer.encode_marked(line)
    if source.chat_template:
        assert conversation(again) == conversation(source) != ""
    ours, theirs = again.marks, source.marks
    assert (ours.end, ours.pad) == (theirs.end, theirs.pad) and set(theirs.ends) <= set(ours.ends)
    if theirs.begin is not None:
        assert ours.begin == theirs.begin
    assert again.tokenizer.eos == source.tokenizer.eos


@pytest.mark.parametrize("name", ENDING)
def test_transformers_and_llama_cpp_make_the_ids_of_the_source(
    name: str, made: Callable[[str], tuple[Path, Run]], tmp_path: Path
) -> None:
    folder, run = made(name)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected = [theirs.encode(line) for line in LINES]
    llama = _written(run, "llama", tmp_path / "llama")
    out = transformers.AutoTokenizer.from_pretrained(llama, local_files_only=True)
    assert [out.encode(line) for line in LINES] == expected
    with LlamaCpp(_written(run, "gguf", tmp_path / "gguf"), 64) as engine:
        assert engine.tokenise(LINES, marked=True) == expected
        if theirs.chat_template:
            rendered = theirs.apply_chat_template(
                QUESTION, tokenize=False, add_generation_prompt=True
            )
            begin = theirs.bos_token or ""
            assert engine.render(QUESTION).removeprefix(begin) == rendered.removeprefix(begin)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_an_answer_ends_by_itself(
    name: str, made: Callable[[str], tuple[Path, Run]], tmp_path: Path
) -> None:
    folder, run = made(name)
    length = len(SAYS) + 1
    assert _said_by_transformers(folder, QUESTION) == (SAYS, length), "the source itself"
    for to in ("hf", "llama"):
        written = _written(run, to, tmp_path / to)
        assert _said_by_transformers(written, QUESTION) == (SAYS, length)
    with LlamaCpp(_written(run, "gguf", tmp_path / "gguf"), 128) as engine:
        said = engine.answer(QUESTION, lambda piece: None, n_predict=20, temperature=0)
        assert said == SAYS


def test_lists_and_sampling_of_the_source_stay(
    made: Callable[[str], tuple[Path, Run]], tmp_path: Path
) -> None:
    for name, expected in {
        "llama 3": {"eos_token_id": [1, 5, 2], "do_sample": True, "temperature": 0.6},
        "ends by number": {"eos_token_id": [0, 3], "top_k": 7},
        "own end": {"eos_token_id": 4, "bos_token_id": None},
        "mistral": {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 5},
    }.items():
        folder = _written(made(name)[1], "llama", tmp_path / name)
        generation = json.loads((folder / "generation_config.json").read_text())
        assert expected.items() <= generation.items() and "transformers_version" not in generation
        config = json.loads((folder / "config.json").read_text())
        assert config["eos_token_id"] == generation["eos_token_id"]
        source = json.loads((made(name)[0] / "tokenizer_config.json").read_text())
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        plain = {key: value for key, value in source.items() if isinstance(value, str)}
        assert plain.items() <= settings.items(), "as it was published"


@pytest.fixture(scope="module")
def tuned(made: Callable[[str], tuple[Path, Run]], tmp_path_factory: Any) -> Run:
    """The base with ChatML's tokens, fine-tuned for a few steps."""
    stem = made("chatml base")[1]
    at_once = stem.recipe.change(
        train={"precision": "fp32", "compile": False, "evaluate_tokens": 128, "device": "cpu"}
    )
    (stem.path / "recipe.toml").write_text(dump(at_once))
    data = tmp_path_factory.mktemp("data") / "chats.jsonl"
    lines = [json.dumps({"prompt": f"Who is {n}?", "completion": SAYS}) for n in range(40)]
    data.write_text("\n".join(lines))
    asked = Asked(lr=1e-7, tokens=512, batch=256, context=128)
    run, corpus = sft(open_run(stem.path), [data], asked)
    assert train(run, corpus).status == "done"
    return run


def test_what_was_learnt_to_close_an_answer_ends_it(tuned: Run, tmp_path: Path) -> None:
    length = len(SAYS) + 1
    for to, layout in LAYOUTS.items():
        if isinstance(layout, FolderLayout):
            folder = _written(tuned, to, tmp_path / to)
            generation = json.loads((folder / "generation_config.json").read_text())
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            assert generation["eos_token_id"] == [2, 0], "and the end that the source had"
            assert (settings["eos_token"], settings["bos_token"]) == ("<|im_end|>", "<|endoftext|>")
            assert settings["pad_token"] == "<|im_start|>", "or others would unlearn to end"
    for to in ("hf", "llama"):
        assert _said_by_transformers(tmp_path / to, QUESTION) == (SAYS, length)
    with LlamaCpp(_written(tuned, "gguf", tmp_path / "gguf"), 128) as engine:
        assert engine.answer(QUESTION, lambda piece: None, n_predict=20, temperature=0) == SAYS
        assert engine.ends_an_answer(2) and engine.ends_an_answer(0)
        assert not engine.ends_an_answer(1)
    own = OwnModel(tuned).answer(QUESTION, Sampling(temperature=0, most=20), lambda piece: None)
    assert own == SAYS


def test_a_branch_of_it_still_ends_so(tuned: Run, tmp_path: Path) -> None:
    """What comes after fine-tuning keeps its template and its ends, whatever it is trained on."""
    texts = [f"some words {i} " * 30 for i in range(60)]
    documents = {"more": Documents(read=lambda: iter(texts), origin="generated")}
    corpus = build(tuned.lab / "corpora/more", documents, tokenizer=tuned.tokenizer, workers=1)
    asked = upcycle.Asked(tokens=256, experts=2, lr=1e-7, batch=128, context=64)
    made = upcycle.upcycle(tuned, corpus, asked)
    assert train(made, corpus).status == "done"
    found = Subject.of(made).portable
    assert found.marks.end == 2 and found.marks.ends == (2, 0)
    assert found.chat_template == Subject.of(tuned).portable.chat_template


def test_an_end_with_its_own_name_also_ends_documents(
    made: Callable[[str], tuple[Path, Run]],
) -> None:
    for name, end in (("own end", "<|fin|>"), ("ends by number", "<|stop|>")):
        run = made(name)[1]
        texts = [f"some words {i} " * 30 for i in range(60)]
        documents = {"more": Documents(read=lambda texts=texts: iter(texts), origin="generated")}
        corpus = build(run.lab / "corpora" / name, documents, tokenizer=run.tokenizer, workers=1)
        tokenizer = corpus.tokenizer
        assert tokenizer.name(tokenizer.eos) == end and corpus.manifest.eos == tokenizer.eos
        train_ids = corpus.sources["more"].train.read(np.array([0]), 1000)[0]
        assert tokenizer.eos in train_ids.tolist()
        assert (corpus.folder / "tokenizer_config.json").exists()


def test_a_corrected_config_is_another_model(tmp_path: Path) -> None:
    """And the same one imported twice is one."""
    speaker = SPEAKERS["own end"]
    folder = speaker.folder(tmp_path / "m")
    first = import_model(folder, tmp_path / "lab")
    assert import_model(folder, tmp_path / "lab").id == first.id
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 4]}')
    second = import_model(folder, tmp_path / "lab")
    assert second.id != first.id
    assert Subject.of(second).portable.marks.ends == (0, 4)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|user|>"}))
    third = import_model(folder, tmp_path / "lab")
    assert third.id not in (first.id, second.id) and Subject.of(third).portable.marks.begin == 1


def test_an_end_that_is_no_token_is_refused(tmp_path: Path) -> None:
    speaker = SPEAKERS["own end"]
    wrong = dataclasses.replace(speaker, tokenizer_config={"eos_token": "<|finn|>"})
    with pytest.raises(InputError, match=r"tokenizer_config\.json: eos_token '<\|finn\|>'"):
        import_model(wrong.folder(tmp_path / "m"), tmp_path / "lab")
    assert not list((tmp_path / "lab").rglob("*"))


def _other_end(portable: PortableModel) -> PortableModel:
    first = Marks(begin=None, end=0, ends=(0,), pad=None)
    settings = named_marks(first, portable.tokenizer, portable.tokenizer_config)
    return dataclasses.replace(
        portable, tokenizer_config=settings, generation_config=mark_ids(first)
    )


def _no_beginning(portable: PortableModel) -> PortableModel:
    definition = json.loads(portable.tokenizer.definition) | {"post_processor": None}
    return dataclasses.replace(portable, tokenizer=Tokenizer(json.dumps(definition).encode()))


def _other_template(portable: PortableModel) -> PortableModel:
    template = portable.chat_template.replace("assistant", "model")
    settings = {**portable.tokenizer_config, "chat_template": template}
    return dataclasses.replace(portable, tokenizer_config=settings)


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "wrongly", "says"),
    [
        ("own end", _other_end, "but the engine goes on after <|fin|>"),
        ("mistral", _no_beginning, "with special tokens for 0 of 21"),
        ("llama 3", _other_template, "the chat template is ANOTHER"),
    ],
)
def test_the_check_of_an_export_sees_it(
    name: str,
    wrongly: Callable[[PortableModel], PortableModel],
    says: str,
    to: str,
    made: Callable[[str], tuple[Path, Run]],
    tmp_path: Path,
) -> None:
    run, layout, dtype = made(name)[1], LAYOUTS[to], LAYOUTS[to].dtypes[0]
    portable = Subject.of(run).portable
    held = documentation(portable.tokenizer, 32)
    few = dataclasses.replace(held, windows=held.windows[:2], lines=held.lines[:20])
    written = layout.write(tmp_path, wrongly(portable), dtype)
    found = verify(layout, dtype, written, portable, few)
    assert not found.good and says in str(found)


def test_an_export_that_would_not_end_is_not_left(
    made: Callable[[str], tuple[Path, Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FolderLayout.write

    def write(self: Any, folder: Path, portable: PortableModel, dtype: str) -> Path:
        return right(self, folder, _other_end(portable), dtype)

    run = made("own end")[1]
    monkeypatch.setattr(FolderLayout, "write", write)
    with pytest.raises(Disagreement, match=r"the engine goes on after <\|fin\|>"):
        export(run, "llama", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "generation", "expected"),
    [
        ({}, {}, Marks(begin=None, end=4, ends=(4,), pad=None)),
        ({"eos_token": "</s>"}, {}, Marks(begin=None, end=0, ends=(0,), pad=None)),
        (
            {"eos_token": "</s>"},
            {"eos_token_id": [4]},
            Marks(begin=None, end=0, ends=(4, 0), pad=None),
        ),
        (
            {"eos_token": None},
            {"eos_token_id": 2, "pad_token_id": 3},
            Marks(begin=None, end=2, ends=(2,), pad=3),
        ),
        # stale numbers, of another vocabulary
        (
            {},
            {"eos_token_id": [128001, -1, True, "2"], "bos_token_id": 128000},
            Marks(begin=None, end=4, ends=(4,), pad=None),
        ),
        (
            {"bos_token": {"content": "<|user|>"}, "pad_token": "none"},
            {},
            Marks(begin=1, end=4, ends=(4,), pad=None),
        ),
    ],
)
def test_marks_are_what_the_files_say(
    settings: dict[str, Any], generation: dict[str, Any], expected: Marks, tmp_path: Path
) -> None:
    definition = (SPEAKERS["own end"].folder(tmp_path / "m") / "tokenizer.json").read_bytes()
    assert marks_of(Tokenizer(definition, end="<|fin|>"), settings, generation) == expected
