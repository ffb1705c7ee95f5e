"""Runs `def` handlers, each call in a thread of a pool.

A thread cannot be stopped. When a call's time is up, or the run is cut, its thread is left behind: nobody waits for it
any more, and its place in the pool is free again only when it returns. So there are never more threads than the pool
holds, and while a call hangs for ever there is one less for the others. The threads are daemons: they do not keep the
process from ending, as those of `concurrent.futures` would.
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
from penstock.errors import ThreadsStuck
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.running.slots import Slots

T = TypeVar("T")

LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Returned(Generic[T]):
    value: T


class Threads:
    """Take room with `acquire`, then `run` one call, then `release`: room comes free once the thread has returned.

    All three are told the priority of whose turn it is.
    """

    def __init__(
        self,
        size: int,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = size
        self._room = Slots(size, weights, monotonic)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._idle = 0
        self._left: list[Priority] = []  # of threads that nobody waits for any more
        self._unreleased: list[Priority] = []  # of those whose room is not to be released before they return
        self._any_left = asyncio.Event()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._waiting_for_quiet = 0
        self._is_let_go = False

    async def acquire(self, priority: Priority, tenant: str) -> None:
        await self._room.acquire(priority, tenant)

    def release(self, priority: Priority) -> None:
        if priority in self._unreleased:
            self._unreleased.remove(priority)  # a thread was left behind, and releases it when it returns
        else:
            self._room.release(priority)

    async def run(self, call: Callable[[], T], priority: Priority) -> T:
        """What the call returns or raises; it sees the context variables. Cancelled, it leaves its thread behind."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Returned[T] | BaseException] = loop.create_future()
        context = contextvars.copy_context()

        def perform() -> None:
            outcome = _perform(lambda: context.run(call))
            with contextlib.suppress(RuntimeError):  # the loop is closed: it was left behind, and the program ends
                loop.call_soon_threadsafe(self._end, ended, outcome, priority)

        self._hand_over(perform)
        try:
            outcome = await ended
        except asyncio.CancelledError:
            if ended.cancelled():
                self._leave(priority)
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
        """Raises ThreadsStuck when threads left behind have held up everything that needs one for so long."""
        stuck_since: float | None = None
        while True:
            await self._any_left.wait()
            await clock.sleep(LOOK_SECONDS)
            if not self._hold_up():
                stuck_since = None
            elif stuck_since is None:
                stuck_since = clock.monotonic()
            elif clock.monotonic() - stuck_since >= stall_seconds:
                raise ThreadsStuck(len(self._left))

    def let_go(self) -> None:
        """Nothing begins any more: nobody waits any longer for room that a thread left behind keeps, or for quiet."""
        self._is_let_go = True
        self._none_left.set()
        for priority in self._left:
            self._room.release(priority)

    def close(self) -> None:
        """Let the threads end that have nothing to do; those that are left behind end with the process."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _hold_up(self) -> bool:
        return len(self._left) >= self._size or bool(self._left and self._waiting_for_quiet)

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
        priority: Priority,
    ) -> None:
        self._idle += 1
        if ended.cancelled():
            self._come_back(priority)
        else:
            ended.set_result(outcome)

    def _leave(self, priority: Priority) -> None:
        self._left.append(priority)
        if not self._is_let_go:
            self._unreleased.append(priority)
        self._any_left.set()
        self._none_left.clear()

    def _come_back(self, priority: Priority) -> None:
        self._left.remove(priority)
        if not self._is_let_go:
            self._room.release(priority)
        if not self._left:
            self._any_left.clear()
            self._none_left.set()


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # and all that it was given, which could be much, while there is nothing to do


def _perform(call: Callable[[], T]) -> _Returned[T] | BaseException:
    try:
        return _Returned(call())
    except BaseException as error:  # noqa: BLE001 - raised again where the call is waited for
        return error
