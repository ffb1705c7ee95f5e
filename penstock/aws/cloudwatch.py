"""Publishes metrics to CloudWatch, a minute in a call. Whatever CloudWatch does, the program goes on.

A minute that could not be sent is sent with the next, under its own time: added to the next it would look like a burst.
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
    "The queue is not at AWS, but CloudWatch would be: set AWS_ENDPOINT_URL_CLOUDWATCH, or PENSTOCK_METRICS to "
    "cloudwatch if that is meant, or to off."
)


class CloudWatch:
    def __init__(self, client: "CloudWatchClient", program: Program, service: str, clock: Clock) -> None:
        self._client = client
        self._program = program
        self._service = service
        self._clock = clock
        self._unsent: deque[tuple[float, Figures]] = deque(maxlen=MINUTES_KEPT)
        self._is_away = False
        self._lost_minutes = 0

    async def publish(self, figures: Figures, within_seconds: float) -> None:
        """Send this minute, and what is left of those before. Raises nothing; says once that it cannot."""
        if len(self._unsent) == MINUTES_KEPT:
            self._lost_minutes += 1
        self._unsent.append((self._clock.now(), figures))
        try:
            async with asyncio.timeout(within_seconds):
                await self._send_unsent()
        except Exception as error:  # noqa: BLE001 - no trouble with figures is a reason to stop working: said, and kept
            self._say_away(error)
        else:
            self._say_back()

    async def _send_unsent(self) -> None:
        while self._unsent:
            at, figures = self._unsent[0]
            for call in calls(entries(figures, self._program, self._service, at)):
                with explained():
                    await self._client.put_metric_data(Namespace=NAMESPACE, MetricData=call)
            self._unsent.popleft()

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            words = str(error) or "It did not answer in time."
            get_log().warning(Event.METRICS_UNSENT, error=words, minutes_kept=MINUTES_KEPT)

    def _say_back(self) -> None:
        if self._is_away:
            get_log().info(Event.METRICS_SENT_AGAIN, lost_minutes=self._lost_minutes)
            self._is_away, self._lost_minutes = False, 0


@asynccontextmanager
async def open_publisher(settings: Settings, program: Program, clock: Clock) -> AsyncIterator[CloudWatch | None]:
    """None where nothing is to be published, and where AWS's settings cannot be used for it: that is said, once."""
    async with AsyncExitStack() as stack:
        client = await _open_client(settings, stack)
        yield None if client is None else CloudWatch(client, program, settings.name, clock)


async def _open_client(settings: Settings, stack: AsyncExitStack) -> "CloudWatchClient | None":
    try:
        client = await stack.enter_async_context(open_cloudwatch(settings))
    except PenstockError as error:
        get_log().warning(Event.METRICS_UNSENT, error=str(error))
        return None
    if client is None and settings.metrics == "auto":
        get_log().info(Event.METRICS_STAY, why=STAND_IN)
    return client
