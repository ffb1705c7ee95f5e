"""How long operations take: a moving average of handler seconds per operation. Pure.

Consumers measure and publish it, handler by handler; front ends cut chunks by it.
"""

UNMEASURED_SECONDS = 0.02  # what an operation of a handler that nobody has measured yet is taken for
WEIGHT = 0.5  # of the latest observation: two of them make three quarters of a change known
NOTICED = 1.2  # a change by less than a fifth changes no plan


class Pace:
    """Of one handler, or of all that a process does. `seconds` is None before anything was observed."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds

    def observe(self, count: int, seconds: float) -> None:
        """`count` operations have taken `seconds` of handler time together."""
        latest = seconds / count
        self.seconds = latest if self.seconds is None else self.seconds + WEIGHT * (latest - self.seconds)


def has_changed(before: float | None, now: float) -> bool:
    """Whether a pace differs from what was published by more than planning forgives."""
    return before is None or not before / NOTICED <= now <= before * NOTICED
