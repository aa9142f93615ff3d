"""How a conversation becomes tokens: each tokenizer has one format, as a template that engines read
and as ids to train on and to sample from, which agree.

The content of a message never becomes a special token: whoever writes `<|assistant|>` in a message
has written thirteen characters. A role that is none of the three is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypedDict

import numpy as np

from windtunnel.data.tokenizer import END, Tokenizer
from windtunnel.errors import InputError

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation, as chat templates have it."""

    role: Role
    content: str


@dataclass(frozen=True)
class ChatFormat:
    """What is written around the messages of a conversation."""

    opening: dict[str, tuple[str, str]]
    """By role, what comes before a message: a special token, and plain text that may be empty."""
    closing: str
    """The special token after every message."""
    after: str = ""
    """Plain text after that."""
    before: tuple[str, ...] = ()
    """The special tokens before a conversation: those that the tokenizer puts before every text."""

    @property
    def special(self) -> set[str]:
        """The special tokens that a tokenizer must have."""
        return {token for token, _ in self.opening.values()} | {self.closing}

    @property
    def template(self) -> str:
        """The Jinja template that transformers and llama.cpp read, as text."""
        branches = []
        for role, (token, text) in self.opening.items():
            word = "elif" if branches else "if"
            condition = f"{{%- {word} message['role'] == '{role}' %}}"
            branches.append(f"{condition}{{{{ {_quoted(token + text)} }}}}")
        before = f"{{{{ {_quoted(''.join(self.before))} }}}}" if self.before else ""
        reply = _quoted("".join(self.opening["assistant"]))
        return (
            f"{before}{{%- for message in messages %}}{''.join(branches)}{{%- else %}}"
            f"{_refusal('the role is none of ' + ', '.join(self.opening))}{{%- endif %}}{_CONTENT}"
            f"{{{{ {_quoted(self.closing + self.after)} }}}}{{%- endfor %}}"
            f"{{%- if add_generation_prompt %}}{{{{ {reply} }}}}{{%- endif %}}"
        )

    def fits(self, tokenizer: Tokenizer) -> bool:
        """Whether the tokenizer has all special tokens of this format."""
        return all(tokenizer.has(token) for token in self.special)

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's answer begins."""
        token, text = self.opening["assistant"]
        return [
            *self.render(tokenizer, messages)[0].tolist(),
            tokenizer.id(token),
            *tokenizer.encode(text).tolist(),
        ]

    def ends(self, tokenizer: Tokenizer) -> set[int]:
        """The token that closes an answer."""
        return {tokenizer.id(self.closing)}

    def render(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a whole conversation, int64 (n,), and which of them a model learns to say,
        bool (n,): the content of the assistant's messages and the token that closes each.
        """
        closing = np.array([tokenizer.id(self.closing)])
        after = tokenizer.encode(self.after)
        before = [tokenizer.id(token) for token in self.before]
        parts: list[tuple[np.ndarray, bool]] = [(np.array(before, np.int64), False)]
        for message in messages:
            token, text = self.opening[message["role"]]
            said = message["role"] == "assistant"
            # The assistant's words are encoded apart from the opening, as they are when a model
            # says them after it.
            texts = [text, message["content"]] if said else [text + message["content"]]
            *opened, content = tokenizer.encode_batch(texts)
            parts.append((np.array([tokenizer.id(token)]), False))
            parts += [(ids, False) for ids in opened]
            parts += [(content, said), (closing, said), (after, False)]
        ids = np.concatenate([part.astype(np.int64) for part, _ in parts])
        learnt = np.concatenate([np.full(len(part), said) for part, said in parts])
        return ids, learnt


OURS = ChatFormat({role: (f"<|{role}|>", "") for role in ("user", "assistant", "system")}, END)
CHATML = ChatFormat(
    {role: ("<|im_start|>", f"{role}\n") for role in ("user", "assistant", "system")},
    "<|im_end|>",
    "\n",
)


class Format(Protocol):
    """How a tokenizer writes conversations."""

    @property
    def template(self) -> str:
        """The Jinja template that transformers and llama.cpp read, as text."""
        ...

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's answer begins."""
        ...

    def render(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a whole conversation, int64 (n,), and which of them a model learns to say,
        bool (n,).
        """
        ...

    def ends(self, tokenizer: Tokenizer) -> set[int]:
        """The tokens that close an answer."""
        ...


def format_of(tokenizer: Tokenizer) -> Format:
    """The format whose special tokens this tokenizer has, or else the template that it brought.
    Raises InputError where there is neither.
    """
    from windtunnel.data.jinja_format import brought

    known = find_format(tokenizer) or brought(tokenizer.settings)
    if known is None:
        raise InputError(
            "this tokenizer has no special tokens for a conversation, such as <|user|> and "
            "<|assistant|>, and it brought no chat template"
        )
    return known


def find_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The first format whose special tokens this tokenizer has, if any."""
    form = next((form for form in (OURS, CHATML) if form.fits(tokenizer)), None)
    if form is None or not tokenizer.before:
        return form
    return replace(form, before=tuple(tokenizer.name(token) for token in tokenizer.before))


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"


def _refusal(why: str) -> str:
    """What ends a rendering with an error."""
    return f"{{{{ raise_exception({_quoted(why)}) }}}}"


# A message's content: a text, or parts that are texts, as OpenAI's interface has them.
_CONTENT = (
    "{%- if message['content'] is string %}{{ message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'text' %}{{ part['text'] }}"
    f"{{%- else %}}{_refusal('a part of a message is no text')}{{%- endif %}}{{%- endfor %}}"
    "{%- endif %}"
)
