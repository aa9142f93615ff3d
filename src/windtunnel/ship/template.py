"""A chat template rendered as transformers renders it: Jinja in a sandbox, with what templates may
call beside it.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.ship.packages import package
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
        return render(portable.chat_template, TALK, **names)
    except InputError:
        # some want more than a conversation, such as tools
        return ""


def render(template: str, messages: Sequence[Message], **names: str) -> str:
    """The conversation as text, up to where the answer begins. `names`: what else a template may
    ask for, such as bos_token. Raises InputError where the template refuses the conversation, or is
    none.
    """
    package("jinja2")
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        made = environment.from_string(template)
        return made.render(messages=list(messages), add_generation_prompt=True, **names)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"the chat template: {error}") from None


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, **how: Any) -> str:
    # Jinja's own would write <, > and & as escapes.
    return json.dumps(value, ensure_ascii=False, **how)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
