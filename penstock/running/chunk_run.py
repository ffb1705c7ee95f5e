"""Runs the operations of one chunk, each as soon as there is a slot for it."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from penstock.chunk import Operation
from penstock.outcome import Verdict
from penstock.running.bulk import CallFailed, Lot, one_by_one
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.stop import Stop

SLICE_SECONDS = 0.001  # about a hundred quick operations; nothing else runs on the event loop in this time
NOTICE_SECONDS = 2.0  # a cancelled handler that needs longer to end is left behind, and has no verdict

WorkerTask = asyncio.Task[None]


class ChunkRun:
    """A chunk's lots in flight: `carry_out` runs them and returns the verdicts.

    A worker waits for a slot, keeps it for a slice of time, and performs one lot after the other in it. (A task for
    each operation would cost as much as everything else about a quick one.) Then the slot goes to the next in turn,
    this chunk or another, and the worker waits again. So a worker performs one operation for each slot it gets, if
    operations take longer than a slice. A worker ends after an operation that left a mark on its task, such as a
    context variable or a cancellation, and another worker replaces it. There are as many workers as slots, because
    several slots may come free together and all of them may be this chunk's.

    When a bulk call fails as a whole, its operations run one by one after all other lots of this run.
    """

    def __init__(
        self,
        attempt: Callable[[Lot], Awaitable[dict[int, Verdict]]],
        cancelled_itself: Callable[[Lot], dict[int, Verdict]],
        slots: Turn | TurnWithRoom | None,
        monotonic: Callable[[], float],
        *,
        stop: Stop,
        ended: Callable[[], None],
        may_begin: Callable[[], bool],
    ) -> None:
        """Create a run in which `attempt` performs a lot.

        `cancelled_itself` returns the verdicts of a lot whose handler cancelled its own task. Both may raise
        CallFailed. Without `slots` the caller holds the only slot that is needed. `ended` is called once for each
        operation.
        """
        self._attempt = attempt
        self._cancelled_itself = cancelled_itself
        self._slots = slots
        self._monotonic = monotonic
        self._stop = stop
        self._ended = ended
        self._may_begin = may_begin
        self._verdicts: dict[int, Verdict] = {}
        self._failed: dict[int, Operation] = {}  # of bulk calls that failed as a whole
        self._isolates = False  # the failed ones are being run one by one
        self._is_over = False  # `carry_out` has ended; it may have left workers behind, or was cancelled itself
        self._left: deque[Lot] = deque()  # not started
        self._workers: dict[WorkerTask, Lot | None] = {}  # and what each of them performs
        self._waiting: dict[WorkerTask, None] = {}  # for a slot, in their order
        self._fault: BaseException | None = None

    async def carry_out(self, lots: Sequence[Lot]) -> dict[int, Verdict]:
        """Run the lots until all have ended, or have been cut off and had a moment to notice."""
        try:
            await self._run(lots)
            if self._failed:
                # These run even if the time budget is used up. Otherwise a call that uses it all up and then fails
                # would be repeated for ever.
                self._isolates = True
                failed, self._failed = self._failed, {}
                await self._run(one_by_one(failed.values()))
        finally:
            self._is_over = True
            self._give_up_failed()
        return self._verdicts

    async def _run(self, lots: Sequence[Lot]) -> None:
        self._left.extend(lots)
        for _ in range(min(len(lots), self._slots.count if self._slots else 1)):
            self._start_worker()
        cutting = asyncio.create_task(self._stop.cut.wait())
        try:
            while self._workers and not cutting.done():
                await asyncio.wait((*self._workers, cutting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cutting.cancel()
            self._give_up_rest()
            for worker in self._workers:
                worker.cancel()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=NOTICE_SECONDS)
        if self._fault is not None:
            raise self._fault

    def _start_worker(self) -> None:
        worker = asyncio.create_task(self._work())
        self._workers[worker] = None
        worker.add_done_callback(self._worker_ended)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        unmarked = contextvars.copy_context()
        while self._left and not _is_marked(unmarked):
            await self._take_slot(worker)
            try:
                await self._work_for_a_slice(worker, unmarked)
            finally:
                if self._slots is not None:
                    self._slots.release()
            if worker.cancelling():
                return
            await asyncio.sleep(0)  # lets other tasks run, also if nobody waits for the slot

    async def _take_slot(self, worker: WorkerTask) -> None:
        if self._slots is None:
            return
        self._waiting[worker] = None
        try:
            await self._slots.acquire()
        finally:
            self._waiting.pop(worker, None)

    async def _work_for_a_slice(self, worker: WorkerTask, unmarked: contextvars.Context) -> None:
        ends_at = self._monotonic() + SLICE_SECONDS
        while self._left:
            # Checked before each lot: the process may have been suspended for long, and wake up here.
            if not self._may_go_on():
                self._give_up_rest()
                return
            self._workers[worker] = lot = self._take_next()
            try:
                self._verdicts.update(await self._attempt(lot))
            except CallFailed:
                self._note_failed(lot)
            if worker.cancelling():
                return  # perhaps its handler did that: `_worker_ended` finds out
            self._workers[worker] = None
            self._note_end(lot)
            if self._monotonic() >= ends_at or _is_marked(unmarked):
                return

    def _may_go_on(self) -> bool:
        is_in_time = self._isolates or not self._stop.is_spent
        return is_in_time and self._may_begin() and not self._stop.begun.is_set()

    def _take_next(self) -> Lot:
        lot = self._left.popleft()
        if not self._left:
            self._dismiss_waiting()
        return lot

    def _worker_ended(self, worker: WorkerTask) -> None:
        lot = self._workers.pop(worker)
        try:
            self._fault = self._fault or worker.exception()  # a bug in Penstock: errors of handlers are verdicts
        except asyncio.CancelledError:
            if lot is not None and not (self._stop.cut.is_set() or self._is_over):
                self._note_cancelled_itself(lot)
        if lot is not None:
            self._note_end(lot)
        if self._left:
            self._start_worker()

    def _note_cancelled_itself(self, lot: Lot) -> None:
        try:
            self._verdicts.update(self._cancelled_itself(lot))
        except CallFailed:
            self._note_failed(lot)

    def _note_failed(self, lot: Lot) -> None:
        if not self._is_over:  # otherwise nobody would run them
            self._failed.update((one.index, one) for one in lot if one.index not in self._verdicts)

    def _note_end(self, lot: Lot) -> None:
        for operation in lot:
            if operation.index not in self._failed:
                self._ended()

    def _give_up_rest(self) -> None:
        """Start no further operation."""
        self._dismiss_waiting()
        while self._left:
            self._note_end(self._left.popleft())

    def _give_up_failed(self) -> None:
        """Let the operations of failed bulk calls not run one by one."""
        for _ in self._failed:
            self._ended()
        self._failed.clear()

    def _dismiss_waiting(self) -> None:
        """End the workers that wait for a slot: there is nothing left for them to do."""
        for worker in self._waiting:
            worker.cancel()


def _is_marked(unmarked: contextvars.Context) -> bool:
    """Return True if a handler has changed a context variable, which the next one in this task would see."""
    try:
        return contextvars.copy_context() != unmarked
    except Exception:  # noqa: BLE001 - some values cannot be compared, so they must have changed
        return True
