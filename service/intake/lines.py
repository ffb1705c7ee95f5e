"""Splits a stream into lines, and keeps no more than one incomplete line in memory. Pure."""

from collections.abc import Iterator

from penstock.errors import LimitPassed


class Lines:
    """`feed` it every piece of the stream, then call `end`. Both yield lines with their numbers, without blank lines.

    The numbers start at 1. Both methods raise LimitPassed.
    """

    def __init__(self, *, most_bytes: int, most_lines: int) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._count = 0  # of complete lines
        self._incomplete = b""

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        *lines, self._incomplete = (self._incomplete + piece).split(b"\n")
        for line in lines:
            self._check(line)
            self._count += 1
            if line and not line.isspace():
                yield self._count, line
        self._check(self._incomplete)
        if self._count > self._most_lines:
            detail = f"The stream has more than {self._most_lines:,} lines, including blank lines."
            raise LimitPassed(detail, limit={"maxLines": self._most_lines})

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield the last line, if it has no line break."""
        yield from self.feed(b"\n")

    def _check(self, line: bytes) -> None:
        if len(line) > self._most_bytes:
            detail = f"Line {self._count + 1:,} is longer than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
