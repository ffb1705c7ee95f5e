"""Calls handlers on the event loop in the shortest way: for single operations, outside of transactions.

An `Attempt` takes several coroutines, and together they cost more than a quick operation. Here one coroutine calls
handlers one after the other. A handler that never waits takes no coroutine but its own, and one that waits takes two
more. Verdicts are the same as those of an `Attempt`.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from penstock.chunk import Operation
from penstock.outcome import SUCCEEDED, Outcome, Verdict, size_of
from penstock.route import InvalidOperation, Place, Route
from penstock.running.attempt import call_single, ends_task, in_time, meaning_of, verdict_on
from penstock.running.bulk import Lot
from penstock.running.left_behind import TimeLimit, Worker
from penstock.running.result_memory import ChunkResults
from penstock.running.source import Source
from penstock.running.time_slice import Performing, Slice, Verdicts
from penstock.running.verdict import NOT_SHORT, error_id, invalid, judge, short_copy

Call = Coroutine[Any, Any, Any]

_NEVER = -1.0  # the time of a call that has not been made
_LOOP = Place.LOOP  # a variable, for the same reason as SUCCEEDED in `outcome.py`


class DirectCalls:
    """Performs attempts at single operations of one chunk.

    Most operations of a chunk have the same method and path, so the last route is kept. Most of them are quick: their
    handler does not wait, and returns a short result. Then everything that can wait is done once for a slice of time.
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
        cannot be called directly. `succeeded` gets the seconds of quick calls, `called` the verdict of each other call
        with its seconds, and `rejected` the verdict on each invalid operation.
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
        self._seconds: list[float] = []  # of the quick calls of its handler that are not counted yet

    def perform(self, slice_: Slice) -> Performing | None:
        """Perform lots until the slice is over, or until one has to wait. Then return a coroutine of its verdicts."""
        worker = slice_.worker
        cancelling = worker.task.cancelling()
        calls = self._call_each(slice_, worker)
        try:
            awaited = calls.send(None)
        except StopIteration as end:
            performing: Performing | None = end.value
            return performing
        worker.has_waited = True
        route, lot = self._route, slice_.lot
        assert route is not None
        assert lot is not None
        limit = TimeLimit(slice_.begun_at, route.policy.timeout_seconds, self._monotonic, worker, cancelling)
        return self._wait(route, lot[0], limit, calls, awaited)

    async def _call_each(self, slice_: Slice, worker: Worker) -> Any:  # noqa: C901, PLR0912 - see below
        """Call the handlers of lots, one after the other, until the slice is over.

        If a lot cannot be called directly, return the coroutine that performs it. After a call that has waited, return
        what it returned, or raise what it raised: `_wait` makes a verdict of that.

        Most of what Penstock adds to a quick operation is in this loop. So the steps of a quick operation are written
        out, and what is the same for all operations is looked up once.
        """
        pending, monotonic, cancelling = slice_.pending, self._monotonic, worker.task.cancelling
        path, method, route = self._path, self._method, self._route
        returns_much: bool | None = None
        while pending:
            slice_.lot = lot = pending.popleft()
            operation = lot[0]
            if route is None or operation.path != path or operation.method != method:
                found = self._find(operation)
                if found is None or found.place is not _LOOP or found.policy.bulk:
                    return self._otherwise(lot, worker, found)
                if found is not route:
                    self.end_slice()
                    self._route, route, returns_much = found, found, None
                self._path, self._method = path, method = operation.path, operation.method
            begun_at = _NEVER
            try:
                arguments = route.arguments(path, operation.body, shows_errors=self._shows_errors)
                slice_.begun_at = begun_at = monotonic()
                if route.signature.context_parameter is None:
                    returned = await route.handler(**arguments)
                else:
                    returned = await call_single(route, self._source, self._number, (operation, arguments), None)
                if worker.has_waited:
                    return returned  # to `_wait`, because `perform` has left
                if returns_much is None:
                    returns_much = self._results.memory.expects_much(route.name)
                result = NOT_SHORT if returns_much else short_copy(returned)
                if result is NOT_SHORT:
                    verdict = verdict_on(route, operation, returned)
                else:
                    verdict = Outcome(operation.index, operation.id, SUCCEEDED, route.policy.status, result)
            except BaseException as error:
                failure = None if worker.has_waited else self._judge_raised(route, operation, error, begun_at, worker)
                if failure is None:
                    raise
                result, verdict = NOT_SHORT, failure
            returned = None  # it need not stay in memory while the next handler waits
            now = monotonic()
            slice_.verdicts[operation.index] = verdict
            if result is not NOT_SHORT:
                self._seconds.append(now - begun_at)
            elif begun_at != _NEVER:
                self._note_call(route, operation, verdict, now - begun_at)
                returns_much = None
            if cancelling():
                return None  # perhaps its handler did that: the worker finds out
            slice_.lot = None
            slice_.ended += 1
            if slice_.is_over(now) or (result is NOT_SHORT and self._results.memory.is_full):
                return None
        return None

    def _find(self, operation: Operation) -> Route | None:
        try:
            return self._match(operation.method, operation.path)
        except InvalidOperation:
            return None

    def end_slice(self) -> None:
        """Count the quick calls since the last slice."""
        if self._seconds:
            assert self._route is not None
            self._succeeded(self._route, self._seconds)
            self._seconds = []

    async def _wait(self, route: Route, operation: Operation, limit: TimeLimit, call: Call, awaited: Any) -> Verdicts:
        """Await the rest of a call that waits for `awaited`. Return no verdict if its worker was left behind."""
        worker = limit.worker
        memory = self._results.memory
        if memory.expects_much(route.name):
            memory.start(route.name, 1, worker)
        try:
            try:
                returned = in_time(await limit.resume(call, awaited), limit)
                verdict = verdict_on(route, operation, returned)
            except BaseException as error:
                error = meaning_of(error, worker, limit)
                if ends_task(error, worker.task):
                    raise
                if worker.is_left:
                    return {}
                verdict = self._judge(route, operation, error)
            self._note_call(route, operation, verdict, self._monotonic() - limit.begun_at)
            return {operation.index: verdict}
        finally:
            memory.end(worker)  # after the result is counted, so that no other operation gets this memory

    def _judge_raised(
        self, route: Route, operation: Operation, error: BaseException, begun_at: float, worker: Worker
    ) -> Verdict | None:
        """Return the verdict if a call has raised `error` before it waited, or None if the worker ends."""
        if begun_at != _NEVER:
            error = meaning_of(error, worker)
            return None if ends_task(error, worker.task) else self._judge(route, operation, error)
        if not isinstance(error, InvalidOperation):
            return None
        verdict = invalid(operation, error)
        self._rejected(verdict)
        return verdict

    def _judge(self, route: Route, operation: Operation, error: BaseException) -> Verdict:
        id_ = None if self._shows_errors else error_id(self._source.name_of(operation), self._number)
        return judge(error, operation, route, id_)

    def _note_call(self, route: Route, operation: Operation, verdict: Verdict, seconds: float) -> None:
        """Count a call that was not quick."""
        self._called(route, verdict, seconds)
        memory = self._results.memory
        if size_of(verdict) or memory.expects_much(route.name):
            self._results.add(memory.learn(route.name, {operation.index: verdict}))
