"""The queues, the store and the bucket that a program works with."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.bills import Bills
from penstock.bucket import Bucket
from penstock.errors import NotConfigured
from penstock.priority import Priority
from penstock.queue import Queue
from penstock.store import Store

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


@dataclass(frozen=True, slots=True)
class Backend:
    """The queues and the store. A chunk is sent to the queue of its batch's priority, and is valid on any of them.

    `spans` creates the program's trace spans. It is None if the program is not traced. `bills` has what the calls for
    each batch have cost. `bucket` is None if no bucket is set.
    """

    queues: Mapping[Priority, Queue]
    dead_letters: Queue
    store: Store
    spans: "Spans | None" = None
    bills: Bills = field(default_factory=Bills)
    bucket: Bucket | None = None

    def require_bucket(
        self, purpose: str = "uploads", instead: str = "Send the file in the body of POST /batch."
    ) -> Bucket:
        """Return the bucket. Raises NotConfigured, which says for what it is needed, and what to do without it."""
        if self.bucket is None:
            raise NotConfigured(
                f"There is no bucket for {purpose} here. {instead} Or ask an operator to set PENSTOCK_BUCKET to the "
                "name of an S3 bucket, for all front ends and consumers."
            )
        return self.bucket

    async def check(self) -> None:
        """Check that the queues and the table answer. Raises Unavailable or Misconfigured if one does not."""
        await asyncio.gather(*(queue.depth() for queue in self.queues.values()), self.store.check())
