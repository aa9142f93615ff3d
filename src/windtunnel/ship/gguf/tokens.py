"""What every vocabulary of GGUF has: tokens, and their kinds."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

# kinds of token (gguf.TokenType)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class Kind(Enum):
    """What a token's text is: whole characters of UTF-8, bytes of one, or no text."""

    WHOLE = auto()
    PART = auto()
    SPECIAL = auto()


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True))
class Vocabulary(ABC):
    """What GGUF holds of a tokenizer. Raises pydantic.ValidationError for what is of another
    type.
    """

    model: ClassVar[str]
    """What GGUF calls this kind of tokenizer."""
    tokens: Sequence[str]
    types: Sequence[int]
    """The kind of each token: NORMAL, CONTROL, ..."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Metadata beside the tokens and their types, by the names of gguf.GGUFWriter's methods
        without `add_`.
        """

    @abstractmethod
    def steps(self) -> dict[str, Any]:
        """`normalizer`, `pre_tokenizer`, `decoder` and `model` of a tokenizer.json, the model
        without its type. Raises InputError where it has no equal there.
        """

    @abstractmethod
    def kinds(self) -> list[Kind]:
        """The kind of each token's text."""

    @property
    def in_text(self) -> dict[str, int]:
        """The tokens that the model of a tokenizer.json has, and their ids. Special ones are there
        and among the added ones, as when they are trained.
        """
        kinds = (NORMAL, UNKNOWN, CONTROL, BYTE)
        numbered = enumerate(zip(self.tokens, self.types, strict=True))
        return {token: index for index, (token, kind) in numbered if kind in kinds}
