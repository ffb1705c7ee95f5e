"""Reports to the parent process how far a consumer has come, as one byte for each step through a pipe.

The parent reads the pipe when the consumer has ended. So it can tell a consumer that cannot start from one that was
killed while it ran operations.
"""

import os
from contextlib import suppress

STARTED = b"s"  # it receives chunks
WORKED = b"w"  # it has received a chunk, and its handlers may have run


class Progress:
    """Writes each step once to the pipe `descriptor`. Does nothing without a descriptor."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._reported = b""

    def report(self, step: bytes) -> None:
        """Report a step, STARTED or WORKED. May be called again for the same step."""
        if self._descriptor is None or step in self._reported:
            return
        self._reported += step
        with suppress(OSError):  # the parent is gone: nobody reads the pipe any more
            os.write(self._descriptor, step)
