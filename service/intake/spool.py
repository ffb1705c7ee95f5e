"""What is put aside until the whole of a batch is known to be valid: in memory while it is little, then in a file."""

from collections.abc import Iterator
from contextlib import suppress
from tempfile import SpooledTemporaryFile

from penstock.errors import Unavailable

IN_MEMORY_BYTES = 2 * 1024 * 1024


class Spool:
    """Lines, written one after the other, then read from the first on. The file has no name: nobody need delete it."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - `close` does

    def write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            raise Unavailable(f"The batch cannot be put aside in a temporary file: {error.strerror}.") from error

    def __iter__(self) -> Iterator[bytes]:
        """One reader at a time."""
        self._file.seek(0)
        for line in self._file:
            yield line[:-1]

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()
