"""Gathers what is asked for one by one into calls that take many: fewer calls, and no waiting for company.

While no call is under way one begins at once, with all that is asked for in the same turn of the event loop. What comes
while calls are under way goes together in the next. So a busy program makes few calls, and an idle one is as quick as
without.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gatherer(Generic[T, R]):
    """`call` answers each item in its place; `fitting` says how many of those that wait, at least one, go into a call.

    Up to `at_once` calls are under way.
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
        self._answers: list[asyncio.Future[R]] = []  # of those that wait, in their order
        self._calls: set[asyncio.Task[None]] = set()
        self._is_gathering = False  # a call has begun that takes along what this turn of the loop still asks for

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._calls)

    async def ask(self, item: T) -> R:
        """The answer to this item. Raises what the call raises, as it does to all that were in it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(item)
        self._answers.append(answer)
        self._begin_call()
        return await answer

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
            results = list(zip(answers, await self._call(items), strict=True))
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is for those who asked
            for answer in answers:
                if not answer.done():  # who asked may have been cancelled
                    answer.set_exception(error)
            return
        for answer, result in results:
            if not answer.done():
                answer.set_result(result)

    def _take(self) -> tuple[list[T], list[asyncio.Future[R]]]:
        count = self._fitting(self._waiting)
        items, self._waiting = self._waiting[:count], self._waiting[count:]
        answers, self._answers = self._answers[:count], self._answers[count:]
        return items, answers


def up_to(most: int) -> Callable[[Sequence[object]], int]:
    """For calls that take a number of items, whatever they are."""
    return lambda items: min(len(items), most)
