"""The engines that people load exports with, asked for the log-probabilities of held-out tokens,
the token ids of lines of text, a conversation by the chat template, and where an answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.ship.packages import package

if TYPE_CHECKING:
    import numpy as np

    from windtunnel.data.chat_format import Message
    from windtunnel.ship.held_out import HeldOut

_FORCED = 1e9  # a bias in logits that leaves no other choice
_MORE = 3  # tokens that an answer may have, where its first should end it


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an engine is asked of what was written."""

    held: HeldOut
    """Text to score, and lines to tokenise as text."""
    marked: Sequence[str]
    """Texts to tokenise as programs do it: special tokens written in them are these tokens, and
    what belongs around a text is put there."""
    messages: Sequence[Message]
    """A conversation to render; none for a model without a chat template."""
    ends: Sequence[int]
    """The tokens that should end an answer."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an engine makes of held-out text, of special tokens and of a conversation."""

    engine: str
    """Its name and version."""
    log_probabilities: np.ndarray
    """Of every scored token of each window, (n, T), nats."""
    ids: list[list[int]]
    """Of each line of the text; empty where the engine has no tokenizer."""
    marked: list[list[int]]
    """Of each text with special tokens."""
    rendered: str
    """The conversation by the chat template; empty where none was asked for."""
    ends: list[int]
    """Those of the tokens that ended an answer in which each was forced to come first."""


def by_transformers(folder: Path, asked: Asked) -> Scores:
    """Scores of a folder by transformers, in fp32. Raises InputError where it is not installed."""
    transformers = package("transformers")
    import torch

    from windtunnel.ship.forward import windows_scored

    # else it warns of every line that is longer than the model's context
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    # dropout is off in evaluation mode alone
    model.eval()
    held = asked.held
    scores = windows_scored(lambda ids: model(ids).logits, held.windows, held.skip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # A special token written in a line is text, as it is for us.
    ids = [
        tokenizer.encode(line, add_special_tokens=False, split_special_tokens=True)
        for line in held.lines
    ]
    rendered = ""
    if asked.messages:
        rendered = tokenizer.apply_chat_template(
            list(asked.messages), tokenize=False, add_generation_prompt=True
        )
    return Scores(
        engine=f"transformers {transformers.__version__} {type(model).__name__}",
        log_probabilities=scores,
        ids=ids,
        marked=[tokenizer.encode(text) for text in asked.marked],
        rendered=rendered,
        ends=[end for end in asked.ends if _ends_an_answer(model, end)],
    )


def by_llama_cpp(file: Path, asked: Asked) -> Scores:
    """Scores of a GGUF file by llama.cpp. Raises InputError where it is not installed or does not
    load the file.
    """
    from windtunnel.ship.llama_cpp import apart, asked_of

    return apart(asked_of, file, asked)


def _ends_an_answer(model: Any, token: int) -> bool:
    """Whether transformers stops at a token that it is forced to say first."""
    import torch

    prompt = torch.tensor([[token]])
    said = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=_MORE,
        do_sample=False,
        sequence_bias=[[[token], _FORCED]],
    )
    return said.shape[1] == prompt.shape[1] + 1
