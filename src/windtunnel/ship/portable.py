"""A model with all that another tool needs to run it: what every layout writes and reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.recipe import Model


@dataclass(frozen=True, kw_only=True)
class PortableModel:
    """A model on its way out of a lab, or into one."""

    name: str
    model: Model
    weights: Mapping[str, Tensor]
    """By this project's names. Going out they are fp32; coming in they are as published."""
    context: int
    """Tokens of the longest sequence that the model was made for."""
    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    """What tokenizer_config.json says, with the chat template if there is one."""

    @property
    def chat_template(self) -> str:
        """The Jinja text of the template, empty where there is none."""
        return self.tokenizer_config.get("chat_template") or ""
