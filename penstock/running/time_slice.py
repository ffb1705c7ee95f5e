"""A slice of time in which a worker performs lots. Unless one of them waits, nothing else runs on the event loop."""

import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from penstock.outcome import Verdicts
from penstock.route import Route
from penstock.running.bulk import Lot
from penstock.running.left_behind import TimeLimits, Worker
from penstock.running.limit_line import Line
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.stop import Stop

SLICE_SECONDS = 0.001  # about a hundred quick operations
KEPT_SECONDS = 0.02  # for which a worker keeps its slot while its handlers wait, even if others want it

Performing = Awaitable[Verdicts]


@dataclass(slots=True)
class Tally:
    """What a worker has performed and has not reported yet."""

    ended: int = 0  # operations that have got verdicts since `counted_at`
    counted_at: float = 0.0
    count: int = 0  # operations that had got verdicts until then
    seconds: float = 0.0  # that these took

    def count_ended(self, now: float) -> int:
        """Count what has ended, and the seconds that it took. Return how many operations that were."""
        ended, self.ended = self.ended, 0
        if ended:
            self.count += ended
            self.seconds += now - self.counted_at
        self.counted_at = now
        return ended

    def take(self) -> tuple[int, float]:
        """Return how many operations were counted since the last time, and the seconds that they took."""
        taken = self.count, self.seconds
        self.count, self.seconds = 0, 0.0
        return taken


@dataclass(slots=True)
class Slice:
    """What a worker may perform in a slice, and what it has performed so far. The worker uses it for all its slices.

    `pending` has the lots that may start next. `verdicts` gets the verdicts of those whose handlers are called
    directly. `before_wait` must be called before such a handler waits. After it, `may_go_on` begins a new slice, or
    returns False.
    """

    worker: Worker
    pending: deque[Lot]
    verdicts: Verdicts
    stop: Stop
    unmarked: contextvars.Context  # in which no handler has left a mark
    limits: TimeLimits  # of handlers that are called directly
    before_wait: Callable[["Slice"], None]
    may_go_on: Callable[["Slice", float], bool]
    slots: Turn | TurnWithRoom | Line | None = None  # of which the worker holds one
    keeps_until: float = 0.0  # the worker may keep its slot, even if others want it
    ends_at: float = 0.0
    lot: Lot | None = None  # the one being performed
    route: Route | None = None  # of the last handler that was called directly
    begun_at: float = 0.0  # when it was called, or when another lot began
    tally: Tally = field(default_factory=Tally)

    def begin(self, now: float) -> None:
        """Begin a slice in which lots may start."""
        self.worker.has_waited = False
        self.tally.counted_at = now
        self.ends_at = now + SLICE_SECONDS

    def is_over(self, now: float) -> bool:
        """Return True if the worker must not perform another lot in this slice. `now` is the time after the last one.

        What allows a start changes in other tasks, which do not run meanwhile, and by what a handler itself does.
        """
        return now >= self.ends_at or self.worker.has_waited or self.stop.has_come or _is_marked(self.unmarked)

    @property
    def is_marked(self) -> bool:
        """Return True if a handler has left a mark. Only the worker itself may ask."""
        return _is_marked(self.unmarked)


def _is_marked(unmarked: contextvars.Context) -> bool:
    """Return True if a handler has changed a context variable, which the next one in this task would see."""
    try:
        return contextvars.copy_context() != unmarked
    except Exception:  # noqa: BLE001 - some values cannot be compared, so they must have changed
        return True
