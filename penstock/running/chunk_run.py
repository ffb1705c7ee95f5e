"""Runs the operations of one chunk, each as soon as there is a slot for it."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.chunk import Operation
from penstock.outcome import Verdict, Verdicts
from penstock.running.bulk import CallFailed, Lot, one_by_one
from penstock.running.left_behind import TimeLimits, Worker, end_soon
from penstock.running.limit_line import Line, PostponedChunk
from penstock.running.result_memory import ChunkResults
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.stop import Stop
from penstock.running.time_slice import KEPT_SECONDS, Performing, Slice


@dataclass(frozen=True, slots=True)
class Performer:
    """Performs the lots of a chunk.

    `perform` performs lots of a slice until it is over, or until one has to wait. Then it returns what performs the
    rest, and returns the verdicts of the last lot. This, and the next two functions, raise CallFailed if a lot has no
    verdicts.
    """

    perform: Callable[[Slice], Performing | None]
    cancelled_itself: Callable[[Lot], Verdicts]  # for a lot whose handler cancelled its own task
    timed_out: Callable[[Lot], Verdicts]  # for a lot whose handler is left behind
    leave: Callable[[Lot, Worker], None]  # leaves the worker behind that performs a lot
    end_slice: Callable[[], None]  # to be called after each slice of time


class ChunkRun:
    """A chunk's lots in flight: `carry_out` runs them and returns the verdicts.

    A worker waits for a slot, keeps it for a slice of time, and performs one lot after the other in it. (A task for
    each operation would cost as much as everything else about a quick one.) Then the slot goes to the next in turn,
    this chunk or another, and the worker waits again. If nobody waits for a slot, the worker keeps its own. A worker
    ends after an operation that left a mark on its task, such as a context variable or a cancellation, and another
    worker replaces it. There are as many workers as slots, because several slots may come free together and all of
    them may be this chunk's.

    A handler that does not end although it was cancelled is left behind with its worker, which keeps its slot. The run
    goes on without it, and ignores what the handler returns later.

    When a bulk call fails as a whole, its operations run one by one after all other lots of this run.

    If the operations have a limit, `slots` is a line at its gate: a worker performs one lot, releases its slot, and
    waits for the next token. Operations that would wait for long are postponed, and get no verdict.

    When the chunk is cut, because its results take much memory, nothing of it starts any more. What has not run, the
    operations of failed bulk calls included, gets no verdict.
    """

    def __init__(
        self,
        performer: Performer,
        slots: Turn | TurnWithRoom | Line | None,
        monotonic: Callable[[], float],
        *,
        results: ChunkResults,
        stop: Stop,
        ended: Callable[[int], None],
        may_begin: Callable[[], bool],
        took: Callable[[int, float], None],
        postponed: Callable[[int, float], None],
    ) -> None:
        """Create a run. Without `slots` the caller holds the only slot that is needed.

        `ended` is called with the numbers of operations that have ended, before other tasks run. `took` is called after
        each slice of time, with the number of operations that have got verdicts in it and the seconds that they took.
        `postponed` is called with the index of each operation that is postponed, and with its delay.
        """
        self._performer = performer
        self._slots = slots
        self._monotonic = monotonic
        self._results = results
        self._stop = stop
        self._ended = ended
        self._may_begin = may_begin
        self._took = took
        self._postponed = postponed
        self._line = slots if isinstance(slots, Line) else None
        self._verdicts: dict[int, Verdict] = {}
        self._failed: dict[int, Operation] = {}  # of bulk calls that failed as a whole
        self._unreported = 0  # operations that have ended, and that `ended` was not called with yet
        self._isolates = False  # the failed ones are being run one by one
        self._is_over = False  # `carry_out` has ended, or was cancelled itself
        self._pending: deque[Lot] = deque()  # not started
        self._workers: dict[Worker, Slice] = {}  # and what each of them performs; not those left behind
        self._no_workers: asyncio.Future[None]  # done as soon as no worker is left
        self._context: contextvars.Context  # of new workers
        self._waiting: dict[Worker, None] = {}  # for a slot, in their order
        self._fault: BaseException | None = None

    async def carry_out(self, lots: Sequence[Lot]) -> dict[int, Verdict]:
        """Run the lots until all have ended, or have been cut off and had a moment to notice."""
        try:
            with self._results.when_cut(self._give_up_rest):
                await self._run_and_isolate(lots)
        finally:
            self._is_over = True
            self._give_up_failed()
            self._report_ended()
        return self._verdicts

    def move(self, turn: Turn | TurnWithRoom) -> None:
        """Wait for slots in another turn from now on, because the batch has another priority.

        Operations that also need a token, a thread or a process are given up: they follow as another chunk.
        """
        if not isinstance(self._slots, Turn) or not isinstance(turn, Turn):
            self._give_up_rest()
            return
        self._slots = turn
        self._dismiss_waiting()  # other workers replace them, and wait in the new turn

    async def _run_and_isolate(self, lots: Sequence[Lot]) -> None:
        await self._run(lots)
        if self._failed and not self._results.is_cut:
            # These run even if the time budget is used up. Otherwise a call that uses it all up and then fails would
            # be repeated for ever. A chunk that is cut has outcomes, so the chunk that follows is smaller.
            self._isolates = True
            failed, self._failed = self._failed, {}
            if self._line is not None:
                self._line.isolate(len(failed))
            await self._run(one_by_one(failed.values()))

    async def _run(self, lots: Sequence[Lot]) -> None:
        self._pending.extend(lots)
        self._no_workers = asyncio.get_running_loop().create_future()
        self._context = contextvars.copy_context()
        for _ in range(min(len(lots), self._slots.count if self._slots else 1)):
            self._start_worker()
        cutting = asyncio.create_task(self._stop.cut.wait())
        leaving = None if self._line is None else asyncio.create_task(self._leave_line())
        try:
            if self._workers:
                await asyncio.wait((self._no_workers, cutting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cutting.cancel()
            if leaving is not None:
                leaving.cancel()
            self._give_up_rest()
            for worker in self._workers:
                worker.task.cancel()
        if self._workers:
            await end_soon([worker.task for worker in self._workers])
            self._leave_workers()
        if self._fault is not None:
            raise self._fault

    def _start_worker(self) -> None:
        # Not in the context of the caller, which may be a worker whose handler has left a mark.
        worker = Worker(self._leave_overdue)
        context = self._context.copy()
        slice_ = Slice(
            worker,
            self._pending,
            self._verdicts,
            self._stop,
            context.copy(),
            TimeLimits(self._monotonic, worker),
            before_wait=self._report_before_lot,
            may_go_on=self._may_go_on,
        )
        worker.task = asyncio.create_task(self._work(slice_), context=context)
        self._workers[worker] = slice_
        worker.task.add_done_callback(lambda _: self._worker_ended(slice_))

    async def _work(self, slice_: Slice) -> None:
        worker = slice_.worker
        while self._pending and not slice_.is_marked:
            slice_.slots = slots = self._slots  # another priority may replace it before this worker releases its slot
            try:
                await self._take_slot(worker)
            except PostponedChunk:
                self._postpone_rest()
                return
            slice_.keeps_until = self._monotonic() + KEPT_SECONDS
            try:
                while await self._work_for_a_slice(slice_):
                    if not worker.has_waited:
                        await asyncio.sleep(0)  # other tasks run now
                    if slots is not None and slots.are_wanted:
                        break
            finally:
                if slots is not None:
                    slots.release()
            if worker.is_left or worker.task.cancelling():
                return
            if not worker.has_waited:
                await asyncio.sleep(0)

    async def _take_slot(self, worker: Worker) -> None:
        if self._slots is None:
            return
        self._waiting[worker] = None
        try:
            await self._slots.acquire()
        finally:
            self._waiting.pop(worker, None)

    async def _work_for_a_slice(self, slice_: Slice) -> bool:  # noqa: C901, PLR0912 - another coroutine takes time
        """Perform lots until other tasks must run, or have run. Return True if the worker may go on in its slot.

        What allows a start is checked once for a slice. It changes in other tasks, which do not run meanwhile, and what
        a handler itself can change ends the slice. A process that was suspended finds its slice over.
        """
        worker = slice_.worker
        now = self._monotonic()  # before the check, or a process that is suspended in between would have a whole slice
        if not (self._pending and self._may_start()):
            return False
        slice_.begin(now)
        if self._line is not None:
            slice_.pending = self._take_one(self._line)
        results = self._results
        held = results.held
        try:
            while True:
                performing = self._performer.perform(slice_)
                if slice_.lot is not None:
                    if performing is None:
                        return False  # its task is being cancelled, perhaps by its handler: `_worker_ended` finds out
                    self._report_before_lot(slice_)
                    try:
                        verdicts: Verdicts | None = await performing
                    except CallFailed:
                        verdicts = None
                    if worker.is_left:
                        return False
                    if (lot := slice_.lot) is not None:
                        self._note_verdicts(lot, verdicts)
                        if worker.task.cancelling():
                            return False
                        slice_.lot = None
                        if verdicts is None:
                            self._note_end(lot)
                        else:
                            slice_.tally.ended += len(lot)
                now = self._monotonic()
                self._count(slice_, now)
                is_full = results.held > held and results.memory.is_full
                if slice_.is_over(now) or is_full or self._line is not None or not self._pending:
                    break
        finally:
            self._performer.end_slice()  # first, so that whoever hears of the ended ones finds their time
            self._report_before_lot(slice_)
            self._report_took(slice_)
        return bool(self._pending) and not slice_.is_marked

    def _report_before_lot(self, slice_: Slice) -> None:
        """Report what has ended before the lot that is being performed, which may wait for long, or never end."""
        if slice_.tally.ended:
            self._count(slice_, slice_.begun_at)
        self._report_ended()
        if not self._pending:
            self._dismiss_waiting()

    def _may_go_on(self, slice_: Slice, now: float) -> bool:
        """Begin another slice after a handler that has waited, unless the worker must release its slot first."""
        self._count(slice_, now)
        self._report_took(slice_)
        if slice_.is_marked or not slice_.pending:
            return False
        if now >= slice_.keeps_until and slice_.slots is not None and slice_.slots.are_wanted:
            return False
        if not self._may_start():
            return False
        slice_.begin(now)
        return True

    def _count(self, slice_: Slice, now: float) -> None:
        """Count what has ended in a slice, and the seconds that it took."""
        self._unreported += slice_.tally.count_ended(now)

    def _report_took(self, slice_: Slice) -> None:
        count, seconds = slice_.tally.take()
        if count:
            self._took(count, seconds)

    def _take_one(self, line: Line) -> deque[Lot]:
        """Return the only lot that may start in a slice: each needs a token."""
        lot = self._pending.popleft()
        line.start(len(lot))
        return deque((lot,))

    def _may_start(self) -> bool:
        """Return True if lots may start. If nothing may start any more, give up the rest."""
        stop = self._stop
        is_stopped = (stop.spent.is_set() and not self._isolates) or self._results.is_cut or stop.begun.is_set()
        if is_stopped or not self._may_begin():
            self._give_up_rest()
            return False
        if self._line is not None and not self._line.may_start:
            return False  # the worker waits for a permit again
        return self._slots is None or not self._results.memory.is_full  # otherwise the worker waits for a slot again

    def _worker_ended(self, slice_: Slice) -> None:
        slice_.limits.close()
        worker = slice_.worker
        if worker not in self._workers:
            return  # it was left behind
        lot = self._workers.pop(worker).lot
        try:
            self._fault = self._fault or worker.task.exception()  # a bug in Penstock: errors of handlers are verdicts
        except asyncio.CancelledError:
            if lot is not None and not (self._stop.cut.is_set() or self._is_over):
                self._judge(lot, self._performer.cancelled_itself)
        if lot is not None:
            self._note_end(lot)
            self._report_ended()
        self._replace_worker()

    def _leave_overdue(self, worker: Worker) -> None:
        """Leave a worker behind whose handler did not end after its time limit."""
        slice_ = self._workers.get(worker)
        if slice_ is None or (lot := slice_.lot) is None:
            return  # it was left behind before
        self._leave(worker)
        self._judge(lot, self._performer.timed_out)
        self._note_end(lot)
        self._report_ended()
        self._replace_worker()

    def _leave_workers(self) -> None:
        """Leave all workers behind. All have been cancelled."""
        for worker in list(self._workers):
            self._leave(worker)

    def _leave(self, worker: Worker) -> None:
        lot = self._workers.pop(worker).lot
        if lot is not None:
            self._performer.leave(lot, worker)

    def _replace_worker(self) -> None:
        if self._pending:
            self._start_worker()
        elif not self._workers and not self._no_workers.done():
            self._no_workers.set_result(None)

    def _judge(self, lot: Lot, verdicts_of: Callable[[Lot], dict[int, Verdict]]) -> None:
        try:
            verdicts: dict[int, Verdict] | None = verdicts_of(lot)
        except CallFailed:
            verdicts = None
        self._note_verdicts(lot, verdicts)

    def _note_verdicts(self, lot: Lot, verdicts: Verdicts | None) -> None:
        if verdicts is None:
            self._note_failed(lot)
        else:
            self._verdicts.update(verdicts)

    def _note_failed(self, lot: Lot) -> None:
        if not self._is_over:  # otherwise nobody would run them
            self._failed.update((one.index, one) for one in lot if one.index not in self._verdicts)

    def _note_end(self, lot: Lot) -> None:
        failed = self._failed
        self._unreported += sum(operation.index not in failed for operation in lot) if failed else len(lot)

    def _report_ended(self) -> None:
        """Call `ended` for what has ended since the last time. A call for each quick operation would cost too much."""
        count, self._unreported = self._unreported, 0
        if count:
            self._ended(count)

    def _give_up_rest(self) -> None:
        """Start no further operation."""
        self._dismiss_waiting()
        while self._pending:
            lot = self._pending.popleft()
            self._note_end(lot)
            if self._line is not None:
                self._line.give_up(len(lot))
        self._report_ended()

    async def _leave_line(self) -> None:
        """Give up the rest as soon as nothing may start any more. A token may come much later.

        If no tokens come for some time, the rest is postponed. Otherwise it would follow now, and wait again.
        """
        assert self._line is not None
        stop = self._stop
        await _first_of(stop.begun, *(() if self._isolates else (stop.spent,)))
        if not stop.begun.is_set() and (seconds := self._line.delay_seconds) > 0:
            self._line.postpone(seconds)
            self._postpone_rest()
        else:
            self._give_up_rest()

    def _postpone_rest(self) -> None:
        """Let all operations that have not started follow later."""
        assert self._line is not None
        seconds = self._line.postponed_seconds or 0.0
        for lot in self._pending:
            for operation in lot:
                self._postponed(operation.index, seconds)
        self._give_up_rest()

    def _give_up_failed(self) -> None:
        """Let the operations of failed bulk calls not run one by one."""
        self._unreported += len(self._failed)
        self._failed.clear()

    def _dismiss_waiting(self) -> None:
        """End the workers that wait for a slot: there is nothing left for them to do."""
        for worker in self._waiting:
            worker.task.cancel()


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
