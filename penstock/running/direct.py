"""Calls handlers on the event loop in the shortest way: for single operations, outside of transactions.

An `Attempt` takes several coroutines, and together they cost more than a quick operation. Here a handler that never
waits takes no coroutine but its own, and one that waits takes one more. Verdicts are the same as those of an `Attempt`.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from penstock.chunk import Operation
from penstock.outcome import Outcome, Verdict, size_of, succeeded
from penstock.route import InvalidOperation, Place, Route
from penstock.running.attempt import call_single, ends_task, in_time, meaning_of, verdict_on
from penstock.running.bulk import Lot
from penstock.running.left_behind import TimeLimit, Worker
from penstock.running.result_memory import ChunkResults
from penstock.running.source import Source
from penstock.running.verdict import NOT_SHORT, error_id, invalid, judge, short_copy

Call = Coroutine[Any, Any, Any]
Verdicts = dict[int, Verdict]  # by index
Performed = Outcome | Verdicts | Coroutine[Any, Any, Verdicts]  # an outcome alone is that of a quick operation

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

    def perform(self, lot: Lot, worker: Worker) -> Performed:
        """Perform one attempt. Return the outcome of a quick operation, and otherwise the verdicts by index.

        If the handler waits, return a coroutine of the verdicts.
        """
        operation = lot[0]
        route = self._route
        if route is None or operation.path != self._path or operation.method != self._method:
            found = self._find(operation)
            if found is None or found.place is not _LOOP or found.policy.bulk:
                return self._otherwise(lot, worker, found)
            route = self._remember(operation, found)
        try:
            arguments = route.arguments(operation.path, operation.body, shows_errors=self._shows_errors)
        except InvalidOperation as error:
            verdict: Verdict = invalid(operation, error)
            self._rejected(verdict)
            return {operation.index: verdict}
        begun_at = self._monotonic()
        cancelling = worker.task.cancelling()
        try:
            called = (
                route.handler(**arguments)
                if route.signature.context_parameter is None
                else call_single(route, self._source, self._number, (operation, arguments), None)
            )
            call = called if isinstance(called, types.CoroutineType) else _await(called)
            try:
                awaited = call.send(None)
            except StopIteration as end:
                returned = end.value
            else:
                limit = TimeLimit(begun_at, route.policy.timeout_seconds, self._monotonic, worker, cancelling)
                return self._wait(route, operation, limit, call, awaited)
            result = short_copy(returned)
            if result is not NOT_SHORT and not self._results.memory.expects_much(route.name):
                self._seconds.append(self._monotonic() - begun_at)
                return succeeded(operation, route.policy.status, result)
            verdict = verdict_on(route, operation, returned)
        except BaseException as error:
            error = meaning_of(error, worker)
            if ends_task(error, worker.task):
                raise
            verdict = self._judge(route, operation, error)
        return self._end(route, operation, verdict, begun_at)

    def _find(self, operation: Operation) -> Route | None:
        try:
            return self._match(operation.method, operation.path)
        except InvalidOperation:
            return None

    def _remember(self, operation: Operation, route: Route) -> Route:
        """Keep the route for the next operations, and return it."""
        if route is not self._route:
            self.end_slice()
        self._method, self._path, self._route = operation.method, operation.path, route
        return route

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
            return self._end(route, operation, verdict, limit.begun_at)
        finally:
            memory.end(worker)  # after the result is counted, so that no other operation gets this memory

    def _judge(self, route: Route, operation: Operation, error: BaseException) -> Verdict:
        id_ = None if self._shows_errors else error_id(self._source.name_of(operation), self._number)
        return judge(error, operation, route, id_)

    def _end(self, route: Route, operation: Operation, verdict: Verdict, begun_at: float) -> Verdicts:
        """Count a call, and return its verdict."""
        verdicts = {operation.index: verdict}
        self._called(route, verdict, self._monotonic() - begun_at)
        memory = self._results.memory
        if size_of(verdict) or memory.expects_much(route.name):
            self._results.add(memory.learn(route.name, verdicts))
        return verdicts


async def _await(awaitable: Awaitable[Any]) -> Any:
    """Make a coroutine of any awaitable. A function that is only marked as a coroutine function may return one."""
    return await awaitable
