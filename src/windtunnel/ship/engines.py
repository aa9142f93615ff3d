"""The engines that people load exports with, asked for the log-probabilities of held-out tokens
and the token ids of lines of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.ship.packages import package

if TYPE_CHECKING:
    import numpy as np

    from windtunnel.ship.held_out import HeldOut


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an engine makes of held-out text."""

    engine: str
    """Its name and version."""
    log_probabilities: np.ndarray
    """Of every token but the first of each window, (n, T), nats."""
    ids: list[list[int]]
    """Of each line of the text; empty where the engine has no tokenizer."""


def by_transformers(folder: Path, held: HeldOut) -> Scores:
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
    scores = windows_scored(lambda ids: model(ids).logits, held.windows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # A special token written in a line is text, as it is for us.
    ids = [
        tokenizer.encode(line, add_special_tokens=False, split_special_tokens=True)
        for line in held.lines
    ]
    name = f"transformers {transformers.__version__} {type(model).__name__}"
    return Scores(engine=name, log_probabilities=scores, ids=ids)


def by_llama_cpp(file: Path, held: HeldOut) -> Scores:
    """Scores of a GGUF file by llama.cpp. Raises InputError where it is not installed or does not
    load the file.
    """
    from windtunnel.ship.llama_cpp import apart, scored, version

    log_probabilities, ids = apart(scored, file, held.windows, held.lines)
    return Scores(engine=version(), log_probabilities=log_probabilities, ids=ids)
