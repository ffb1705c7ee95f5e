"""Calls handlers on the event loop in the shortest way: for single operations, outside of transactions.

An `Attempt` takes several coroutines, and together they cost more than a quick operation. Here one coroutine calls
handlers one after the other, whether they wait or not. Verdicts are the same as those of an `Attempt`.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

from penstock.chunk import Operation
from penstock.outcome import SUCCEEDED, Outcome, Verdict, Verdicts, size_of
from penstock.route import InvalidOperation, Place, Route
from penstock.running.attempt import call_single, ends_task, meaning_of, verdict_on
from penstock.running.bulk import Lot
from penstock.running.left_behind import Worker
from penstock.running.result_memory import ChunkResults
from penstock.running.source import Source
from penstock.running.time_slice import Performing, Slice
from penstock.running.verdict import NOT_SHORT, TimedOut, error_id, invalid, judge, short_copy

Calls = Coroutine[Any, Any, Performing | None]

_NEVER = -1.0  # the time of a call that has not been made
_LOOP = Place.LOOP  # a variable, for the same reason as SUCCEEDED in `outcome.py`


class DirectCalls:
    """Performs attempts at single operations of one chunk.

    Most operations of a chunk have the same method and path, so the last route is kept. Most of them return a short
    result, and many do not wait. Then everything that can wait is done once for a slice of time.
    """

    def __init__(
        self,
        match: Callable[[str, str], Route],
        otherwise: Callable[[Lot, Worker, Route | None], Coroutine[Any, Any, Verdicts]],
        source: Source,
        number: int,
        *,
        monotonic: Callable[[], float],
        results: ChunkResults,
        shows_errors: bool,
        succeeded: Callable[[Route, Sequence[float]], None],
        called: Callable[[Route, Verdict, float], None],
        rejected: Callable[[Verdict], None],
    ) -> None:
        """Create the calls of a chunk in its attempt `number`.

        `match` returns the route of a method and a path, or raises InvalidOperation. `otherwise` performs the lots that
        cannot be called directly. `succeeded` gets the seconds of calls that return short results, `called` the verdict
        of each other call with its seconds, and `rejected` the verdict on each invalid operation.
        """
        self._match = match
        self._otherwise = otherwise
        self._source = source
        self._number = number
        self._monotonic = monotonic
        self._results = results
        self._shows_errors = shows_errors
        self._succeeded = succeeded
        self._called = called
        self._rejected = rejected
        self._method = self._path = ""  # of the last operation
        self._route: Route | None = None  # to which they lead, if its handler can be called directly
        self._counted: Route | None = None  # which calls are not counted yet
        self._seconds: list[float] = []  # of these calls. All have succeeded
        self._will_count = False  # soon

    def perform(self, slice_: Slice) -> Performing | None:
        """Perform lots until the slice is over, or until one has to wait. Then return what performs the rest."""
        calls = self._call_each(slice_, slice_.worker)
        try:
            awaited = calls.send(None)
        except StopIteration as end:
            performing: Performing | None = end.value
            return performing
        self.end_slice()
        self._start_limit(slice_)
        return self._go_on(slice_, calls, awaited)

    @types.coroutine
    def _go_on(self, slice_: Slice, calls: Calls, awaited: Any) -> Generator[Any, Any, Verdicts]:
        """Do what `yield from calls` does, where the first call waits for `awaited`. Note each call that waits.

        Return the verdicts of the last lot, unless its worker was left behind. Those of the others are in the slice.
        """
        waiting = slice_.lot
        try:
            while True:
                try:
                    yield awaited
                except GeneratorExit:
                    calls.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - the handler gets it
                    awaited = calls.throw(error)
                else:
                    awaited = calls.send(None)
                if slice_.lot is not waiting:  # another call waits now
                    waiting = slice_.lot
                    self._count_soon()  # first, so that whoever hears of the ended ones finds their time
                    slice_.before_wait(slice_)
                    self._start_limit(slice_)
        except StopIteration as end:
            performing: Performing | None = end.value
        finally:
            self._results.memory.end(slice_.worker)
        if performing is not None:
            slice_.before_wait(slice_)
            awaited = None  # its result need not stay in memory
            return (yield from performing.__await__())
        return {one.index: slice_.verdicts[one.index] for one in waiting or () if not slice_.worker.is_left}

    def _start_limit(self, slice_: Slice) -> None:
        """Start the time limit of a call that waits for the first time, and reserve memory for its result."""
        worker, route, memory = slice_.worker, slice_.route, self._results.memory
        assert route is not None
        worker.has_waited = True
        slice_.limits.start(slice_.begun_at, route.policy.timeout_seconds)
        if memory.expects_much(route.name):
            memory.start(route.name, 1, worker)

    async def _call_each(self, slice_: Slice, worker: Worker) -> Performing | None:  # noqa: C901, PLR0912, PLR0915 - see below
        """Call the handlers of lots, one after the other, until the slice is over and no new one may begin.

        If a lot cannot be called directly, return what performs it.

        Most of what Penstock adds to a quick operation is in this loop. So the steps of a quick operation are written
        out, and what is the same for all operations is looked up once.
        """
        pending, monotonic, cancelling = slice_.pending, self._monotonic, worker.task.cancelling
        limits, tally, memory = slice_.limits, slice_.tally, self._results.memory
        path, method, route = self._path, self._method, self._route
        slice_.route = route
        returns_much: bool | None = None
        while pending:
            slice_.lot = lot = pending.popleft()
            operation = lot[0]
            if route is None or operation.path != path or operation.method != method:
                found = self._find(operation)
                if found is None or found.place is not _LOOP or found.policy.bulk:
                    self.end_slice()
                    slice_.begun_at = monotonic()
                    return self._otherwise(lot, worker, found)
                path, method, route, returns_much = operation.path, operation.method, found, None
                self._path, self._method, self._route = path, method, route
                slice_.route = route
            begun_at = _NEVER
            try:
                arguments = route.arguments(path, operation.body, shows_errors=self._shows_errors)
                slice_.begun_at = begun_at = monotonic()
                if route.signature.context_parameter is None:
                    returned = await route.handler(**arguments)
                else:
                    returned = await call_single(route, self._source, self._number, (operation, arguments), None)
                if worker.has_waited:
                    if limits.is_over or worker.is_left:
                        raise TimedOut
                    limits.end()
                    returns_much = None
                if returns_much is None:
                    returns_much = memory.expects_much(route.name)
                result = NOT_SHORT if returns_much else short_copy(returned)
                if result is NOT_SHORT:
                    verdict = verdict_on(route, operation, returned)
                else:
                    verdict = Outcome(operation.index, operation.id, SUCCEEDED, route.policy.status, result)
            except BaseException as error:
                failure = self._judge_raised(route, operation, error, begun_at, slice_)
                if failure is None and worker.is_left:
                    return None
                if failure is None:
                    raise
                result, verdict = NOT_SHORT, failure
            returned = None  # it need not stay in memory while the next handler waits
            now = monotonic()
            slice_.verdicts[operation.index] = verdict
            if result is not NOT_SHORT:
                if route is not self._counted:
                    self.end_slice()
                    self._counted = route
                self._seconds.append(now - begun_at)
            elif begun_at != _NEVER:
                self._note_call(route, operation, verdict, now - begun_at)
                returns_much = None
            if worker.has_waited:
                memory.end(worker)  # after the result is counted, so that no other operation gets this memory
            if cancelling():
                return None  # perhaps its handler did that: the worker finds out
            slice_.lot = None
            tally.ended += 1
            is_over = slice_.is_over(now) or (result is NOT_SHORT and memory.is_full)
            if is_over and not (worker.has_waited and slice_.may_go_on(slice_, now)):
                return None
        return None

    def _find(self, operation: Operation) -> Route | None:
        try:
            return self._match(operation.method, operation.path)
        except InvalidOperation:
            return None

    def end_slice(self) -> None:
        """Count the calls with short results that are not counted yet."""
        self._will_count = False
        if self._seconds:
            assert self._counted is not None
            self._succeeded(self._counted, self._seconds)
            self._seconds = []

    def _count_soon(self) -> None:
        """Count the calls of all workers that wait in this turn of the event loop together."""
        if self._seconds and not self._will_count:
            self._will_count = True
            asyncio.get_running_loop().call_soon(self.end_slice)

    def _judge_raised(
        self, route: Route, operation: Operation, error: BaseException, begun_at: float, slice_: Slice
    ) -> Verdict | None:
        """Return the verdict if a call has raised `error`, or None if the worker ends or was left behind."""
        worker, limits = slice_.worker, slice_.limits
        if begun_at == _NEVER:
            if not isinstance(error, InvalidOperation):
                return None
            verdict = invalid(operation, error)
            self._rejected(verdict)
            return verdict
        if worker.has_waited:
            error = limits.end_by(error)
        error = meaning_of(error, worker)
        if worker.is_left or ends_task(error, worker.task):
            return None
        return self._judge(route, operation, error)

    def _judge(self, route: Route, operation: Operation, error: BaseException) -> Verdict:
        id_ = None if self._shows_errors else error_id(self._source.name_of(operation), self._number)
        return judge(error, operation, route, id_)

    def _note_call(self, route: Route, operation: Operation, verdict: Verdict, seconds: float) -> None:
        """Count a call that has not returned a short result."""
        self._called(route, verdict, seconds)
        memory = self._results.memory
        if size_of(verdict) or memory.expects_much(route.name):
            self._results.add(memory.learn(route.name, {operation.index: verdict}))
