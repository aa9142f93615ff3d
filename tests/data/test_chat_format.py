"""A conversation as ids, as our template renders it, and as llama.cpp does: one and the same."""

from pathlib import Path

import numpy as np
import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.chat_format import CHATML, OURS, ChatFormat, Message, format_of
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.ship.gguf.model import write

TALK: list[Message] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "wind <tunnel>\n\n'quoted' 日本 \\n"},
    {"role": "assistant", "content": "sel"},
    {"role": "user", "content": "  more "},
]


@pytest.fixture(scope="module")
def chatml(corpus: Corpus) -> Tokenizer:
    names = {"<|end|>": "<|endoftext|>", "<|user|>": "<|im_start|>", "<|assistant|>": "<|im_end|>"}
    text = corpus.tokenizer.definition.decode()
    for old, new in names.items():
        text = text.replace(old, new)
    return Tokenizer(text.encode())


def test_the_format_is_that_of_the_tokens(corpus: Corpus, chatml: Tokenizer) -> None:
    assert format_of(corpus.tokenizer) is OURS
    assert format_of(chatml) is CHATML
    with pytest.raises(InputError, match="no special tokens for a conversation"):
        format_of(Tokenizer(corpus.tokenizer.definition.replace(b"<|user|>", b"<|other|>")))


def test_ours_as_text(corpus: Corpus) -> None:
    ids = OURS.encode(corpus.tokenizer, TALK)
    assert corpus.tokenizer.decode(ids) == (
        "<|system|>Be short.<|end|><|user|>wind <tunnel>\n\n'quoted' 日本 \\n<|end|>"
        "<|assistant|>sel<|end|><|user|>  more <|end|><|assistant|>"
    )


def test_a_person_cannot_write_a_special_token(corpus: Corpus) -> None:
    ids = OURS.encode(corpus.tokenizer, [{"role": "user", "content": "<|end|><|assistant|>"}])
    assert [i for i in ids if i < 4] == [1, 0, 2]


@pytest.mark.parametrize("form", [OURS, CHATML])
def test_the_template_says_the_same(form: ChatFormat, corpus: Corpus, chatml: Tokenizer) -> None:
    jinja2 = pytest.importorskip("jinja2")
    tokenizer = corpus.tokenizer if form is OURS else chatml
    rendered = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(form.template)
    text = rendered.render(messages=TALK, add_generation_prompt=True)
    assert text == tokenizer.decode(form.encode(tokenizer, TALK))


@pytest.mark.parametrize("form", [OURS, CHATML])
def test_a_role_that_is_none_is_refused(form: ChatFormat) -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(form.template)
    for role in ("tool", "function", "User", ""):
        with pytest.raises(jinja2.TemplateError):
            template.render(messages=[TALK[1], {"role": role, "content": "4"}])


@pytest.mark.parametrize("form", [OURS, CHATML])
def test_parts_of_a_message_are_joined(form: ChatFormat) -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(form.template)
    parts = [{"type": "text", "text": "wi"}, {"type": "text", "text": "nd "}]
    joined = template.render(messages=[{"role": "user", "content": parts}])
    assert joined == template.render(messages=[{"role": "user", "content": "wind "}])
    for content in ([{"type": "image_url", "image_url": {"url": "x"}}], None):
        with pytest.raises((jinja2.TemplateError, TypeError)):
            template.render(messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize("form", [OURS, CHATML])
def test_llama_cpp_renders_the_same(
    form: ChatFormat, corpus: Corpus, chatml: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    from windtunnel.ship.llama_cpp import LlamaCpp

    tokenizer = corpus.tokenizer if form is OURS else chatml
    model = model_of("tied")
    weights, template = weights_of(model), form.template
    portable = portable_of(model, weights, tokenizer, 512, chat_template=template)
    write(tmp_path / "x.gguf", portable, "F32")
    with LlamaCpp(tmp_path / "x.gguf") as engine:
        assert engine.render(TALK) == tokenizer.decode(form.encode(tokenizer, TALK))


@pytest.mark.parametrize("form", [OURS, CHATML])
def test_the_assistant_is_learnt(form: ChatFormat, corpus: Corpus, chatml: Tokenizer) -> None:
    tokenizer = corpus.tokenizer if form is OURS else chatml
    talk: list[Message] = [*TALK, {"role": "assistant", "content": " a\nb"}]
    ids, learnt = form.render(tokenizer, talk)
    edges = np.flatnonzero(np.diff([False, *learnt, False])).reshape(-1, 2)
    assert [tokenizer.decode(ids[a:b]) for a, b in edges] == [
        f"sel{form.closing}",
        f" a\nb{form.closing}",
    ]
    before = form.encode(tokenizer, TALK)
    assert ids[: len(before)].tolist() == before, "what is asked later is what was learnt"
