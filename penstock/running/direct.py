"""Calls handlers on the event loop in the shortest way: for single operations, outside of transactions.

An `Attempt` takes several coroutines, and together they cost more than a quick operation. Here a handler that never
waits takes no coroutine but its own, and one that waits takes one more. Verdicts are the same as those of an `Attempt`.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from penstock.chunk import Operation
from penstock.outcome import Verdict, size_of
from penstock.route import InvalidOperation, Place, Route
from penstock.running.attempt import call_single, ends_task, in_time, meaning_of, verdict_on
from penstock.running.bulk import Lot
from penstock.running.left_behind import TimeLimit, Worker
from penstock.running.result_memory import ChunkResults
from penstock.running.source import Source
from penstock.running.verdict import error_id, invalid, judge

Call = Coroutine[Any, Any, Any]
Verdicts = dict[int, Verdict]  # by index

_LOOP = Place.LOOP  # a variable, for the same reason as SUCCEEDED in `outcome.py`


@dataclass(frozen=True, slots=True)
class DirectCalls:
    """Performs attempts at single operations of one chunk.

    `called` gets the verdict of each call with its seconds, and `rejected` the verdict on each invalid operation.
    """

    match: Callable[[str, str], Route]  # raises InvalidOperation
    otherwise: Callable[[Lot, Worker, Route | None], Coroutine[Any, Any, Verdicts]]  # performs all other lots
    source: Source
    number: int  # of the attempt
    monotonic: Callable[[], float]
    results: ChunkResults
    shows_errors: bool
    called: Callable[[Route, Verdict, float], None]
    rejected: Callable[[Verdict], None]

    def perform(self, lot: Lot, worker: Worker) -> Verdicts | Coroutine[Any, Any, Verdicts]:
        """Perform one attempt. Return its verdict, or a coroutine that returns it if the handler waits."""
        operation = lot[0]
        try:
            route = self.match(operation.method, operation.path)
        except InvalidOperation:
            return self.otherwise(lot, worker, None)
        if route.place is not _LOOP or route.policy.bulk:
            return self.otherwise(lot, worker, route)
        try:
            arguments = route.arguments(operation.path, operation.body, shows_errors=self.shows_errors)
        except InvalidOperation as error:
            verdict: Verdict = invalid(operation, error)
            self.rejected(verdict)
            return {operation.index: verdict}
        begun_at = self.monotonic()
        cancelling = worker.task.cancelling()
        try:
            called = call_single(route, self.source, self.number, (operation, arguments), None)
            call = called if isinstance(called, types.CoroutineType) else _await(called)
            try:
                awaited = call.send(None)
            except StopIteration as end:
                returned = end.value
            else:
                limit = TimeLimit(begun_at, route.policy.timeout_seconds, self.monotonic, worker, cancelling)
                return self._wait(route, operation, limit, call, awaited)
            verdict = verdict_on(route, operation, returned)
        except BaseException as error:
            error = meaning_of(error, worker)
            if ends_task(error, worker.task):
                raise
            verdict = self._judge(route, operation, error)
        return self._end(route, operation, verdict, begun_at)

    async def _wait(self, route: Route, operation: Operation, limit: TimeLimit, call: Call, awaited: Any) -> Verdicts:
        """Await the rest of a call that waits for `awaited`. Return no verdict if its worker was left behind."""
        worker = limit.worker
        memory = self.results.memory
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
        id_ = None if self.shows_errors else error_id(self.source.name_of(operation), self.number)
        return judge(error, operation, route, id_)

    def _end(self, route: Route, operation: Operation, verdict: Verdict, begun_at: float) -> Verdicts:
        """Count a call, and return its verdict."""
        verdicts = {operation.index: verdict}
        self.called(route, verdict, self.monotonic() - begun_at)
        memory = self.results.memory
        if size_of(verdict) or memory.expects_much(route.name):
            self.results.add(memory.learn(route.name, verdicts))
        return verdicts


async def _await(awaitable: Awaitable[Any]) -> Any:
    """Make a coroutine of any awaitable. A function that is only marked as a coroutine function may return one."""
    return await awaitable
