"""Combines single requests into batch API calls, without making any request wait for others to arrive.

If no call is in flight, one starts immediately, with everything that is requested in the same turn of the event loop.
Requests that arrive while calls are in flight go together into the next call. So a busy program makes few calls, and an
idle one answers as fast as without this.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.errors import RejectedCall

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Failed:
    """The result of an item whose call has failed."""

    error: Exception


class Gatherer(Generic[T, R]):
    """Combines items into calls. Up to `at_once` calls are in flight.

    `call` gets some items and returns the answer to each of them, in the same order. `fitting` gets the items that wait
    and returns how many of them go into the next call, at least one.
    """

    def __init__(
        self,
        call: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        fitting: Callable[[Sequence[T]], int],
        *,
        at_once: int = 1,
    ) -> None:
        self._call = call
        self._fitting = fitting
        self._at_once = at_once
        self._waiting: list[T] = []
        self._answers: list[asyncio.Future[R]] = []  # one for each item in `_waiting`, in the same order
        self._calls: set[asyncio.Task[None]] = set()
        self._is_gathering = False

    def has_room_for(self, item: T) -> bool:
        """Return True if a call starts in this turn of the loop, and has room for this item after those that wait."""
        waiting = [*self._waiting, item]
        return self._is_gathering and self._fitting(waiting) == len(waiting)

    @property
    def is_idle(self) -> bool:
        """Return True if nothing waits and no call is in flight. The last caller already sees it."""
        return not self._waiting and all(call.done() for call in self._calls)

    async def ask(self, item: T) -> R:
        """Return the answer to this item. If the call fails, every item in it gets the call's exception.

        But a call that AWS rejects as invalid may be the fault of one item. So each of its items is tried again alone.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(item)
        self._answers.append(answer)
        self._begin_call()
        try:
            return await answer
        finally:
            del answer  # has the error, which would keep the item in memory otherwise: see `penstock.waiting`

    def _begin_call(self) -> None:
        if self._waiting and not self._is_gathering and len(self._calls) < self._at_once:
            self._is_gathering = True
            call = asyncio.create_task(self._make_call())
            self._calls.add(call)
            call.add_done_callback(self._end_call)

    def _end_call(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._begin_call()

    async def _make_call(self) -> None:
        await asyncio.sleep(0)
        items, answers = self._take()
        self._is_gathering = False
        self._begin_call()
        try:
            results = await self._results(items)
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        for answer, result in zip(answers, results, strict=True):
            if answer.done():
                continue  # its caller was cancelled
            if isinstance(result, _Failed):
                answer.set_exception(result.error)
            else:
                answer.set_result(result)

    async def _results(self, items: Sequence[T]) -> Sequence[R | _Failed]:
        try:
            results = await self._call(items)
            return [result for _, result in zip(items, results, strict=True)]
        except RejectedCall as error:
            if len(items) == 1:
                return [_Failed(error)]
        except Exception as error:  # noqa: BLE001 - every caller gets it
            return [_Failed(error)] * len(items)
        return [result for item in items for result in await self._results([item])]

    def _take(self) -> tuple[list[T], list[asyncio.Future[R]]]:
        count = self._fitting(self._waiting)
        items, self._waiting = self._waiting[:count], self._waiting[count:]
        answers, self._answers = self._answers[:count], self._answers[count:]
        return items, answers


def up_to(most: int) -> Callable[[Sequence[object]], int]:
    """Return a `fitting` for calls that accept up to `most` items, of any size."""
    return lambda items: min(len(items), most)
