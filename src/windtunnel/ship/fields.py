"""Numbers and truth values that a file says of a model, checked as they are read."""

import math
from collections.abc import Mapping
from typing import Any

from windtunnel.errors import InputError, did_you_mean

_REQUIRED: Any = object()


class Fields:
    """Settings out of a config.json or out of GGUF's metadata, which anybody may have written."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        """`where`: the file, with which every error begins."""
        self.config = config
        self.where = where

    def number(self, key: str, default: Any = _REQUIRED, whole: bool = False) -> Any:
        """A number above zero, float or `whole`; `default` where the field is missing or null.
        Raises InputError.
        """
        value = self.config.get(key)
        if value is None and default is _REQUIRED:
            raise InputError(f"{self.where}: {key}: missing{did_you_mean(key, self.config)}")
        if value is None:
            return default
        # bool is a kind of int in Python, and 8.0 is a whole number in JSON
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if not right or not 0 < value < math.inf or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"{self.where}: {key}: expected {kind} above zero, got {value!r}")
        return int(value) if whole else float(value)

    def whole(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number above zero, as `number` gives it."""
        return self.number(key, default, whole=True)

    def yes(self, key: str, default: bool) -> bool:
        """A truth value; `default` where the field is missing or null. Raises InputError."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{self.where}: {key}: expected true or false, got {value!r}")
        return default if value is None else value
