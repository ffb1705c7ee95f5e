"""Publishes metrics to CloudWatch every minute. If CloudWatch fails, the program goes on.

A minute that could not be sent is sent later with its own time. Added to a later minute, it would look like a burst.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from penstock.aws.clients import explained, open_cloudwatch
from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.metrics.meter import Figures
from penstock.metrics.metric_data import calls, entries
from penstock.metrics.names import Program
from penstock.settings import Settings
from penstock.telemetry import Event, get_log

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch import CloudWatchClient

NAMESPACE = "Penstock"
MINUTES_KEPT = 15
STAND_IN = (
    "The queue is not on AWS, so no metrics are published there. To publish them, set AWS_ENDPOINT_URL_CLOUDWATCH, or "
    "set PENSTOCK_METRICS to cloudwatch. To turn off this message, set PENSTOCK_METRICS to off."
)


class CloudWatch:
    def __init__(
        self, client: "CloudWatchClient", program: Program, service: str, clock: Clock, *, by_tenant: bool = False
    ) -> None:
        """Create a publisher. `by_tenant` says whether counts by tenant are published, too."""
        self._client = client
        self._program = program
        self._service = service
        self._clock = clock
        self._by_tenant = by_tenant
        self._unsent: deque[tuple[float, Figures]] = deque(maxlen=MINUTES_KEPT)
        self._is_unavailable = False
        self._lost_minutes = 0

    async def publish(self, figures: Figures, within_seconds: float) -> None:
        """Send this minute, and earlier minutes that are still unsent.

        It never raises. It logs when CloudWatch stops answering, and when it answers again.
        """
        if len(self._unsent) == MINUTES_KEPT:
            self._lost_minutes += 1
        self._unsent.append((self._clock.now(), figures))
        try:
            async with asyncio.timeout(within_seconds):
                await self._send_unsent()
        except Exception as error:  # noqa: BLE001 - metrics must never stop the program; it is logged, and the minute is kept
            self._report_outage(error)
        else:
            self._report_recovery()

    async def _send_unsent(self) -> None:
        while self._unsent:
            at, figures = self._unsent[0]
            data = entries(figures, self._program, self._service, at, by_tenant=self._by_tenant)
            for call in calls(data):
                with explained():
                    await self._client.put_metric_data(Namespace=NAMESPACE, MetricData=call)
            self._unsent.popleft()

    def _report_outage(self, error: Exception) -> None:
        if not self._is_unavailable:
            self._is_unavailable = True
            reason = str(error) or "CloudWatch did not answer in time."
            get_log().warning(Event.METRICS_UNSENT, error=reason, minutes_kept=MINUTES_KEPT)

    def _report_recovery(self) -> None:
        if self._is_unavailable:
            get_log().info(Event.METRICS_SENT_AGAIN, lost_minutes=self._lost_minutes)
            self._is_unavailable, self._lost_minutes = False, 0


@asynccontextmanager
async def open_publisher(settings: Settings, program: Program, clock: Clock) -> AsyncIterator[CloudWatch | None]:
    """Yield a publisher, or None if no metrics are published. If AWS's settings are invalid, log it and yield None."""
    async with AsyncExitStack() as stack:
        client = await _open_client(settings, stack)
        if client is None:
            yield None
        else:
            yield CloudWatch(client, program, settings.name, clock, by_tenant=settings.has_tenants)


async def _open_client(settings: Settings, stack: AsyncExitStack) -> "CloudWatchClient | None":
    try:
        client = await stack.enter_async_context(open_cloudwatch(settings))
    except PenstockError as error:
        get_log().warning(Event.METRICS_UNSENT, error=str(error))
        return None
    if client is None and settings.metrics == "auto":
        get_log().info(Event.METRICS_STAY, why=STAND_IN)
    return client
