"""Ends batches that nothing else ends: those past their deadline, and cancelled ones that do not settle.

The reason may be lost messages, dead consumers or a purged queue. The sweep counts the open operations of the batch as
expired (or cancelled) and closes its groups, so that nothing more is counted in them. If it cannot end a batch, it
continues with the next one.

One consumer sweeps at a time. It goes on until nothing is due, or until its tenure is over.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.clock import Clock
from penstock.consumer.finisher import Finisher
from penstock.consumer.outage import Outage
from penstock.errors import NewerVersion, PenstockError, Unavailable
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.store import Store, SweepLease
from penstock.telemetry import Event, get_log
from penstock.webhooks.event import new_event

T = TypeVar("T")

BATCHES_AT_ONCE = 10
GROUPS_AT_ONCE = 10  # of all batches together
FAILURES_IN_SWEEP = 5  # so many batches do not fail one after the other unless AWS is unavailable
ASK_AGAIN_SECONDS = 60.0  # for a plan
LONGEST_ASK_AGAIN_SECONDS = 300.0
NOT_VALIDATED = "The file was not validated before the deadline."
PERIODS_OF_TENURE = 2.5  # a consumer that misses two sweeps loses the task to another one


class Tenure:
    """The right to sweep: a lease in the table that one consumer holds and extends.

    The lease is taken over if it stays unchanged for the whole tenure. Each consumer measures that with its own
    monotonic clock. So it does not matter how fast or slow the wall clock of a consumer was that died.
    """

    def __init__(self, store: Store, owner: str, seconds: float, clock: Clock) -> None:
        self._store = store
        self._owner = owner
        self._seconds = seconds
        self._clock = clock
        self._ends_at = float("-inf")
        self._seen: SweepLease | None = None
        self._unchanged_since = 0.0

    async def take(self) -> bool:
        """Take the lease, or extend it. Return False if another consumer has it."""
        asked_at = self._clock.monotonic()
        is_stale = asked_at - self._unchanged_since >= self._seconds
        until = self._clock.now() + self._seconds
        lease = await self._store.take_sweep(self._owner, until, stale=self._seen if is_stale else None)
        if lease != self._seen:
            self._seen, self._unchanged_since = lease, self._clock.monotonic()
        is_ours = lease.owner == self._owner
        self._ends_at = asked_at + self._seconds if is_ours else float("-inf")
        return is_ours

    @property
    def is_held(self) -> bool:
        """Return True while this consumer has the lease."""
        return self._clock.monotonic() < self._ends_at

    async def keep(self) -> bool:
        """Extend the lease if half of it is over. Return False if another consumer has it."""
        return self._ends_at - self._clock.monotonic() > self._seconds / 2 or await self.take()


class Sweeper:
    def __init__(
        self,
        store: Store,
        period_seconds: float,
        clock: Clock,
        meter: Meter | None = None,
        *,
        owner: str | None = None,
        on_event: Callable[[str], None] | None = None,
        ask_to_plan: Callable[[Batch], Awaitable[None]] | None = None,
    ) -> None:
        """Create a sweeper. `owner` identifies this process to the other sweepers. `on_event` is for the finisher.

        `ask_to_plan` lets a consumer go on with a batch that is validating.
        """
        self._ask_to_plan = ask_to_plan
        self._on_event = on_event or (lambda _: None)
        self._store = store
        self._period_seconds = period_seconds
        self._clock = clock
        self._meter = meter or Meter()
        self._finisher = Finisher(store, clock, on_event)
        self._tenure = Tenure(store, owner or secrets.token_hex(8), PERIODS_OF_TENURE * period_seconds, clock)
        self._group_places = asyncio.Semaphore(GROUPS_AT_ONCE)
        self._outage = Outage(Event.SWEEP_FAILED)

    @property
    def is_in_charge(self) -> bool:
        """Return True if this consumer is the one that sweeps."""
        return self._tenure.is_held

    async def keep(self) -> None:
        """Sweep once in each period, until cancelled."""
        while True:
            # Jitter, so that consumers that were started together do not sweep at the same moment.
            await self._clock.sleep(self._period_seconds * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                await self.sweep()
            except PenstockError as error:  # the next sweep tries again
                self._outage.report(error)
            else:
                self._outage.end()

    async def sweep(self) -> None:
        if not await self._tenure.take():
            return
        now = self._clock.now()
        failures: list[PenstockError] = []
        settle = partial(self._try_to_settle, now=now, failures=failures)
        await _for_each(self._due_batches(now, failures), settle, asyncio.Semaphore(BATCHES_AT_ONCE))
        if failures:
            raise failures[0]

    async def _due_batches(self, now: float, failures: list[PenstockError]) -> AsyncIterator[str]:
        """Yield what is due, until the tenure is over or AWS seems to be unavailable."""
        async for batch_id in self._store.due_batches(now):
            outages = sum(isinstance(failure, Unavailable) for failure in failures)
            if outages >= FAILURES_IN_SWEEP or not await self._tenure.keep():
                return
            yield batch_id

    async def _try_to_settle(self, batch_id: str, *, now: float, failures: list[PenstockError]) -> None:
        """Settle a batch. A failure must not keep the other batches open."""
        try:
            batch = await self._store.read_batch(batch_id)
            if batch is not None and not batch.is_final and not batch.is_forgotten(now):
                await self._settle(batch, now)
        except NewerVersion as error:  # a consumer of that version settles it
            get_log().warning(Event.NEWER_VERSION, batch_id=batch_id, error=str(error))
        except PenstockError as error:
            failures.append(error)
        except Exception as error:  # noqa: BLE001 - it is about this batch only
            get_log().error(Event.SWEEP_FAILED, batch_id=batch_id, exc_info=error)

    async def _settle(self, batch: Batch, now: float) -> None:
        if batch.state is BatchState.ACCEPTING:
            if batch.is_overdue(now):
                await self._store.abandon_batch(batch.id)
            return
        if batch.state is BatchState.VALIDATING:
            await self._settle_planning(batch, now)
            return
        ending = batch.ending_at(now)
        if ending is None:
            return  # it was accepted after the index was read
        get_log().warning(Event.BATCH_SWEPT, batch_id=batch.id, ending=ending)
        await _for_each(self._open_groups(batch), partial(self._close, batch, ending), self._group_places)
        if ending is Ending.EXPIRED:  # a cancelled batch that is closed here is nothing to worry about
            self._meter.count(Metric.BATCHES_SWEPT)

    async def _settle_planning(self, batch: Batch, now: float) -> None:
        """End a batch that was not validated in time. Otherwise its planner has died, so let another one go on."""
        if batch.ending_at(now) is not None:
            get_log().warning(Event.BATCH_SWEPT, batch_id=batch.id, ending=Ending.EXPIRED)
            event = new_event(batch, BatchState.EXPIRED, Counts(), now)
            ended = await self._store.end_planning(
                batch.id, BatchState.EXPIRED, now, NOT_VALIDATED, ending=Ending.EXPIRED, event=event
            )
            if ended and event is not None:
                self._on_event(batch.id)
        else:
            # Each time later, so that messages do not pile up while all consumers are busy.
            pause = min(max(ASK_AGAIN_SECONDS, now - batch.created_at), LONGEST_ASK_AGAIN_SECONDS)
            await self._store.postpone_planning(batch.id, min(now + pause, batch.deadline_at))
        if self._ask_to_plan is not None:  # also for a batch that has ended: its charges are given back
            await self._ask_to_plan(batch)

    async def _open_groups(self, batch: Batch) -> AsyncIterator[int]:
        """Yield the groups that are not finished, until the tenure is over.

        If a consumer died just before it finished the batch, all groups are finished. Then finishing one of them again
        finishes the batch.
        """
        numbers = [number for number in range(len(batch.group_totals)) if number not in batch.finished_groups]
        for number in numbers or [0]:
            if not await self._tenure.keep():
                return
            yield number

    async def _close(self, batch: Batch, ending: Ending, number: int) -> None:
        """Close a group unless it is complete. Consumers may count in it meanwhile, so read it again until it is."""
        while True:
            group = await self._store.read_group(batch.id, number)
            if group.counts.completed >= batch.group_totals[number]:
                break
            await self._store.close_group(batch, number, group.counts, ending)
        await self._finisher.finish(batch, number, group)


async def _for_each(
    things: AsyncIterable[T], act: Callable[[T], Coroutine[Any, Any, None]], places: asyncio.Semaphore
) -> None:
    """Act on each thing as soon as one of the places is free, so that only a few are in memory.

    The first error cancels the rest, and is raised.
    """
    try:
        async with asyncio.TaskGroup() as acting:
            async for thing in things:
                await places.acquire()
                task = acting.create_task(act(thing))
                task.add_done_callback(lambda _: places.release())  # also if it is cancelled before it starts
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
