"""A conversation by the template that a tokenizer brought, against transformers' own rendering."""

import json
from pathlib import Path

import pytest

from windtunnel.data.chat import build_chat
from windtunnel.data.chat_format import Message, format_of
from windtunnel.data.jinja_format import JinjaFormat, brought
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError

# In the manner of Llama 3: headers, an end of each turn, and a beginning of the text.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('a system message comes first') }}{% endif %}"
    "{{ '<|head|>' + message['role'] + '<|/head|>\n\n' + message['content'] | trim + '<|turn|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
NAMES = ("<|begin|>", "<|head|>", "<|/head|>", "<|turn|>", "<|endoftext|>")
TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "wind?"},
    {"role": "assistant", "content": "loud  and clear"},
    {"role": "user", "content": "tun"},
    {"role": "assistant", "content": "nel"},
]


@pytest.fixture
def folder(corpus: Corpus, tmp_path: Path) -> Path:
    """A tokenizer as people bring one, with a template beside it."""
    definition = json.loads((corpus.folder / "tokenizer.json").read_text())
    plain = definition["added_tokens"][0]
    first = len(definition["model"]["vocab"])
    marks = [{**plain, "id": first + place, "content": name} for place, name in enumerate(NAMES)]
    for one in definition["added_tokens"]:
        definition["model"]["vocab"].pop(one["content"], None)
        one["content"] = f"<|unused{one['id']}|>"
        definition["model"]["vocab"][one["content"]] = one["id"]
    definition["added_tokens"] += marks
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    settings = {
        "chat_template": TEMPLATE,
        "bos_token": "<|begin|>",
        "eos_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_ids_are_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    form = format_of(tokenizer)
    assert isinstance(form, JinjaFormat) and form.template == TEMPLATE
    ids, _ = form.render(tokenizer, TALK)
    assert ids.tolist() == theirs.apply_chat_template(TALK, return_dict=False)
    asked = theirs.apply_chat_template(TALK[:2], add_generation_prompt=True, return_dict=False)
    assert form.encode(tokenizer, TALK[:2]) == asked


def test_what_the_assistant_says_is_learnt_and_what_closes_it(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    form = format_of(tokenizer)
    ids, learnt = form.render(tokenizer, TALK)
    said, now = [], []
    for token, is_said in zip(ids.tolist(), learnt.tolist(), strict=True):
        if is_said:
            now.append(token)
        elif now:
            said.append(tokenizer.decode(now))
            now = []
    assert [*said, tokenizer.decode(now)] == ["loud  and clear<|turn|>", "nel<|turn|>"]
    assert form.ends(tokenizer) == {tokenizer.id("<|turn|>")}


def test_a_corpus_by_it_keeps_it(folder: Path) -> None:
    """What is trained from it has the template still; what the template refuses is malformed."""
    lines = [[{"role": "user", "content": f"{n}"}, TALK[2]] for n in range(40)]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in lines))
    made = build_chat(folder / "corpora", [data], folder / "tokenizer.json", 32)
    assert made.manifest.packing and made.manifest.packing.template == TEMPLATE
    kept = Tokenizer.load(made.folder / "tokenizer.json")
    assert format_of(kept).template == TEMPLATE
    lines[3][0] = {"role": "user", "content": "say <|turn|> now"}
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in lines))
    tokenizer = folder / "tokenizer.json"
    with pytest.raises(InputError, match=r"conversation 4: a message holds '<\|turn\|>'"):
        build_chat(folder / "corpora", [data], tokenizer, 32)
    made = build_chat(folder / "corpora", [data], tokenizer, 32, max_bad=0.1)
    assert made.manifest.sources["chat"].malformed == 1


def test_a_template_that_raises_is_one_line(folder: Path) -> None:
    form = JinjaFormat(template="{{ raise_exception('no conversations here') }}")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    with pytest.raises(InputError, match="the chat template: no conversations here"):
        form.render(tokenizer, TALK)
    with pytest.raises(InputError, match="the chat template: "):
        JinjaFormat(template="{% for %}").render(tokenizer, TALK)
    anew = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="anew at every turn"):
        JinjaFormat(template=anew).render(tokenizer, TALK)


def test_where_there_is_none() -> None:
    assert brought({}) is None and brought({"chat_template": ""}) is None
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    found = brought({"chat_template": several, "bos_token": {"content": "<s>"}})
    assert found and found.template == "d" and found.names == (("bos_token", "<s>"),)
