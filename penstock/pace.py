"""How long operations take: as a moving average of recent measurements, and in one chunk while it runs. Pure."""

from collections.abc import Callable

WORTH_SHARING = 1.25  # target times. A chunk that would take less than this any longer runs to its end
MOST_PIECES = 250  # 25 calls to the queue. Longer pieces are cut again when they run
_CHECKS_PER_AIM = 8
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


class ChunkPace:
    """How long the operations of one chunk take, measured while it runs.

    It finds out early that a chunk would take several times its target time, because nobody had measured its handler
    before, or because the handler has become slower. Then the rest is handed over in pieces that each take about the
    target time, so that all consumers get some of it.
    """

    def __init__(self, operations: int, warm_up: int, aim: Callable[[float], float]) -> None:
        """Create the pace of a chunk with this many operations. `aim` maps seconds per operation to the target time.

        The first operations, at least `warm_up` of them, may be slow because they connect to something. They decide
        only if each takes the target time on average.
        """
        self._aim = aim
        self._left = operations
        self._warm_up = warm_up
        self._count = 0  # since the warm-up, if it is over
        self._seconds = 0.0
        self._first: float | None = None  # seconds per operation in the warm-up
        # Of `_seconds`. There are few checks, because each operation of a handler that waits is observed alone.
        self._check_at = aim(0)

    @property
    def seconds(self) -> float | None:
        """Return the seconds per operation, or None if no operation has finished yet."""
        return self._seconds / self._count if self._count else self._first

    def observe(self, count: int, seconds: float) -> bool:
        """Record that `count` operations took `seconds` in total. Return True if the rest should be handed over now."""
        self._left -= count
        self._count += count
        self._seconds += seconds
        is_long = self._seconds >= self._check_at and self._is_long()
        if self._first is None and self._count >= self._warm_up:
            self._first, self._count, self._seconds, self._check_at = self.seconds, 0, 0.0, self._aim(0)
        return is_long

    def pieces(self, operations: int) -> int:
        """Return the number of pieces into which to cut this many remaining operations.

        It is one if only the warm-up has been measured: then a piece would be cut by the time that connecting takes.
        """
        each = self.seconds
        if not each or not (self._is_measured or each >= self._aim(each)):
            return 1
        return max(1, min(int(operations * each / self._aim(each)), operations, MOST_PIECES))

    @property
    def _is_measured(self) -> bool:
        """Return True if operations have finished after the warm-up."""
        return self._first is not None and self._count > 0

    def _is_long(self) -> bool:
        each = self._seconds / self._count
        aim = self._aim(each)
        self._check_at = self._seconds + aim / _CHECKS_PER_AIM
        has_measured = each >= aim or (self._first is not None and self._seconds >= aim)
        return has_measured and self._left * each >= WORTH_SHARING * aim
