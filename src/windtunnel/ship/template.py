"""A conversation that every chat template takes, and how a model's own writes it."""

from windtunnel.data.chat_format import Message
from windtunnel.data.jinja_format import render
from windtunnel.errors import InputError
from windtunnel.ship.portable import PortableModel

# What every template takes: turns of a user and an assistant, with spaces that it might strip.
TALK: tuple[Message, ...] = (
    {"role": "user", "content": "What is new?"},
    {"role": "assistant", "content": "Nothing much.\n"},
    {"role": "user", "content": " And  now?"},
)


def conversation(portable: PortableModel) -> str:
    """`TALK` by the model's chat template; empty where it has none, or one that refuses it."""
    if not portable.chat_template:
        return ""
    marks, tokenizer = portable.marks, portable.tokenizer
    begin = "" if marks.begin is None else tokenizer.name(marks.begin)
    names = {"bos_token": begin, "eos_token": tokenizer.name(marks.end)}
    try:
        return render(portable.chat_template, TALK, answering=True, **names)
    except InputError:
        # some want more than a conversation, such as tools
        return ""
