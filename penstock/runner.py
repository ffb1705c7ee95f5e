"""Runs handlers: an attempt at an operation becomes a verdict, whatever the handler does; slots bound how many."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.chunk import Chunk, Operation
from penstock.context import Context, Reject, Retry
from penstock.errors import Misconfigured
from penstock.operations import Operations
from penstock.outcome import TryAgain, Verdict, failed, succeeded
from penstock.route import InvalidOperation, Route
from penstock.telemetry import Event, get_log

MAX_DETAIL_CHARACTERS = 2_000  # so that errors never outgrow the operations they travel with

Transaction = AbstractAsyncContextManager[Any]


class _Unserializable(Exception):
    """The handler returned what JSON cannot hold."""


class Stop:
    """How far stopping has gone. The stages follow one another and are never taken back; followers stop along."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()  # nothing new begins
        self.cut = asyncio.Event()  # the grace period is over: handlers under way are cancelled
        self._followers: dict[Stop, None] = {}  # in their order, or no run could be replayed

    def begin(self) -> None:
        self.begun.set()
        for follower in self._followers:
            follower.begin()

    def cut_off(self) -> None:
        self.cut.set()
        for follower in self._followers:
            follower.cut_off()

    @contextmanager
    def follower(self) -> Iterator["Stop"]:
        """A stop that can come earlier than this one, but not later."""
        follower = Stop()
        self._followers[follower] = None
        if self.begun.is_set():
            follower.begin()
        if self.cut.is_set():
            follower.cut_off()
        try:
            yield follower
        finally:
            del self._followers[follower]


@dataclass(frozen=True, slots=True)
class Source:
    """The batch that an operation is of, as its handler is told. `key_prefix` begins the keys of its operations."""

    batch_id: str
    key_prefix: str


class Runner:
    """One per process: its slots are the bound on handlers in flight, shared by all that the process works on."""

    def __init__(self, operations: Operations[Any], concurrency: int) -> None:
        self._operations = operations
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)

    async def run_chunk(
        self,
        chunk: Chunk,
        source: Source,
        stop: Stop,
        ended: Callable[[], None],
        *,
        may_begin: Callable[[], bool] = lambda: True,
        has_slot: bool = False,
    ) -> dict[int, Verdict]:
        """Run a chunk's operations, each as soon as a slot is free; return the verdicts of those that came to an end.

        What is missing from the verdicts was not run, or was cut short. `ended` is called after each operation. With
        `has_slot` the caller has taken the slot already, for a chunk of a single operation. `may_begin` is asked once
        an operation has its slot: when it is no, this operation does not begin.
        """
        verdicts: dict[int, Verdict] = {}

        async def run_one(operation: Operation) -> None:
            try:
                async with nullcontext() if has_slot else self._slots:
                    if not stop.begun.is_set() and may_begin():
                        verdicts[operation.index] = await self.run(operation, source, chunk.attempt)
            except asyncio.CancelledError:
                if not stop.cut.is_set():
                    # Its handler cancelled the task it runs in. Without a verdict it would follow for ever.
                    verdicts[operation.index] = failed(operation, 500, "Broke", "The handler cancelled its own task.")
                raise
            finally:
                ended()

        tasks = [asyncio.create_task(run_one(operation)) for operation in chunk.operations]
        await _until_done_or(stop.cut, tasks)
        return verdicts

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._slots:
            yield

    @asynccontextmanager
    async def all_slots(self) -> AsyncIterator[None]:
        """Waits until nothing else runs and lets nothing else begin. One caller at a time: two would wait for ever."""
        async with AsyncExitStack() as stack:
            for _ in range(self._concurrency):
                await stack.enter_async_context(self._slots)
            yield

    async def run(
        self,
        operation: Operation,
        source: Source,
        attempt: int,
        transaction: Callable[[], Transaction] | None = None,
    ) -> Verdict:
        """One attempt, in what `transaction` opens; without it in a transaction of its own, where there are any.

        The transaction is left clean when the attempt succeeded, by an exception otherwise. Takes no slot by itself.
        """
        transaction = transaction or self._own_transaction
        try:
            route = self._operations.match(operation.method, operation.path)
            arguments = route.arguments(operation.path, operation.body)
        except InvalidOperation as error:
            # Validated before it was accepted, so the application has changed since: it is told, not tried again.
            return failed(operation, 422, "Invalid operation", str(error), rejected=True)
        try:
            async with asyncio.timeout(route.policy.timeout_seconds) as limit, transaction() as opened:
                key = f"{source.key_prefix}/{operation.id}"
                context = Context(operation.id, source.batch_id, attempt, key, opened)
                result = _to_json(route, await route.call(arguments, context))
            return succeeded(operation, route.policy.status, result)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            return _broke(operation, route, "CancelledError", "The handler was cancelled from within.")
        except (KeyboardInterrupt, GeneratorExit):
            raise  # they are about the process, or the coroutine as such
        except BaseException as error:  # noqa: BLE001 - whatever else a handler raises becomes its operation's outcome
            return _verdict(error, operation, route, timed_out=limit.expired())

    @asynccontextmanager
    async def _own_transaction(self) -> AsyncIterator[Any]:
        if self._operations.transaction is None:
            yield None
            return
        async with self._operations.transaction() as transaction:
            yield transaction


def _verdict(error: BaseException, operation: Operation, route: Route, *, timed_out: bool) -> Verdict:
    """The one place where what went wrong in a handler becomes a verdict."""
    try:
        return _judge(error, operation, route, timed_out=timed_out)
    except Exception:  # noqa: BLE001 - not even its text can be had, or it skipped the constructor of its base class
        return _broke(operation, route, type(error).__name__, "")


def _judge(error: BaseException, operation: Operation, route: Route, *, timed_out: bool) -> Verdict:
    match error:
        case Reject():
            return failed(operation, error.status, "Rejected", error.detail, rejected=True)
        case Retry():
            failure = failed(operation, 503, "Not performed", error.detail)
            return TryAgain(failure, route.policy.max_attempts, error.after_seconds)
        case _Unserializable():
            get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, handler=route.name, error=str(error))
            return failed(operation, 500, "Result is not JSON", str(error))
        case TimeoutError() if timed_out:
            seconds = route.policy.timeout_seconds
            failure = failed(operation, 504, "Timed out", f"The operation was not done within {seconds:g} s.")
            return TryAgain(failure, route.policy.max_attempts)
        case Misconfigured():
            return failed(operation, 500, "Misconfigured", str(error))
        case _:
            get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, handler=route.name, exc_info=error)
            return _broke(operation, route, type(error).__name__, str(error))


def _broke(operation: Operation, route: Route, kind: str, message: str) -> TryAgain:
    detail = f"{kind}: {message}"[:MAX_DETAIL_CHARACTERS] if message else kind
    return TryAgain(failed(operation, 500, "Broke", detail), route.policy.max_attempts)


def _to_json(route: Route, result: Any) -> Any:
    """The result as plain JSON values, by way of its bytes: so nothing is kept that could not be written later.

    Nor read: a parser goes only so deep, and in a chunk record three brackets stand around a result.
    """
    try:
        return from_json(b"[[[%b]]]" % to_json(result))[0][0][0]
    except (PydanticSerializationError, ValueError) as error:
        raise _Unserializable(f"{route.name} returned what JSON cannot hold: {error}") from error


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _until_done_or(cut: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the tasks; cancel what is left of them once `cut` is set."""

    async def cancel_when_cut() -> None:
        await cut.wait()
        for task in tasks:
            task.cancel()

    cutting = asyncio.create_task(cancel_when_cut())
    try:
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        cutting.cancel()
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end  # a fault of ours: what handlers raise are verdicts
