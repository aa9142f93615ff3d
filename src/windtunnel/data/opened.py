"""The bytes of a file or of standard input as readers want them: no longer compressed, in UTF-8,
and with their beginning to look at. How a file is compressed and encoded is decided by what it
holds, never by its name.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from windtunnel.errors import InputError
from windtunnel.files import named

HEAD = 64 << 10  # bytes of the beginning that are looked at
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")  # what names of compressed files end in

_BLOCK = 128 << 10  # bytes read at a time
_WIDEST_WINDOW = 1 << 31  # bytes that `zstd --long=31` looks back
_LONGEST_MAGIC = 10  # bytes
# The longer mark first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file that is read: once, from its beginning to its end."""

    name: str
    """What people are told."""
    stream: BinaryIO
    head: bytes
    """The first bytes of `stream`, at most HEAD; all of them where they are fewer."""
    path: Path | None
    """Where the very bytes of `stream` lie; None where they are compressed, or come in a pipe."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A file, or standard input where the path is `-`. Inside as well, InputError is raised for
    what can't be read to its end.
    """
    name = "standard input" if str(path) == "-" else named(path)
    if str(path) == "-" and sys.stdin is None:
        raise InputError("standard input is closed; expected text in it")
    try:
        with contextlib.ExitStack() as stack:
            if str(path) == "-":
                raw: BinaryIO = sys.stdin.buffer
            else:
                raw = stack.enter_context(path.open("rb"))
            magic = raw.read(_LONGEST_MAGIC)
            whole = _rewound(magic, raw)
            plain = _decompressed(whole, magic, name)
            head = plain.read(HEAD)
            text = _rewound(head, plain)
            encoding = _encoding(head)
            as_it_is = plain is whole and encoding is None and path.is_file()
            if encoding:
                recoded = _stream(_recoded(text, encoding))
                head = recoded.read(HEAD)
                text = _rewound(head, recoded)
            yield Opened(name=name, stream=text, head=head, path=path if as_it_is else None)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise InputError(
            f"{name}: cannot be read to its end ({error}); expected a whole, readable file"
        ) from error


def _decompressed(stream: BinaryIO, magic: bytes, name: str) -> BinaryIO:
    """What a stream that begins with `magic` holds; itself where it is not compressed."""
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    # Parallel compressors begin with a frame that is to be skipped.
    if magic.startswith(b"\x28\xb5\x2f\xfd") or magic[1:4] == b"\x2a\x4d\x18":
        return _stream(_zstandard(stream, name))
    if magic.startswith(b"BZh") and magic[4:10] == b"1AY&SY":
        return bz2.BZ2File(stream)  # type: ignore[return-value]
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)  # type: ignore[return-value]
    return stream


def _zstandard(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Frame after frame. zstandard's own reader takes a file that was cut short for one that
    ended; this one refuses it. Raises OSError for what is no zstandard.
    """
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{name}: reading .zst needs `pip install 'windtunnel[corpus]'`") from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WIDEST_WINDOW)
    frame: Any = None
    unread = b""  # behind the end of a frame: the next one
    while chunk := unread or stream.read(_BLOCK):
        frame = frame or decompressor.decompressobj()
        try:
            yield frame.decompress(chunk)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        unread = b""
        if frame.eof:
            unread, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the compressed data ends too early")


def _encoding(head: bytes) -> str | None:
    """What the text is to be read as before it is UTF-8; None where it may be that already."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    # Latin text of 16 bits without a mark: every other byte is zero.
    pairs = len(head) // 2
    even, odd = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if odd * 2 > pairs and even * 20 < pairs:
        return "utf-16-le"
    if even * 2 > pairs and odd * 20 < pairs:
        return "utf-16-be"
    return None


def _recoded(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """The same text in UTF-8. Raises OSError where it is not in this encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := stream.read(_BLOCK):
            yield decoder.decode(chunk).encode()
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise OSError(f"not {encoding.upper()}: {error}") from error


def _rewound(head: bytes, stream: BinaryIO) -> BinaryIO:
    """A stream whose `head` was read already, from its beginning on."""
    return _stream(chain([head], iter(lambda: stream.read(_BLOCK), b"")))


def _stream(pieces: Iterable[bytes]) -> BinaryIO:
    return io.BufferedReader(_Pieces(pieces), _BLOCK)


class _Pieces(io.RawIOBase):
    """Pieces of bytes, one behind the other, as a stream."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = iter(pieces)
        self._ready = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; 0 at the end of the last piece."""
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._ready = piece
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
