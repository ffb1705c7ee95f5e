"""The wait before attempt n: exponential with full jitter. Pure: the caller brings the random number.

Full jitter (a delay drawn evenly between nothing and the exponential bound) spreads a crowd of retries best; see
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """`base_seconds` bounds the first wait; each further bound is twice the last, up to `max_seconds`."""

    base_seconds: float = 1.0
    max_seconds: float = 300.0

    def delay_seconds(self, attempt: int, draw: float) -> float:
        """The wait after attempt `attempt` (from 1) failed; `draw` is a random number in [0, 1)."""
        # 2.0**1024 overflows; every bound is reached long before the 64th doubling.
        bound = self.base_seconds * 2.0 ** min(attempt - 1, 64)
        return draw * min(bound, self.max_seconds)
