"""Cuts a stream into its lines, without ever holding more than one line that is not whole. Pure."""

from collections.abc import Iterator

from penstock.errors import LimitPassed


class Lines:
    """`feed` it in pieces, then `end`: both give numbered lines, counted from 1, blank ones left out."""

    def __init__(self, *, most_bytes: int, most_lines: int) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._number = 1  # of the line that is not whole
        self._begun: list[bytes] = []  # what there is of it
        self._begun_bytes = 0

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Raises LimitPassed."""
        *ends, begun = piece.split(b"\n")
        for end in ends:
            self._add(end)
            if self._number > self._most_lines:
                detail = f"The stream has more than {self._most_lines:,} lines, blank ones included."
                raise LimitPassed(detail, limit={"maxLines": self._most_lines})
            line = b"".join(self._begun)
            if line and not line.isspace():
                yield self._number, line
            self._number += 1
            self._begun, self._begun_bytes = [], 0
        self._add(begun)

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line need not end with a line break."""
        yield from self.feed(b"\n")

    def _add(self, part: bytes) -> None:
        self._begun.append(part)
        self._begun_bytes += len(part)
        if self._begun_bytes > self._most_bytes:
            detail = f"Line {self._number:,} has more than {self._most_bytes:,} bytes."
            raise LimitPassed(detail, limit={"maxLineBytes": self._most_bytes})
