"""How long a handler takes for an operation, by what was measured last. Pure."""

UNMEASURED_SECONDS = 0.02  # what a handler is taken for that nobody has measured yet
_KEPT = 0.25  # less would follow every outlier, more would take many chunks to follow a change


class Pace:
    """Seconds of handler time for an operation: a moving average that follows a change within a few chunks.

    Observe it once a chunk, not for each operation: at every observation all that was before counts a quarter as much.
    """

    def __init__(self) -> None:
        self._count = 0.0
        self._seconds = 0.0

    @property
    def seconds(self) -> float | None:
        """None while nothing was measured."""
        return self._seconds / self._count if self._count else None

    def observe(self, count: int, seconds: float) -> None:
        """`count` operations took `seconds` in all, each for itself: what ran side by side adds up."""
        self._count = self._count * _KEPT + count
        self._seconds = self._seconds * _KEPT + seconds
