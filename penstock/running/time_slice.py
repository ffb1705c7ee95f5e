"""A slice of time in which a worker performs lots. Unless one of them waits, nothing else runs on the event loop."""

import contextvars
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from penstock.outcome import Verdict
from penstock.running.bulk import Lot
from penstock.running.left_behind import Worker
from penstock.running.stop import Stop

SLICE_SECONDS = 0.001  # about a hundred quick operations

Verdicts = dict[int, Verdict]  # by index
Performing = Coroutine[Any, Any, Verdicts]


@dataclass(slots=True)
class Slice:
    """What a worker may perform in a slice, and what it has performed so far. The worker uses it for all its slices.

    `pending` has the lots that may start next. `verdicts` gets the verdicts of those that end without waiting.
    """

    worker: Worker
    pending: deque[Lot]
    verdicts: Verdicts
    stop: Stop
    unmarked: contextvars.Context  # in which no handler has left a mark
    ends_at: float = 0.0
    lot: Lot | None = None  # the one being performed
    begun_at: float = 0.0  # the call of its handler
    ended: int = 0  # operations that have ended without waiting and are not reported yet

    def is_over(self, now: float) -> bool:
        """Return True if the worker must not perform another lot in this slice. `now` is the time after the last one.

        Note on the worker whether a handler has left a mark.

        What allows a start changes in other tasks, which do not run meanwhile, and by what a handler itself does.
        """
        worker = self.worker
        worker.is_marked = _is_marked(self.unmarked)
        return now >= self.ends_at or worker.is_marked or worker.has_waited or self.stop.has_come


def _is_marked(unmarked: contextvars.Context) -> bool:
    """Return True if a handler has changed a context variable, which the next one in this task would see."""
    try:
        return contextvars.copy_context() != unmarked
    except Exception:  # noqa: BLE001 - some values cannot be compared, so they must have changed
        return True
