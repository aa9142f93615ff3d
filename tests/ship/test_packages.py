"""A package that only some commands need: what is said where it is missing."""

import sys
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.ship.packages import package


def test_a_package_that_is_missing_is_named_and_one_that_is_broken_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert package("json") is sys.modules["json"]
    with pytest.raises(InputError, match="no_such_package"):
        package("no_such_package")
    (tmp_path / "lacks_another.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no_such_package"):
        package("lacks_another")
