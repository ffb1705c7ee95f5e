"""Queues and a store in memory whose calls fail where a test says so."""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from penstock.backend import Backend
from penstock.bucket import Bucket
from penstock.errors import Unavailable
from penstock.queue import Queue
from penstock.store import Store
from penstock.testing import MemoryParts

Moment = Literal["before", "after"]
Watch = Callable[[str, Moment], Awaitable[None] | None]


def watched(parts: MemoryParts, watch: Watch) -> Backend:
    """Return a backend that calls `watch` before and after each call, such as `store.commit_chunk`.

    `watch` may raise, or return what the call waits for. The queue of the priority `normal` is called `chunks`; the
    others are `chunks-high` and `chunks-low`.
    """

    def wrap(name: str, part: Any) -> Any:
        return _Watched(name, part, watch)

    names = {
        priority: "chunks" if queue is parts.chunks else f"chunks-{priority}"
        for priority, queue in parts.queues.items()
    }
    return Backend(
        queues={priority: cast("Queue", wrap(names[priority], queue)) for priority, queue in parts.queues.items()},
        dead_letters=cast("Queue", wrap("dead_letters", parts.dead_letters)),
        store=cast("Store", wrap("store", parts.store)),
        bucket=None if parts.bucket is None else cast("Bucket", wrap("bucket", parts.bucket)),
    )


@dataclass
class Outage:
    """Fails one kind of call `times` times: before it takes effect, or after it, as if the answer were lost."""

    call: str
    moment: Moment = "before"
    times: float = math.inf

    def __call__(self, call: str, moment: Moment) -> None:
        if (call, moment) == (self.call, self.moment) and self.times > 0:
            self.times -= 1
            raise Unavailable(f"AWS does not answer: {call}.")


class _Watched:
    def __init__(self, name: str, part: Any, watch: Watch) -> None:
        self._name = name
        self._part = part
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            await self._pass(name, "before")
            await asyncio.sleep(0)  # other tasks run during a call, as they do on a network
            answer = await method(*arguments, **options)
            await asyncio.sleep(0)
            await self._pass(name, "after")
            return answer

        return call

    async def _pass(self, name: str, moment: Moment) -> None:
        waiting = self._watch(f"{self._name}.{name}", moment)
        if waiting is not None:
            await waiting
