"""Runs `def` handlers, each call in a thread of a pool.

A thread cannot be stopped. If a call times out or is cut off, its thread is left behind: nobody waits for it any more,
but it occupies its place in the pool until the call returns. So the pool never grows, and a call that hangs for ever
costs the others one thread. The threads are daemons, so they do not keep the process from ending, as the threads of
`concurrent.futures` would.
"""

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.clock import Clock
from penstock.errors import HandlersStuck
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.running.slots import Slots
from penstock.running.stuck import until_stuck

T = TypeVar("T")

Whose = tuple[Priority, str]  # the priority and the tenant of an operation


@dataclass(frozen=True, slots=True)
class _Returned(Generic[T]):
    value: T


class Threads:
    """A pool of threads. Call `acquire`, `run` one call, then `release`, each with the priority and
    the tenant of the operation.

    A thread that was left behind keeps its place, also after `release`, until its call has returned.
    """

    def __init__(
        self,
        size: int,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        tenants_share: bool = False,
    ) -> None:
        self._size = size
        self._room = Slots(size, weights, monotonic, tenants_share=tenants_share)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._idle = 0
        self._left: list[Whose] = []  # the threads that were left behind
        self._unreleased: list[Whose] = []  # of those whose place is not released before their call returns
        self._any_left = asyncio.Event()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._waiting_for_quiet = 0
        self._is_let_go = False

    @property
    def are_wanted(self) -> bool:
        return self._room.are_wanted

    async def acquire(self, priority: Priority, tenant: str) -> None:
        await self._room.acquire(priority, tenant)

    def release(self, priority: Priority, tenant: str) -> None:
        if (priority, tenant) in self._unreleased:
            self._unreleased.remove((priority, tenant))  # its thread was left behind, and releases the place itself
        else:
            self._room.release(priority, tenant)

    async def run(self, call: Callable[[], T], priority: Priority, tenant: str) -> T:
        """Return what the call returns, or raise what it raises. If this is cancelled, the thread is left behind.

        The call sees the context variables of the caller.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Returned[T] | BaseException] = loop.create_future()
        context = contextvars.copy_context()
        whose = priority, tenant

        def perform() -> None:
            outcome = _perform(lambda: context.run(call))
            with contextlib.suppress(
                RuntimeError
            ):  # the event loop is closed: the thread was left behind, and the program ends
                loop.call_soon_threadsafe(self._end, ended, outcome, whose)

        self._hand_over(perform)
        try:
            outcome = await ended
        except asyncio.CancelledError:
            if ended.cancelled():
                self._leave(whose)
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.value

    async def quiet(self) -> None:
        """Wait until no thread is left behind."""
        if self._is_let_go:
            return
        self._waiting_for_quiet += 1
        try:
            await self._none_left.wait()
        finally:
            self._waiting_for_quiet -= 1

    async def watch(self, stall_seconds: float, clock: Clock) -> None:
        """Run until cancelled. Raise HandlersStuck if threads left behind block all others for `stall_seconds`."""
        await until_stuck(self._hold_up, self._any_left, stall_seconds, clock)
        raise HandlersStuck("def", len(self._left))

    def let_go(self) -> None:
        """Wake up everybody who waits for the place of a thread left behind, or for quiet. Nothing starts any more."""
        self._is_let_go = True
        self._none_left.set()
        for whose in self._left:
            self._room.release(*whose)

    def close(self) -> None:
        """End the idle threads. Those that were left behind end with the process."""
        for _ in range(self._started):
            self._jobs.put(None)

    @property
    def are_all_left(self) -> bool:
        """Return True if every thread is left behind."""
        return len(self._left) >= self._size

    def _hold_up(self) -> bool:
        return self.are_all_left or bool(self._left and self._waiting_for_quiet)

    def _hand_over(self, job: Callable[[], None]) -> None:
        if self._idle:
            self._idle -= 1
        else:
            self._started += 1
            name = f"handlers-{self._started}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)

    def _end(
        self,
        ended: "asyncio.Future[_Returned[T] | BaseException]",
        outcome: _Returned[T] | BaseException,
        whose: Whose,
    ) -> None:
        self._idle += 1
        if ended.cancelled():
            self._come_back(whose)
        else:
            ended.set_result(outcome)

    def _leave(self, whose: Whose) -> None:
        self._left.append(whose)
        if not self._is_let_go:
            self._unreleased.append(whose)
        self._any_left.set()
        self._none_left.clear()

    def _come_back(self, whose: Whose) -> None:
        self._left.remove(whose)
        if not self._is_let_go:
            self._room.release(*whose)
        if not self._left:
            self._any_left.clear()
            self._none_left.set()


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # frees what it refers to, which can be large, while the thread is idle


def _perform(call: Callable[[], T]) -> _Returned[T] | BaseException:
    try:
        return _Returned(call())
    except BaseException as error:  # noqa: BLE001 - `run` raises it again
        return error
