"""Buffers data until the whole batch has been validated: a little of it in memory, more of it in a temporary file."""

from collections.abc import Iterator
from contextlib import suppress
from tempfile import SpooledTemporaryFile

from penstock.errors import Unavailable

IN_MEMORY_BYTES = 2 * 1024 * 1024


class Spool:
    """Lines that are first written and then read. The file has no name, so it never has to be deleted."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - `close` does

    def write(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            raise Unavailable(f"The batch cannot be buffered in a temporary file: {error.strerror}.") from error

    def __iter__(self) -> Iterator[bytes]:
        """Yield all lines from the first one on. Only one reader may be active at a time."""
        self._file.seek(0)
        for line in self._file:
            yield line[:-1]

    def close(self) -> None:
        with suppress(OSError):  # data that could not be written is not needed any more
            self._file.close()
