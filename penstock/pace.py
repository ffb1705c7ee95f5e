"""The handler time of an operation as a moving average of recent measurements. Pure."""

UNMEASURED_SECONDS = 0.02  # the assumed handler time of an operation before the first measurement
_KEPT = 0.25  # a smaller share would follow every outlier, a larger one would need many chunks to follow a change


class Pace:
    """The seconds of handler time per operation: a moving average that follows a change within a few chunks.

    Call `observe` once per chunk, not per operation: each call reduces the weight of all earlier ones to a quarter.
    """

    def __init__(self) -> None:
        self._count = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float | None:
        """Return the seconds per operation, or None if nothing has been measured yet."""
        return self._seconds / self._count if self._count else None

    def observe(self, count: int, seconds: float) -> None:
        """Record that `count` operations took `seconds` in total: the sum over all, even if they ran concurrently."""
        self._count = self._count * _KEPT + count
        self._seconds = self._seconds * _KEPT + seconds
