"""Logs that something fails once, and once more when it works again. In between, it is repeated without a word."""

from typing import Any

from penstock.errors import PenstockError
from penstock.telemetry import Event, get_log


class Outage:
    """An outage of something that a consumer repeats: a receive, a heartbeat, a sweep or a step of a chunk."""

    def __init__(self, event: Event, *, is_error: bool = False) -> None:
        self._event = event
        self._is_error = is_error
        self._failures = 0

    def report(self, error: PenstockError, **fields: Any) -> None:
        """Count a failure, and log it if it is the first one since this worked."""
        self._failures += 1
        if self._failures == 1:
            tell = get_log().error if self._is_error else get_log().warning
            tell(self._event, error=str(error), **fields)

    def end(self) -> None:
        """Log that this works again, if it failed before."""
        if self._failures:
            get_log().info(Event.WORKS_AGAIN, after=self._event, failures=self._failures)
            self._failures = 0
