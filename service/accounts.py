"""Remembers what a front end has last seen of each account. The ledgers of quotas and of open operations use it.

An answer needs no call for that. What is too old is read again in the background, for later answers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.latest import Latest
from penstock.quota import Account

MOST_ACCOUNTS = 10_000  # that are remembered

T = TypeVar("T")


@dataclass(slots=True)
class Seen(Generic[T]):
    """What was last seen of an account: `value`, at the monotonic time `at`."""

    value: T | None = None
    at: float = float("-inf")
    reading: asyncio.Task[None] | None = None


S = TypeVar("S", bound=Seen[Any])


class Accounts(Generic[S]):
    """The accounts of the last requests. `new` makes what is remembered of one."""

    def __init__(self, clock: Clock, new: Callable[[], S]) -> None:
        self._clock = clock
        self._new = new
        self._seen = Latest[Account, S](MOST_ACCOUNTS)
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself would not keep them

    def find(self, account: Account) -> S:
        return self._seen.put(account, self._seen.get(account) or self._new())

    def note(self, seen: Seen[T], value: T) -> None:
        seen.value, seen.at = value, self._clock.monotonic()

    async def refresh(
        self, seen: Seen[T], seconds: float, read: Callable[[], Awaitable[None]], *, wait: bool = False
    ) -> T | None:
        """Return what was last seen. If that is older than `seconds`, start to read it again.

        Wait for the read only if nothing was seen yet, or if `wait`. Return None if the table does not answer.
        """
        if not is_running(seen.reading) and self._clock.monotonic() - seen.at > seconds:
            seen.at = self._clock.monotonic()  # if the table does not answer, the next read comes as much later
            seen.reading = self.in_background(read)
        if is_running(seen.reading) and (wait or seen.value is None):
            await asyncio.wait((seen.reading,))
        return seen.value

    async def read(self, seen: Seen[T], read: Callable[[], Awaitable[T]]) -> T:
        """Read an account and note it, unless a write has changed it meanwhile: what was read may be older."""
        before = seen.value
        value = await read()
        if seen.value is before:
            self.note(seen, value)
        return value

    def in_background(self, step: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Take a step in the background. If the table does not answer, the next request tries again."""
        task = asyncio.create_task(_until_unavailable(step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def is_running(task: asyncio.Task[None] | None) -> TypeGuard[asyncio.Task[None]]:
    return task is not None and not task.done()


async def _until_unavailable(step: Callable[[], Awaitable[None]]) -> None:
    with suppress(PenstockError):
        await step()
