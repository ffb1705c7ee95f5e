"""The delay before the next attempt: exponential backoff with full jitter. Pure: the caller passes the random number.

With full jitter the delay is drawn evenly between 0 and the exponential bound. This spreads many simultaneous retries
best; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The bounds of the delays: the first is `base_seconds`, and it doubles with each attempt, up to `max_seconds`."""

    base_seconds: float = 1.0
    max_seconds: float = 300.0

    def delay_seconds(self, attempt: int, draw: float) -> float:
        """Return the delay after attempt number `attempt` (from 1) failed. `draw` is a random number in [0, 1)."""
        # 2.0**1024 overflows; every bound is reached long before the 64th doubling.
        bound = self.base_seconds * 2.0 ** min(attempt - 1, 64)
        return draw * min(bound, self.max_seconds)
