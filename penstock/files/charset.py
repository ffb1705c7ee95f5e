"""The charset of a file. Pure."""

import codecs
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

from penstock.charsets import find_codec
from penstock.errors import Flaw, InvalidRequest

UTF_8 = "utf-8"
# Browsers, and most programs, write a charset of Windows under the name of a standard that has fewer characters.
_AS_WRITTEN = {"latin-1": "cp1252", "shift_jis": "cp932", "euc_kr": "cp949"}
_UTF_16 = "utf-16"
_MARKS = (BOM_UTF16_LE, BOM_UTF16_BE)
_SAMPLE_BYTES = 1_024  # of a file in UTF-16 without a mark: almost all have an ASCII character in them
_NO_MARK = "The file has no byte order mark. If it is UTF-16, send it with charset=utf-16-le or charset=utf-16-be."
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

    A file with the byte order mark of UTF-8 stays as it is. UTF-16 may have no byte order mark.
    """

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._start: bytes | None = b""  # None once it is known how to decode the file
        self._is_utf_8 = False
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._lines = 0  # that are complete

    def feed(self, piece: bytes) -> bytes:
        if self._start is not None:
            piece = self._start + piece
            if len(piece) < self._needed(piece):
                self._start = piece
                return b""
            self._begin(piece)
        return piece if self._is_utf_8 else self._encoded(piece, final=False)

    def end(self) -> bytes:
        start = self._start or b""
        if self._start is not None:
            self._begin(start)
        return start if self._is_utf_8 else self._encoded(start, final=True)

    def _needed(self, start: bytes) -> int:
        """Return how many bytes of the file show how to decode it."""
        is_marked = self._codec != _UTF_16 or start.startswith((*_MARKS, BOM_UTF8))
        return len(BOM_UTF8) if is_marked else _SAMPLE_BYTES

    def _begin(self, start: bytes) -> None:
        self._start, self._is_utf_8 = None, start.startswith(BOM_UTF8)
        if self._codec == _UTF_16 and not start.startswith(_MARKS) and (codec := _utf_16_of(start)):
            self._decoder = codecs.getincrementaldecoder(codec)()

    def _encoded(self, piece: bytes, *, final: bool) -> bytes:
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeError as error:
            if not isinstance(error, UnicodeDecodeError):  # Python's codec found no byte order mark
                raise not_in_charset(self._codec, 1, _NO_MARK) from None
            raise not_in_charset(self._codec, self._lines + _line_breaks_before(error) + 1) from None
        self._lines += text.count("\n")
        return text.encode()


def _line_breaks_before(error: UnicodeDecodeError) -> int:
    """Return how many line breaks come before what cannot be decoded."""
    return bytes(error.object[: error.start]).decode(error.encoding, "replace").count("\n")


def _utf_16_of(sample: bytes) -> str | None:
    """Return which UTF-16 a text is in. Return None if its bytes do not show it.

    An ASCII character has a zero byte, which is the second byte in little endian, and the first one in big endian.
    """
    first, second = sample[::2].count(0), sample[1::2].count(0)
    if first == second:
        return None
    return "utf-16-le" if second > first else "utf-16-be"


def not_in_charset(codec: str, line: int, hint: str = "") -> InvalidRequest:
    details = [f"The line cannot be read as {codec}.", hint, "Name the charset in which the file was saved."]
    return InvalidRequest([Flaw("", " ".join(filter(None, details)), line)])
