"""Writes the large results of a chunk to the bucket, with patience that has an end.

While they are written, they take memory that the handlers of all tenants share. So a bucket that does not work must not
be awaited for ever: the consumer would start nothing more. After PATIENCE_SECONDS, or when the batch is over, results
that fit are recorded without the bucket, and operations with larger ones have failed.
"""

import math
from collections.abc import Awaitable, Callable

from penstock.bucket import Bucket
from penstock.clock import Clock
from penstock.consumer.outage import Outage
from penstock.errors import Misconfigured, RejectedCall, Unavailable
from penstock.large_results import LargeResults
from penstock.outcome import ChunkRecord
from penstock.telemetry import Event

PATIENCE_SECONDS = 30.0
REPEAT_SECONDS = 1.0


class ResultFiles:
    """The files with the large results of all chunks of a process.

    The patience is that of the process, not of a chunk: it begins when a write fails. It is renewed by a write that
    succeeds, and by PATIENCE_SECONDS in which nothing was tried. Otherwise each chunk would fill the memory for another
    PATIENCE_SECONDS while the bucket does not work.
    """

    def __init__(self, bucket: Bucket | None, clock: Clock) -> None:
        self._large_results = LargeResults(bucket)
        self._clock = clock
        self._outage = Outage(Event.RESULTS_NOT_STORED, is_error=True)
        self._failing_since = self._failed_at = -math.inf

    async def store(
        self, tenant: str, batch_id: str, record: ChunkRecord, is_over: Callable[[], Awaitable[bool]]
    ) -> ChunkRecord | None:
        """Return the record with references to the files. Return None if they could not be written.

        `is_over` says whether the batch is over, so that nobody has to wait for its results any more.
        """
        while True:
            began_at = self._clock.monotonic()
            try:
                stored = await self._large_results.store(tenant, batch_id, record)
            except (Unavailable, Misconfigured, RejectedCall) as error:
                self._outage.report(error)
                if self._is_patience_over(began_at) or await is_over():
                    return None
            else:
                if stored is not record:
                    self._failed_at = -math.inf
                    self._outage.end()
                return stored
            await self._clock.sleep(REPEAT_SECONDS)

    def _is_patience_over(self, began_at: float) -> bool:
        """Return True if writes have failed for long. The last one began at `began_at`, and has just failed."""
        now = self._clock.monotonic()
        if began_at - self._failed_at > PATIENCE_SECONDS:
            self._failing_since = now
        self._failed_at = now
        return now - self._failing_since >= PATIENCE_SECONDS
