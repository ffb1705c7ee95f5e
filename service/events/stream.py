"""A stream of events to one client: pings, a bound on what waits for the client, and the reasons for which it ends.

A front end has a bounded number of streams. A stream takes a share of the memory for requests only for the outcomes
that it is sending. A share for a whole stream would be released only after hours.

A stream has no queue. Whoever fills it waits until the client has read the last event, and then sends what is newest.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from penstock.clock import Clock
from penstock.errors import NotAuthenticated, Overloaded, PenstockError, QuotaExceeded, UnknownBatch
from penstock.service.caller import tenant_of
from penstock.service.events.framing import MEDIA_TYPE, PING, RETRY
from penstock.service.events.watching import Seen, Watching
from penstock.service.json_answer import writing
from penstock.service.keys import CHECK_KEY, CLOCK
from penstock.service.request_ids import request_id
from penstock.telemetry import Event, get_log

MOST_STREAMS = 1_000  # in a front end; each takes about 13 KB
MOST_STREAMS_OF_TENANT = 250
RETRY_AFTER_SECONDS = 30
PIECE_BYTES = 131_072  # of an event: the transport holds another copy of what the client has not read of a piece
TICK_SECONDS = 1
PING_SECONDS = 15  # load balancers cut a connection that is idle for 60 s
# A key that is revoked works for 60 s in the front ends that know it. So what is known for longer than 60 s minus this
# interval does not count in a check.
CHECK_SECONDS = 15

HEADERS = {
    hdrs.CONTENT_TYPE: MEDIA_TYPE,
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events until its buffer is full
}


class StreamOver(Exception):
    """The stream has ended: this front end stops, or the key of the client is not valid any more."""


class Streams:
    """All open streams of this front end."""

    def __init__(self, clock: Clock, *, has_tenants: bool) -> None:
        self._clock = clock
        self._has_tenants = has_tenants
        self._open: set[Stream] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._are_ending = False

    def add(self, stream: "Stream") -> None:
        """Add a stream. Raises QuotaExceeded or Overloaded if there are too many."""
        self._check_room(stream.tenant)
        self._open.add(stream)
        if self._are_ending:
            stream.end()
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), name="event streams")

    def remove(self, stream: "Stream") -> None:
        self._open.discard(stream)

    def end_all(self) -> None:
        """End the streams, so that the clients connect again elsewhere. Later streams end immediately."""
        self._are_ending = True
        for stream in self._open:
            stream.end()

    def _check_room(self, tenant: str) -> None:
        # Streams whose client has left are still open until their next turn.
        open_now = Counter(stream.tenant for stream in self._open if not stream.has_lost_client)
        if self._has_tenants and open_now[tenant] >= MOST_STREAMS_OF_TENANT:
            raise QuotaExceeded(
                f"{open_now[tenant]:,} streams of events are open. At most {MOST_STREAMS_OF_TENANT:,} may be, in each "
                f"front end. Close streams that you do not need, or read the status instead. Try again in "
                f"{RETRY_AFTER_SECONDS} s.",
                "streams",
                RETRY_AFTER_SECONDS,
            )
        if open_now.total() >= MOST_STREAMS:
            raise Overloaded(
                f"{open_now.total():,} streams of events are open, and this front end allows no more. Read the status "
                "instead, or try again in a moment."
            )

    async def _tick(self) -> None:
        """Give each stream its turn when it has something to do without a new status."""
        while self._open:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            for stream in self._open:
                stream.wake_if_due(now)
        self._ticking = None


STREAMS = web.AppKey("streams", Streams)


class Stream:
    """A stream of events to one client, who watches a batch."""

    def __init__(self, request: web.Request, watching: Watching) -> None:
        self.tenant = tenant_of(request)
        self.answer = web.StreamResponse(headers=HEADERS)
        self.answer.force_close()
        self._request = request
        self._watching = watching
        self._clock = request.app[CLOCK]
        self._writer: AbstractStreamWriter | None = None
        self._ping_at = self._check_at = self._clock.monotonic() + PING_SECONDS
        self._is_over = False
        self._is_sending = False

    @property
    def has_lost_client(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def start(self) -> None:
        """Send the headers of the answer."""
        if self._request.transport is not None:
            # Otherwise `drain` would return while up to 64 KiB wait for the client.
            self._request.transport.set_write_buffer_limits(high=0)
        self._writer = await self.answer.prepare(self._request)
        await self.send(RETRY)

    async def changes(self) -> AsyncIterator[Seen]:
        """Yield the newest status whenever it has changed, up to the final one. Raises StreamOver.

        What is skipped while the client reads an earlier one is not missed: each status is complete.
        """
        seen: Seen | None = None
        while seen is None or not seen.is_final:
            self._watching.wake.clear()
            await self.do_what_is_due()
            if self._watching.newest is seen:
                await self._watching.wake.wait()
            else:
                seen = self._watching.newest
                yield seen

    async def do_what_is_due(self) -> None:
        """Check the key and send a ping if it is time to. Raises StreamOver if the stream must end."""
        if self._is_over:
            raise StreamOver
        now = self._clock.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            await self._check_key()
        if now >= self._ping_at or self.has_lost_client:
            await self.send(PING)

    async def pause(self) -> None:
        """Wait until there is a new status or something else to do. Raises StreamOver."""
        self._watching.wake.clear()
        await self.do_what_is_due()  # `end` may have been called before the event was cleared
        await self._watching.wake.wait()

    async def send(self, data: bytes) -> None:
        """Send events, and wait until the client has read all but what the operating system buffers.

        Raises ConnectionResetError if the client has left, or does not read for a minute.
        """
        assert self._writer is not None, "`start` comes first"
        self._is_sending = True
        async with writing(self._request, len(data)):
            for start in range(0, len(data), PIECE_BYTES):
                await self._writer.write(data[start : start + PIECE_BYTES])
                await self._writer.drain()
        self._is_sending = False
        self._ping_at = self._clock.monotonic() + PING_SECONDS

    def wake_if_due(self, now: float) -> None:
        if now >= min(self._ping_at, self._check_at) or self.has_lost_client:
            self._watching.wake.set()

    def end(self) -> None:
        """End the stream at its next turn. If the client does not read, close the connection immediately."""
        self._is_over = True
        self._watching.wake.set()
        if self._is_sending and self._request.transport is not None:
            self._request.transport.abort()

    async def _check_key(self) -> None:
        check = self._request.get(CHECK_KEY)
        if check is None:
            return
        try:
            await check(fresh_seconds=CHECK_SECONDS)
        except NotAuthenticated as error:
            raise StreamOver from error
        except PenstockError:
            pass  # AWS is away. The next check tells.


@asynccontextmanager
async def open_stream(request: web.Request, watching: Watching) -> AsyncIterator[Stream]:
    """Send a stream of events while the context is open.

    Raises QuotaExceeded or Overloaded if there are too many streams. From then on the answer has started, so no error
    is raised. If the stream ends early, the client connects again.
    """
    stream = Stream(request, watching)
    request.app[STREAMS].add(stream)
    try:
        await stream.start()
        yield stream
    except StreamOver:
        pass
    except ConnectionResetError:
        pass  # the client closed the connection, or does not read
    except Exception as error:  # noqa: BLE001 - any error: the middleware cannot answer it any more
        _log(request, error)
        if request.transport is not None:
            request.transport.abort()
    finally:
        request.app[STREAMS].remove(stream)


def _log(request: web.Request, error: Exception) -> None:
    if not isinstance(error, UnknownBatch):  # the retention of the batch is over
        get_log().error(Event.REQUEST_BROKE, request_id=request_id(request), path=request.path, exc_info=error)
