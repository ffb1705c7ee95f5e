"""Splits a stream into lines, and keeps no more than one incomplete line in memory. Pure."""

from collections.abc import Iterator

from penstock.errors import LimitPassed


class Lines:
    """`feed` it every piece of the stream, then call `end`. Both yield lines with their numbers, without blank lines.

    The numbers start at 1. Both methods raise LimitPassed.
    """

    def __init__(self, *, most_bytes: int, most_lines: int, first_line: int = 0, first_byte: int = 0) -> None:
        """Create a reader. It can go on after `first_line` lines, which end at `first_byte`."""
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._count = first_line  # of complete lines
        self.read_bytes = first_byte  # of the stream, up to the end of the line that was yielded last
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
    def line_count(self) -> int:
        """Return the number of lines up to the one that was yielded last."""
        return self._count

    @property
    def why_empty(self) -> str:
        return "Write one operation per line."

    def _split(self, complete: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a text that ends in front of a line break."""
        most_bytes = self._most_bytes
        for line in complete.split(b"\n"):
            is_blank = not line or line.isspace()
            if not is_blank and len(line) > most_bytes:
                self._check(len(line))
            self._count += 1
            self.read_bytes += len(line) + 1
            if not is_blank:
                yield self._count, line

    def _check(self, size: int) -> None:
        if size > self._most_bytes:
            detail = f"Line {self._count + 1:,} is longer than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
