"""Decompress the body of a response, and notice if it was cut off. Pure.

An HTTP client finds out that a body is shorter than its Content-Length. It cannot notice that a compressed stream in a
body ends too early, for example because a proxy has lost its upstream.
"""

import zlib
from collections.abc import Callable
from typing import Protocol

from penstock import zstd

try:
    import brotli  # type: ignore[import-untyped, import-not-found, unused-ignore]
except ImportError:
    brotli = None

MOST_ENCODINGS = 3
SLACK_BYTES = 65_536  # compressed data may be a little larger than its content

_MOST_MEMBERS = 1_000  # of a body: each costs time, even if it is empty
_GZIP = 16 + zlib.MAX_WBITS
_ALIASES = {"x-gzip": "gzip", "x-compress": "compress"}  # RFC 9110, section 8.4.1
_NOT_SUPPORTED = frozenset({"compress", "br"})  # names that are known, but that nothing here decompresses


class CutOff(Exception):
    """The compressed body ended too early."""


class Undecodable(Exception):
    """The body is not what its Content-Encoding says. The message says why."""


class Unsupported(Exception):
    """Nothing here decompresses this Content-Encoding. The message names it."""


class _Part(Protocol):
    """A gzip member, a zstd frame, or a whole stream of another kind."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Brotli:
    unused_data = b""

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()

    @property
    def eof(self) -> bool:
        return bool(self._brotli.is_finished())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        content = bytearray()
        while len(content) < max_length:
            piece = self._brotli.process(data, output_buffer_limit=max_length - len(content))
            if not piece:
                break
            content += piece
            data = b""
        return bytes(content)


def _deflate(content: bytes) -> _Part:
    """Return a decompressor for zlib's format, or for raw deflate data, which some servers send instead."""
    is_zlib = len(content) >= 2 and content[0] & 0x0F == 8 and int.from_bytes(content[:2], "big") % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


_MEMBERS: dict[str, Callable[[bytes], _Part]] = {
    "gzip": lambda _: zlib.decompressobj(_GZIP),
    "deflate": _deflate,
    "zstd": lambda _: zstd.content_decompressor(),
}
_ERRORS: tuple[type[Exception], ...] = (zlib.error, zstd.ZstdError)
if hasattr(getattr(brotli, "Decompressor", None), "can_accept_more_data"):  # older versions cannot limit their output
    _MEMBERS["br"] = lambda _: _Brotli()
    _ERRORS = (*_ERRORS, brotli.error)

ACCEPTED = ", ".join(_MEMBERS)


def read_encodings(header: str) -> list[str]:
    """Return the encodings of a body, in the order in which they were applied. Raises Unsupported.

    Names that are no encodings, such as `utf-8`, are ignored: servers that send them do not compress.
    """
    named = [_ALIASES.get(name, name) for one in header.lower().split(",") if (name := one.strip())]
    for name in named:
        if name in _NOT_SUPPORTED - _MEMBERS.keys():
            raise Unsupported(f"the Content-Encoding {name}")
    encodings = [name for name in named if name in _MEMBERS]
    if len(encodings) > MOST_ENCODINGS:
        raise Unsupported(f"more than {MOST_ENCODINGS} encodings")
    return encodings


def decode(content: bytes, encodings: list[str], most_bytes: int, *, is_cut: bool) -> tuple[bytes, bool]:
    """Undo the encodings. Return the content, at most `most_bytes` of it, and whether that is only its beginning.

    If `is_cut`, the content given is only the beginning, too. Raises CutOff or Undecodable.
    """
    for encoding in reversed(encodings):
        content, is_cut = _decode_one(content, encoding, most_bytes + SLACK_BYTES, is_cut=is_cut)
    return content[:most_bytes], is_cut or len(content) > most_bytes


def _decode_one(content: bytes, encoding: str, most_bytes: int, *, is_cut: bool) -> tuple[bytes, bool]:
    decoded = bytearray()
    for _ in range(_MOST_MEMBERS):
        member = _MEMBERS[encoding](content)
        try:
            decoded += member.decompress(content, most_bytes + 1 - len(decoded))
        except _ERRORS as error:
            raise Undecodable(f"it is not valid {encoding}") from error
        if len(decoded) > most_bytes:
            return bytes(decoded), True
        if not member.eof:
            if is_cut:
                return bytes(decoded), True
            raise CutOff
        content = member.unused_data
        if not content.strip(b"\0") or encoding == "deflate":
            return bytes(decoded), is_cut
    raise Undecodable(f"it has more than {_MOST_MEMBERS:,} parts")
