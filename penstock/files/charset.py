"""The charset of a file. Pure."""

import codecs
from codecs import BOM_UTF8

from penstock.charsets import find_codec
from penstock.errors import Flaw, InvalidRequest

UTF_8 = "utf-8"
# Browsers, and most programs, write Windows-1252 and call it ISO-8859-1. The two differ only in control characters.
_AS_WRITTEN = {"latin-1": "cp1252"}
# In these, the byte of a line break may be a part of another character.
_NOT_BY_LINES = frozenset({"utf-16", "utf-16-le", "utf-16-be", "iso2022_jp"})


class UnknownCharset(ValueError):
    """No file can be read in this charset."""


def codec_of(charset: str) -> str:
    """Return Python's name of a charset. Raises UnknownCharset."""
    codec = find_codec(charset)
    if codec is None:
        known = "utf-8, utf-16, windows-1252 or iso-8859-15"
        raise UnknownCharset(f"The charset {charset[:40]!r} is not supported. Use for example {known}.")
    return _AS_WRITTEN.get(codec, codec)


def can_be_split_into_lines(codec: str) -> bool:
    return codec not in _NOT_BY_LINES


class Transcoder:
    """`feed` it every piece of a file, then call `end`. Both return UTF-8. Both raise InvalidRequest with the line.

    A file with the byte order mark of UTF-8 stays as it is.
    """

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._start: bytes | None = b""  # None once it is known whether there is such a mark
        self._is_utf_8 = False
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._lines = 0  # that are complete

    def feed(self, piece: bytes) -> bytes:
        if self._start is not None:
            piece = self._start + piece
            if len(piece) < len(BOM_UTF8):
                self._start = piece
                return b""
            self._start, self._is_utf_8 = None, piece.startswith(BOM_UTF8)
        return piece if self._is_utf_8 else self._encoded(piece, final=False)

    def end(self) -> bytes:
        return b"" if self._is_utf_8 else self._encoded(self._start or b"", final=True)

    def _encoded(self, piece: bytes, *, final: bool) -> bytes:
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeError as error:
            raise not_in_charset(self._codec, self._lines + self._line_breaks_before(error) + 1) from None
        self._lines += text.count("\n")
        return text.encode()

    def _line_breaks_before(self, error: UnicodeError) -> int:
        """Return how many come before what cannot be decoded. If a byte order mark is missing, there are none."""
        if not isinstance(error, UnicodeDecodeError):
            return 0
        return bytes(error.object[: error.start]).decode(error.encoding, "replace").count("\n")


def not_in_charset(codec: str, line: int) -> InvalidRequest:
    detail = f"The line cannot be read as {codec}. Name the charset in which the file was saved."
    return InvalidRequest([Flaw("", detail, line)])
