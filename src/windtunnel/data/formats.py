"""What a file holds, and how it is read: plain text, JSON lines, JSON, or parquet. A file is taken
for what it begins like; its name decides only where that leaves it open.
"""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from windtunnel.choices import Table
from windtunnel.data.opened import COMPRESSED, HEAD, Opened
from windtunnel.errors import InputError

LONGEST = 64 << 20  # bytes that one line, or one document of plain text, may have

_LOOKED_AT = 8  # lines by which JSON lines are known
_MARK = b"\xef\xbb\xbf"  # of UTF-8: some programs put it before the text
_BLANK = b" \t\r\n"
_STRING = rb'"(?:[^"\\]|\\.)*"'
_OBJECT = re.compile(rb"\{\s*" + _STRING + rb"\s*:")
_ARRAY = re.compile(rb"\[\s*(?:\{\s*" + _STRING + rb"\s*:|" + _STRING + rb"\s*[,\]])")
_ROWS = 1024  # of a parquet file at a time: a whole column may not fit into memory


@dataclass(frozen=True)
class Malformed:
    """A document that could not be read."""

    where: str
    why: str


@dataclass(frozen=True)
class Record:
    """A value of JSON, or a row of a table."""

    where: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of one kind are known and read."""

    name: str
    help: str
    """What such a file is taken for."""
    endings: tuple[str, ...]
    """Of such files' names; those of compressed ones have one more."""
    begins: Callable[[bytes], bool]
    """Whether what begins so can be nothing else."""
    texts: Callable[[Opened, str], Iterator[str | Malformed]]
    """Its documents, in the field of this name where it has fields."""
    records: Callable[[Opened], Iterator[Record | Malformed]] | None = None
    """Its values, where it has any."""

    def is_named(self, name: str) -> bool:
        """Whether a file of this name would be one."""
        name = name.lower()
        for ending in COMPRESSED:
            name = name.removesuffix(ending)
        return name.endswith(self.endings)


def format_of(file: Opened, asked: str | None = None) -> Format:
    """What a file is taken for: what was `asked` for, else what it begins like, else what its name
    says, else plain text. Raises InputError for a name that is no format's.
    """
    if asked:
        return FORMATS.choose(asked, f"--format {asked}")
    begins = (one for one in FORMATS.values() if one.begins(file.head))
    is_named = (one for one in FORMATS.values() if one.is_named(file.name))
    return next(begins, None) or next(is_named, TEXT)


# -- plain text


def _plain(file: Opened, text_field: str) -> Iterator[str | Malformed]:
    """One document; past LONGEST it is cut at line ends."""
    if b"\0" in file.head:
        yield Malformed(file.name, "not text: there are zero bytes in it")
        return
    line = 1
    while block := file.stream.read(LONGEST):
        if len(block) == LONGEST:
            # On to the end of the line, so that no word is cut.
            block += file.stream.readline(LONGEST)
        try:
            # A byte order mark can only stand at the very beginning.
            text = block.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = line + block.count(b"\n", 0, error.start)
            yield Malformed(f"{file.name} line {bad}", "not UTF-8")
        else:
            if text.strip():
                yield text
        line += block.count(b"\n")


# -- JSON lines


def _begins_lines(head: bytes) -> bool:
    """Whether the first line that is not blank holds an object, or most of the first ones do."""
    lines = _beginning(head).split(b"\n")
    if len(head) == HEAD:
        if len(lines) == 1:  # a line that is longer than what was looked at
            return _OBJECT.match(lines[0]) is not None
        lines.pop()  # a line that may be cut
    shown = [line for line in lines if line.strip(_BLANK)]
    objects = [_is_object(line) for line in shown[:_LOOKED_AT]]
    if not objects:
        return False
    lists = len(shown) > 1 and _holds_objects(shown[0])
    return objects[0] or lists or sum(objects) * 2 > len(objects)


def _is_object(line: bytes) -> bool:
    """Whether a line is a JSON object with something in it."""
    value = _value(line) if line.lstrip(_BLANK + _MARK).startswith(b"{") else None
    return isinstance(value, dict) and bool(value)


def _holds_objects(line: bytes) -> bool:
    """Whether a line is a JSON list of objects."""
    value = _value(line) if line.startswith(b"[") else None
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _value(line: bytes) -> Any:
    found = _json_line(line, "")
    return found.value if isinstance(found, Record) else None


def _json_lines(file: Opened) -> Iterator[Record | Malformed]:
    number = 0
    stream = file.stream
    while line := stream.readline(LONGEST + 1):
        number += 1
        where = f"{file.name} line {number}"
        if len(line) > LONGEST and not line.endswith(b"\n"):
            # The rest of the line is passed over, and never held as a whole.
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield Malformed(where, f"the line is longer than {LONGEST >> 20} MiB")
        elif line.strip(_BLANK + _MARK):
            yield _json_line(line, where)


def _json_line(line: bytes, where: str) -> Record | Malformed:
    try:
        return Record(where, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return Malformed(where, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return Malformed(where, f"not JSON ({error})")


# -- JSON


def _begins_json(head: bytes) -> bool:
    """Whether it begins as an object over several lines, or as a list of objects or texts."""
    beginning = _beginning(head)
    if beginning.startswith(b"["):
        return _ARRAY.match(beginning) is not None or _value(beginning) == []
    return _OBJECT.match(beginning) is not None


def _json_values(file: Opened) -> Iterator[Record]:
    """What stands in the file: the elements of a list one by one, or the values that stand one
    behind the other. Raises InputError at what is no JSON, since nothing says where the next value
    would begin.
    """
    text = _Ahead(file)
    number = 0
    while (mark := text.mark()) != "":
        if mark != "[":
            number += 1
            yield Record(f"{file.name} value {number}", text.value())
            continue
        text.skip()
        while text.mark() != "]":
            number += 1
            yield Record(f"{file.name} element {number}", text.value())
            if text.mark() == ",":
                text.skip()
            elif text.mark() != "]":
                raise InputError(
                    f"{file.name}: not JSON after element {number}: expected ',' or ']'"
                )
        text.skip()


class _Ahead:
    """A text of JSON, of which no more is held than the value that is read."""

    _DECODER = json.JSONDecoder()

    def __init__(self, file: Opened) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def mark(self) -> str:
        """The next character that is not blank; none at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(HEAD):
                return ""

    def skip(self) -> None:
        """Go past the character that `mark` gave."""
        self._at += 1

    def value(self) -> Any:
        """The value that begins at the next character that is not blank. Raises InputError."""
        self.mark()
        size = HEAD
        while True:
            try:
                value, end = self._DECODER.raw_decode(self._text, self._at)
                # A number may go on in what was not read yet.
                if end < len(self._text) or not self._more(size):
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > LONGEST or not self._more(size):
                    raise InputError(f"{self._file.name}: not JSON ({error})") from None
            size *= 2

    def _more(self, size: int) -> bool:
        """Read on, by some bytes; False where there are none."""
        read = self._file.stream.read(size)
        try:
            text = self._decoder.decode(read, final=not read)
        except UnicodeDecodeError:
            raise InputError(f"{self._file.name}: not UTF-8") from None
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(read)


# -- parquet


def _parquet(file: Opened) -> Any:
    """The file as pyarrow reads it. Raises InputError."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{file.name}: reading .parquet needs `pip install 'windtunnel[corpus]'`"
        ) from None
    try:
        return parquet.ParquetFile(file.path or io.BytesIO(file.stream.read()))
    except pyarrow.ArrowException as error:
        raise _not_parquet(file, error) from error


def _not_parquet(file: Opened, error: Exception) -> InputError:
    return InputError(f"{file.name}: not a whole parquet file ({str(error).splitlines()[0]})")


def _batches(file: Opened, table: Any, columns: list[str] | None) -> Iterator[Any]:
    import pyarrow

    try:
        yield from table.iter_batches(_ROWS, columns=columns)
    except pyarrow.ArrowException as error:
        raise _not_parquet(file, error) from error


def _rows(file: Opened) -> Iterator[Record | Malformed]:
    number = 0
    for batch in _batches(file, _parquet(file), None):
        for value in batch.to_pylist():
            number += 1
            yield Record(f"{file.name} row {number}", value)


def _column(file: Opened, text_field: str) -> Iterator[str | Malformed]:
    table = _parquet(file)
    if text_field not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise InputError(f"{file.name}: no column {text_field!r}; it has {names}")
    number = 0
    for batch in _batches(file, table, [text_field]):
        for value in batch.column(0):
            number += 1
            where = f"{file.name} row {number}"
            try:
                yield _text(value.as_py(), where, text_field)
            except UnicodeDecodeError:
                yield Malformed(where, "not UTF-8")


# -- a text among other fields


def _texts(
    records: Callable[[Opened], Iterator[Record | Malformed]],
) -> Callable[[Opened, str], Iterator[str | Malformed]]:
    """The documents of a file of records: what a field of each holds."""

    def read(file: Opened, text_field: str) -> Iterator[str | Malformed]:
        for found in records(file):
            if isinstance(found, Malformed):
                yield found
            elif not isinstance(found.value, dict) or text_field not in found.value:
                why = f"expected an object with the field {text_field!r}"
                yield Malformed(found.where, why)
            else:
                yield _text(found.value[text_field], found.where, text_field)

    return read


def _text(value: object, where: str, text_field: str) -> str | Malformed:
    """What a field holds, if it is text of whole characters."""
    if not isinstance(value, str) or not value.strip():
        return Malformed(where, f"the field {text_field!r} holds no text")
    try:
        # JSON may escape half of a pair, which no UTF-8 can hold.
        value.encode()
    except UnicodeEncodeError:
        return Malformed(
            where, f"the field {text_field!r} holds half of a surrogate pair, which is no character"
        )
    return value


def _beginning(head: bytes) -> bytes:
    """From the first byte on that is neither blank nor a byte order mark."""
    return head.lstrip(_BLANK + _MARK)


TEXT = Format(
    name="text",
    help="plain text",
    endings=(".txt", ".text", ".md", ".rst", ".tex", ".py"),
    begins=lambda head: False,
    texts=_plain,
)
FORMATS = Table(
    "format",
    (
        TEXT,
        Format(
            name="parquet",
            help="parquet",
            endings=(".parquet",),
            begins=lambda head: head.startswith(b"PAR1"),
            texts=_column,
            records=_rows,
        ),
        Format(
            name="jsonl",
            help="JSON lines",
            endings=(".jsonl", ".ndjson", ".jsonlines"),
            begins=_begins_lines,
            texts=_texts(_json_lines),
            records=_json_lines,
        ),
        Format(
            name="json",
            help="JSON",
            endings=(".json",),
            begins=_begins_json,
            texts=_texts(_json_values),
            records=_json_values,
        ),
    ),
)
