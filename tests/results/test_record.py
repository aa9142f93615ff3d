"""A record is what its file says, and a file that it can't be read from is refused by its field."""

import json
from pathlib import Path

import pytest

from windtunnel.errors import InputError
from windtunnel.results.record import Record, SparseRecord


class Inner(Record):
    """A part of a record."""

    loss: float
    """nats/token."""


class Outer(Record):
    """A record with parts."""

    name: str
    """Anything."""
    inner: tuple[Inner, ...] = ()
    """Parts of it."""


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Outer(name="a", inner=(Inner(loss=0.1), Inner(loss=2.0)))
    written.write(tmp_path / "new" / "record.json", make_folder=True)
    assert Outer.read(tmp_path / "new" / "record.json") == written


def test_what_a_newer_version_added_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"name": "a", "added": 1}')
    assert Outer.read(tmp_path / "record.json") == Outer(name="a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"inner": []}', "name: missing"),
        ('{"name": "a", "inner": [{"loss": 1}, {}]}', "inner.1.loss: missing"),
        ('{"name": "a", "inner": [{"loss": "low"}]}', "inner.0.loss: .*got 'low'"),
        ('{"name": "a"', "damaged: "),
        ("", "damaged: "),
    ],
)
def test_a_damaged_file_is_refused_by_its_field(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InputError, match=f"record.json: {says}"):
        Outer.read(tmp_path / "record.json")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"record.json: missing or damaged"):
        Outer.read(tmp_path / "record.json")


def test_numbers_and_text_are_written_as_json_always_wrote_them() -> None:
    written = Outer(name="Größe", inner=(Inner(loss=1e-5), Inner(loss=1e20)))
    assert written.to_json() == json.dumps(
        {"name": "Größe", "inner": [{"loss": 1e-05}, {"loss": 1e20}]}, indent=1
    )


class Sparse(SparseRecord):
    """A record with an optional key."""

    name: str
    """Anything."""
    loss: float | None = None
    """nats/token, once it is known."""


def test_an_optional_key_stands_where_something_was_said_of_it(tmp_path: Path) -> None:
    assert json.loads(Sparse(name="a").to_json()) == {"name": "a"}
    assert json.loads(Sparse(name="a", loss=None).to_json()) == {"name": "a", "loss": None}
    later = Sparse(name="a").model_copy(update={"loss": 2.0})
    later.write(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == {"name": "a", "loss": 2.0}
    assert Sparse.read(tmp_path / "record.json") == later


def test_every_field_says_what_it_is() -> None:
    assert Inner.model_fields["loss"].description == "nats/token."
