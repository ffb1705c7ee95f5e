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

    @property
    def why_empty(self) -> str:
        return "Write one operation per line."

    def _split(self, complete: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a text that ends in front of a line break."""
        most_bytes = self._most_bytes
        for line in complete.split(b"\n"):
            if line and not line.isspace():
                if len(line) > most_bytes:
                    self._check(len(line))
                yield self._count + 1, line
            self._count += 1

    def _check(self, size: int) -> None:
        if size > self._most_bytes:
            detail = f"Line {self._count + 1:,} is longer than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
