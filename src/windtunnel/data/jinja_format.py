"""A conversation as tokens by the chat template that a tokenizer brought: Jinja in a sandbox, as
transformers renders it, for tokenizers whose special tokens belong to no format of `chat_format`.

What the assistant says is where the text up to its turn, with the beginning of an answer behind it,
goes on; the last special token of the turn closes it, and is learnt too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import numpy as np

from windtunnel.data.chat_format import Message
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class JinjaFormat:
    """What a tokenizer_config.json says of conversations."""

    template: str
    names: tuple[tuple[str, str], ...] = ()
    """What else the template may ask for, such as bos_token."""

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's answer begins. Raises InputError
        where the template refuses it.
        """
        return tokenizer.spans(self._text(tokenizer, messages, answering=True))[0].tolist()

    def render(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a whole conversation, int64 (n,), and which of them a model learns to say,
        bool (n,). Raises InputError where the template refuses it, and where an answer cannot be
        told from what stands around it.
        """
        if not messages:
            return np.zeros(0, np.int64), np.zeros(0, bool)
        whole = self._text(tokenizer, messages)
        said = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._text(tokenizer, messages[:number], answering=True)
            until = self._text(tokenizer, messages[: number + 1])
            if not (whole.startswith(before) and whole.startswith(until)):
                raise InputError(
                    "the chat template writes what was said before anew at every turn, so what is "
                    "an answer cannot be told"
                )
            said.append((len(before), _closed(tokenizer, until, len(before))))
        ids, begins, ends = tokenizer.spans(whole)
        learnt = np.zeros(len(ids), bool)
        for first, last in said:
            learnt |= (begins >= first) & (ends <= last) & (ends > begins)
        return ids, learnt

    def ends(self, tokenizer: Tokenizer) -> set[int]:
        """The tokens that close an answer."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        answered: list[Message] = [*asked, {"role": "assistant", "content": "a"}]
        ids, learnt = self.render(tokenizer, answered)
        special = {tokenizer.id(name) for name in tokenizer.special}
        return {int(token) for token in ids[learnt] if int(token) in special}

    def _text(
        self, tokenizer: Tokenizer, messages: Sequence[Message], answering: bool = False
    ) -> str:
        for message in messages:
            for name in tokenizer.special:
                if name in message["content"]:
                    raise InputError(f"a message holds {name!r}, which is a special token here")
        return render(self.template, messages, answering, **dict(self.names))


def _closed(tokenizer: Tokenizer, text: str, begins: int) -> int:
    """Where the answer that ends a text is closed: behind its last special token, or at the end."""
    places = [text.rfind(name) + len(name) for name in tokenizer.special if name in text[begins:]]
    return max(places, default=len(text))


def brought(settings: dict[str, Any]) -> JinjaFormat | None:
    """The format in a tokenizer_config.json; None where it has no template."""
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, of which one is for plain conversations
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        return None
    names = []
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = settings.get(key)
        # a name, or an object that holds the name
        named_so = token.get("content") if isinstance(token, dict) else token
        if isinstance(named_so, str):
            names.append((key, named_so))
    return JinjaFormat(template=template, names=tuple(names))


def render(template: str, messages: Sequence[Message], answering: bool = True, **names: str) -> str:
    """The conversation as text; with `answering`, up to where an answer begins. `names`: what else
    a template may ask for, such as bos_token. Raises InputError where the template refuses the
    conversation, or is none.
    """
    # torch needs it too, so it is there
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
        return made.render(messages=list(messages), add_generation_prompt=answering, **names)
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
