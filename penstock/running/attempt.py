"""One attempt: a handler is called with the operations of a lot, and each of them gets a verdict."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.chunk import Operation
from penstock.context import Context
from penstock.errors import HandlerFailed, Misconfigured
from penstock.forwarding.answer import Answer
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict, has_long_result, result_value, size_of, succeeded
from penstock.route import InvalidOperation, Place, Route
from penstock.running.bulk import CallFailed, Lot, Row, is_about_all, read_outcomes, validate
from penstock.running.left_behind import TimeLimit, Worker
from penstock.running.source import Source
from penstock.running.verdict import CancelledWithin, TimedOut, as_json, check_size, error_id, invalid, judge
from penstock.surroundings import CallNext
from penstock.telemetry import Event, get_log

Transaction = AbstractAsyncContextManager[Any]
OpenTransaction = Callable[[], Transaction]

SWALLOWED = "The application's transaction swallowed the exception of its handler. Let it roll back and raise it again."

T = TypeVar("T")

_NOTHING: Any = object()  # marks a missing result, since None is a result
_VERDICTS = (Outcome, TryAgain)


@dataclass(slots=True)
class Attempt:
    """An attempt at the operations of a lot, in one call of their handler."""

    route: Route
    source: Source
    number: int
    rows: list[Row]  # the operations that the handler accepts
    invalid: dict[int, Verdict]  # the verdicts of those that it does not accept
    worker: Worker  # performs it
    count: int = 0  # how many operations the handler was called with
    seconds: float | None = None  # what each of them took; None if there was no call
    shows_errors: bool = True  # the verdicts have the words of unexpected exceptions

    async def within_limits(
        self,
        open_transaction: OpenTransaction | None,
        perform: Callable[[Any], Coroutine[Any, Any, T]],
        monotonic: Callable[[], float],
    ) -> T:
        """Await `perform` within the handler's time limit, and in a transaction if there is one. Raise any error of it.

        The transaction ends cleanly only if `perform` returned in time. Otherwise it is left by an exception: a handler
        that catches its cancellation and returns late has timed out, or nobody waits for it any more.
        """
        begun_at = monotonic()
        cancelling = self.worker.task.cancelling()
        limit = TimeLimit(begun_at, self.route.policy.timeout_seconds, monotonic, self.worker, cancelling)
        try:
            if open_transaction is None:
                return in_time(await limit.run(perform(None)), limit)
            result: T = await limit.run(self._in_transaction(open_transaction, perform, limit))
        except (asyncio.CancelledError, TimeoutError) as error:
            if meaning_of(error, self.worker, limit) is error:
                raise
            raise meaning_of(error, self.worker, limit) from error  # a variable would be a cycle with its traceback
        finally:
            self.count = len(self.rows)
            self.seconds = (monotonic() - begun_at) / self.count
        if result is _NOTHING:
            raise asyncio.CancelledError if is_being_cancelled() else Misconfigured(SWALLOWED)
        return result

    async def _in_transaction(
        self, open_transaction: OpenTransaction, perform: Callable[[Any], Coroutine[Any, Any, T]], limit: TimeLimit
    ) -> T:
        async with open_transaction() as opened:
            return in_time(await perform(in_time(opened, limit)), limit)
        return _NOTHING  # the transaction swallowed an exception

    async def call_on_loop(self, opened: Any) -> list[Any]:
        """Call the handler, and return an outcome for each row."""
        if self.has_middleware:
            return await self.call_within_middleware(opened, lambda: self.call(opened))
        return self._read(await self.call(opened))

    @property
    def has_middleware(self) -> bool:
        return bool(self.route.surroundings.middleware)

    async def call_within_middleware(self, opened: Any, call: CallNext) -> list[Any]:
        """Call the handler within the application's middleware, and return an outcome for each row."""
        return self._read(await self._within_middleware(opened, call))

    async def ask_within_middleware(
        self, opened: Any, ask: Callable[[], Awaitable[Verdict | InvalidOperation]]
    ) -> Verdict | InvalidOperation:
        """Ask another process to perform the only operation, within the application's middleware."""
        [(operation, _)] = self.rows

        async def result() -> Any:
            answer = await ask()
            if isinstance(answer, Outcome) and answer.state is OutcomeState.SUCCEEDED:
                return result_value(answer.result)
            raise HandlerFailed(_words_of(answer), answer)

        try:
            returned = await self._within_middleware(opened, result)
        except HandlerFailed as error:
            answer: Verdict | InvalidOperation = error.answer
            return answer
        return succeeded(operation, self.route.policy.status, as_json(self.route, returned))

    def _within_middleware(self, opened: Any, call: CallNext) -> Awaitable[Any]:
        contexts = self._contexts(opened)
        return self.route.surroundings.call(contexts if self.route.policy.bulk else contexts[0], call)

    def _contexts(self, opened: Any) -> list[Context[Any]]:
        return [context_of(self.route, self.source, self.number, operation, opened) for operation, _ in self.rows]

    def call_in_thread(self, opened: Any) -> list[Any]:
        """Call a handler that is a plain `def`, in the current thread, and return an outcome for each row."""
        return self._read(self.call(opened))

    def call(self, opened: Any) -> Any:
        """Call the handler, and return what it returns."""
        if self.route.policy.bulk:
            return self.route.call_bulk([arguments for _, arguments in self.rows], self._contexts(opened))
        [row] = self.rows
        return call_single(self.route, self.source, self.number, row, opened)

    def _read(self, returned: Any) -> list[Any]:
        if self.route.policy.bulk:
            return read_outcomes(self.route, returned, len(self.rows))
        [(operation, _)] = self.rows
        return [verdict_on(self.route, operation, returned)]

    def share(self, error: BaseException) -> Sequence[BaseException]:
        """Make what the call raised the outcome of each row. Raise CallFailed if it tells nothing about single rows."""
        if len(self.rows) > 1 and not is_about_all(error):
            get_log().warning(Event.BULK_CALL_BROKE, handler=self.route.name, operations=len(self.rows), exc_info=error)
            raise CallFailed from error
        return [error] * len(self.rows)

    def error_id(self, operation: Operation) -> str | None:
        """Return the id that stands for the words of an exception, or None if the verdict has the words."""
        return None if self.shows_errors else error_id(self.source.name_of(operation), self.number)

    def reject_as_invalid(self, error: InvalidOperation) -> None:
        """Note that the handler does not accept the only operation. The process of the handler has validated it."""
        [(operation, _)] = self.rows
        self.rows = []
        self.invalid[operation.index] = invalid(operation, error)

    def judge(self, outcomes: Sequence[Any]) -> dict[int, Verdict]:
        """Turn the outcomes of the rows into verdicts. Each is a result as JSON, an exception, or a verdict already."""
        verdicts: dict[int, Verdict] = {}
        status = self.route.policy.status
        for (operation, _), outcome in zip(self.rows, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                verdicts[operation.index] = judge(outcome, operation, self.route, self.error_id(operation))
            elif isinstance(outcome, _VERDICTS):
                verdicts[operation.index] = outcome
            else:
                verdicts[operation.index] = succeeded(operation, status, outcome)
        return verdicts


def call_single(route: Route, source: Source, number: int, row: Row, opened: Any) -> Any:
    """Call the handler of a single operation. `opened` is what the application's transaction yields."""
    operation, arguments = row
    if route.signature.context_parameter is None:
        return route.handler(**arguments)  # a context that nobody reads would cost a microsecond
    return route.call(arguments, context_of(route, source, number, operation, opened))


def context_of(route: Route, source: Source, number: int, operation: Operation, opened: Any) -> Context[Any]:
    """Return the context of an attempt. `opened` is what the application's transaction yields."""
    key = source.key_of(operation)
    state = route.surroundings.state
    return Context(operation.id, source.batch_id, number, key, opened, source.headers, source.tenant, state)


def _words_of(answer: Verdict | InvalidOperation) -> str:
    if isinstance(answer, InvalidOperation):
        return str(answer)
    error = answer.failure.error if isinstance(answer, TryAgain) else answer.error
    return "" if error is None else str(error.get("detail", error.get("title", "")))


def verdict_on(route: Route, operation: Operation, returned: Any) -> Verdict:
    """Return the verdict on what a handler returned for a single operation.

    Raise Unserializable, ResultTooLarge or Misconfigured.
    """
    if isinstance(returned, Answer):
        verdict = returned.verdict(operation, route.policy.max_attempts)
        if has_long_result(verdict):
            check_size(route, size_of(verdict))
        return verdict
    return succeeded(operation, route.policy.status, as_json(route, returned))


def prepare(
    route: Route, lot: Lot, source: Source, number: int, worker: Worker, *, shows_errors: bool = True
) -> Attempt:
    """Validate the operations of a lot. Those for another process are validated there, to spare the event loop."""
    if route.place is Place.PROCESS:
        rows: list[Row] = [(operation, {}) for operation in lot]
        return Attempt(route, source, number, rows, {}, worker, shows_errors=shows_errors)
    rows, verdicts = validate(route, lot, shows_errors=shows_errors)
    return Attempt(route, source, number, rows, verdicts, worker, shows_errors=shows_errors)


def in_time(value: T, limit: TimeLimit) -> T:
    """Return what an attempt returned. Raise TimedOut if it came too late."""
    if limit.is_over or limit.worker.is_left:
        raise TimedOut
    return value


def meaning_of(error: BaseException, worker: Worker, limit: TimeLimit | None = None) -> BaseException:
    """Return what to judge if an attempt raised `error`.

    This is TimedOut after the time limit, CancelledWithin if nobody asked to cancel the task, and otherwise `error`.
    """
    if isinstance(error, asyncio.CancelledError):
        return error if worker.task.cancelling() else CancelledWithin()
    if isinstance(error, TimeoutError) and limit is not None and limit.is_over:
        return TimedOut()
    return error


def is_being_cancelled() -> bool:
    """Return True if somebody has asked to cancel the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def ends_task(error: BaseException, task: "asyncio.Task[Any] | None") -> bool:
    """Return True if this exception means that the task is cancelled, or closed before it has ended.

    A handler can raise GeneratorExit too. But then its task is running, while a task is closed from outside.
    """
    if isinstance(error, GeneratorExit):
        return _current_task() is not task
    return isinstance(error, asyncio.CancelledError)


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop is running
        return None
