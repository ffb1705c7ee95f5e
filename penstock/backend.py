"""The queues and the store that a program works on."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.priority import Priority
from penstock.queue import Queue
from penstock.store import Store

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


@dataclass(frozen=True, slots=True)
class Backend:
    """A chunk is sent to the queue of its batch's priority. On any of them it is valid, wherever it is moved to.

    `spans` are what the program traces by, if it does.
    """

    queues: Mapping[Priority, Queue]
    dead_letters: Queue
    store: Store
    spans: "Spans | None" = None

    async def check(self) -> None:
        """Ask the queues and the table whether they answer. Raises Unavailable or Misconfigured."""
        await asyncio.gather(*(queue.depth() for queue in self.queues.values()), self.store.check())
