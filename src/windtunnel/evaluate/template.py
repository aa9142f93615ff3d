"""How a conversation is written for a model that has learnt to answer."""

from collections.abc import Callable, Sequence

from windtunnel.data.chat_format import Message

# The conversation as text, with special tokens, up to where the answer begins.
Template = Callable[[Sequence[Message]], str]
