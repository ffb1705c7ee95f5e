"""Splits a stream into lines, and keeps no more than one incomplete line in memory. Pure."""

import re
from collections.abc import Iterator

from penstock.errors import LimitPassed

_FROM_TEXT_TO_LINE_BREAK = re.compile(rb"\S[^\n]*")


class Lines:
    """`feed` it every piece of the stream, then call `end`. Both yield lines with their numbers, without blank lines.

    The numbers start at 1. Both methods raise LimitPassed. Blank lines are only counted and never become objects,
    because a small compressed stream can have millions of them.
    """

    def __init__(self, *, most_bytes: int, most_lines: int) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._count = 0  # of complete lines
        self._incomplete = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        complete, line_break, rest = piece.rpartition(b"\n")
        if line_break:
            yield from self._split(bytes(self._incomplete + complete))
            self._incomplete.clear()
        self._incomplete += rest
        self._check(len(self._incomplete))
        if self._count > self._most_lines:
            detail = f"The stream has more than {self._most_lines:,} lines, including blank lines."
            raise LimitPassed(detail, limit={"maxLines": self._most_lines})

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield the last line, if it has no line break."""
        yield from self.feed(b"\n")

    def _split(self, complete: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a text that ends in front of a line break."""
        place = 0
        for match in _FROM_TEXT_TO_LINE_BREAK.finditer(complete):
            start = max(place, complete.rfind(b"\n", place, match.start()) + 1)
            self._count += complete.count(b"\n", place, start)
            self._check(match.end() - start)
            self._count += 1
            yield self._count, complete[start : match.end()]
            place = match.end() + 1
        self._count += complete.count(b"\n", place) + (place <= len(complete))

    def _check(self, size: int) -> None:
        if size > self._most_bytes:
            detail = f"Line {self._count + 1:,} is longer than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
