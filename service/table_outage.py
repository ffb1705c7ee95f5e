"""Remembers for some seconds that the table was unavailable, so that nothing is sent for batches that it cannot take.

A batch that one call can send is sent before it is written. While only the table is unavailable, each such request
would leave messages on the queue, which consumers drop when it is back.
"""

from collections.abc import Awaitable, Callable
from typing import ParamSpec

from penstock.clock import Clock
from penstock.errors import Misconfigured, Unavailable

P = ParamSpec("P")

WRITE_FIRST_SECONDS = 10.0  # after a call that failed. It is longer than clients wait before they repeat a request


class TableOutage:
    """Watches the calls that write a batch, and knows if one of them has failed in the last seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_at = float("-inf")

    @property
    def has_failed_lately(self) -> bool:
        """Return True if a call has failed a moment ago, so that the table should be asked before anything is sent."""
        return self._clock.monotonic() - self._failed_at < WRITE_FIRST_SECONDS

    async def watch(self, call: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Make a call to the table, and remember if the table is unavailable, does not exist or denies access."""
        try:
            await call(*args, **kwargs)
        except (Unavailable, Misconfigured):
            self._failed_at = self._clock.monotonic()
            raise
