"""Packages that only shipping needs: they are heavy, and come with `windtunnel[ship]`."""

import importlib
from typing import Any

from windtunnel.errors import InputError


def package(name: str) -> Any:
    """The package, imported now. Raises InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
        raise InputError(f"this needs {name}: pip install 'windtunnel[ship]'") from None
