"""Cuts a stream into its lines, without ever holding more than one line that is not whole. Pure."""

from collections.abc import Iterator

from penstock.errors import LimitPassed


class Lines:
    """`feed` it in pieces, then `end`: both give numbered lines, counted from 1, blank ones left out."""

    def __init__(self, *, most_bytes: int, most_lines: int) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._count = 0  # of whole lines
        self._begun = b""  # what there is of the next one

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Raises LimitPassed."""
        *lines, self._begun = (self._begun + piece).split(b"\n")
        for line in lines:
            self._check(line)
            self._count += 1
            if line and not line.isspace():
                yield self._count, line
        self._check(self._begun)
        if self._count > self._most_lines:
            detail = f"The stream has more than {self._most_lines:,} lines, blank ones included."
            raise LimitPassed(detail, limit={"maxLines": self._most_lines})

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line need not end with a line break."""
        yield from self.feed(b"\n")

    def _check(self, line: bytes) -> None:
        if len(line) > self._most_bytes:
            detail = f"Line {self._count + 1:,} has more than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
