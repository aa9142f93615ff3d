"""A model with all that another tool needs to run it: what every layout writes and reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.recipe import Model
from windtunnel.ship.marks import Marks, marks_of


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
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    """What generation_config.json says: how it is sampled, and where an answer ends."""

    @cached_property
    def marks(self) -> Marks:
        """The tokens around a text and behind an answer. Raises InputError where the tokenizer
        lacks its own end.
        """
        return marks_of(self.tokenizer, self.tokenizer_config, self.generation_config)

    @property
    def chat_template(self) -> str:
        """The Jinja text of the template, empty where there is none."""
        template = self.tokenizer_config.get("chat_template") or ""
        # Some have several by name; engines take this one where they are not told another.
        if isinstance(template, list):
            named = {one.get("name"): one.get("template") for one in template}
            template = named.get("default") or ""
        return template
