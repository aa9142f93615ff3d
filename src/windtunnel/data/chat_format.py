"""How a conversation becomes tokens: one format a tokenizer, as a template that engines read and
as ids to train on and to sample from. All say the same.

The content of a message never makes a special token: whoever writes `<|assistant|>` writes
thirteen characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from windtunnel.data.tokenizer import END, Tokenizer
from windtunnel.errors import InputError

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True)
class ChatFormat:
    """`opening`: the text before a message of each role, a special token and perhaps plain text
    behind it; `closing`: the special token behind every message, and `after`, plain text behind
    that.
    """

    opening: dict[str, tuple[str, str]]
    closing: str
    after: str = ""

    @property
    def template(self) -> str:
        """The Jinja template that transformers and llama.cpp read, as text."""
        roles = "".join(
            f"{{%- {'if' if i == 0 else 'elif'} message['role'] == '{role}' %}}{{{{ {_quoted(token + text)} }}}}"
            for i, (role, (token, text)) in enumerate(self.opening.items())
        )
        reply = _quoted("".join(self.opening["assistant"]))
        return (
            f"{{%- for message in messages %}}{roles}{{%- endif %}}"
            f"{{{{ message['content'] + {_quoted(self.closing + self.after)} }}}}{{%- endfor %}}"
            f"{{%- if add_generation_prompt %}}{{{{ {reply} }}}}{{%- endif %}}"
        )

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the answer begins."""
        token, text = self.opening["assistant"]
        return [
            *self.render(tokenizer, messages)[0].tolist(),
            tokenizer.id(token),
            *tokenizer.encode(text).tolist(),
        ]

    def render(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a whole conversation, int64 (n,), and which of them the assistant says, bool
        (n,): the content of its messages and the token that closes them.
        """
        parts: list[tuple[np.ndarray, bool]] = []
        closing, after = np.array([tokenizer.id(self.closing)]), tokenizer.encode(self.after)
        for message in messages:
            token, text = self.opening[message["role"]]
            said = message["role"] == "assistant"
            # what the assistant says is encoded by itself: so it was said, behind the opening
            texts = [text, message["content"]] if said else [text + message["content"]]
            *opened, content = tokenizer.encode_batch(texts)
            parts += [(np.array([tokenizer.id(token)]), False), *((ids, False) for ids in opened)]
            parts += [(content, said), (closing, said), (after, False)]
        learnt = [np.full(len(ids), said) for ids, said in parts]
        return np.concatenate([ids.astype(np.int64) for ids, _ in parts]), np.concatenate(learnt)


OURS = ChatFormat({role: (f"<|{role}|>", "") for role in ("user", "assistant", "system")}, END)
CHATML = ChatFormat(
    {role: ("<|im_start|>", f"{role}\n") for role in ("user", "assistant", "system")},
    "<|im_end|>",
    "\n",
)


def format_of(tokenizer: Tokenizer) -> ChatFormat:
    """The format whose special tokens this tokenizer has. Raises InputError where it has none's."""
    for known in (OURS, CHATML):
        needed = {token for token, _ in known.opening.values()} | {known.closing}
        if all(_knows(tokenizer, token) for token in needed):
            return known
    raise InputError(
        "this tokenizer has no special tokens for a conversation, such as <|user|> and <|assistant|>"
    )


def _knows(tokenizer: Tokenizer, token: str) -> bool:
    try:
        return tokenizer.id(token) >= 0
    except InputError:
        return False


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"
