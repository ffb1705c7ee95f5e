"""Keeps the charges of this front end, and what it has last seen of each account's usage.

A charge is open from the write that makes it until it is known if its operations were accepted. Then it is settled or
given back. If the table shows that a batch was accepted, settling its charge is urgent for nobody, and is part of the
next charge of the account. A charge that stays open lapses: its front end has died, or has had no other request of the
account. The front end that sees it then reads its batch. It settles the charge if the batch was accepted. Otherwise it
abandons the batch, so that it never will be, and gives the charge back.

The clock that counts for a charge is that of the front end that makes it. If the clocks of two front ends differ by
some seconds, a tenant may use at most what becomes available in so many seconds before its time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from penstock.batch import BatchState
from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.quota import Account, Charge, Limit, Usage, give_back
from penstock.service.abandoning import was_accepted
from penstock.settings import DAY_SECONDS
from penstock.store import Store
from penstock.telemetry import Event, get_log

FRESH_SECONDS = 5.0  # a usage that is older is read again, for the next answer
REJECTING_SECONDS = 1.0  # a usage that is older is read again before a request is rejected
MOST_ACCOUNTS = 10_000  # of which usages are remembered
SETTLED_IN_CALL = 25
ENDED_AT_A_TIME = 20  # charges that have lapsed
SKEW_SECONDS = 2.0


@dataclass(slots=True)
class _Seen:
    """What was last seen of an account.

    `settled` are charges of accepted batches that are open in the table. `settling` are those that a write settles now.
    """

    usage: Usage | None = None
    at: float = float("-inf")
    settled: list[Charge] = field(default_factory=list)
    settling: set[Charge] = field(default_factory=set)
    reading: asyncio.Task[None] | None = None


class Ledger:
    """There is one in each front end."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: OrderedDict[Account, _Seen] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def usage(self, account: Account) -> Usage | None:
        """Return the usage as last seen. Only a first read is waited for. Return None if the table does not answer."""
        seen = self._find(account)
        reading = self._read_if_older(account, seen, FRESH_SECONDS)
        if seen.usage is None and reading is not None:
            await asyncio.wait((reading,))
        return seen.usage

    async def usage_before_rejection(self, account: Account) -> Usage | None:
        """Return a usage of the last second, with no charge that has lapsed."""
        seen = self._find(account)
        if (reading := self._read_if_older(account, seen, REJECTING_SECONDS)) is not None:
            await asyncio.wait((reading,))
        return seen.usage

    async def charge(self, limit: Limit, charge: Charge) -> Usage:
        """Charge an account. If the charge is not open in the usage that is returned, its quota did not allow it."""
        seen = self._find(limit.account)
        usage = await self._charge(limit, charge, seen)
        lapsed = self._lapsed(usage, seen)
        if charge in usage.open:
            if lapsed:
                self._in_background(partial(self._end, limit.account, seen, usage, lapsed))
        elif lapsed:
            await self._end(limit.account, seen, usage, lapsed)
            usage = await self._charge(limit, charge, seen)
        return usage

    def settle_later(self, account: Account, charge: Charge) -> None:
        """Settle a charge with the next one. The table shows that its batch was accepted."""
        self._find(account).settled.append(charge)

    async def settle(self, account: Account, charge: Charge) -> None:
        """Settle a charge now: the table does not show that its operations were accepted."""
        try:
            self._note(self._find(account), await self._store.settle_charges(account, [charge]))
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, error=str(error))
            self.settle_later(account, charge)

    async def give_back(self, account: Account, charge: Charge) -> None:
        """Give a charge back. If the table does not answer, the charge lapses."""
        try:
            seen = self._find(account)
            usage = seen.usage
            if usage is None or charge not in usage.open:
                usage = await self._store.read_usage(account)
            if (until := usage.open.get(charge)) is not None:
                left = give_back(charge.cost, until, self._clock.now())
                self._note(seen, await self._store.give_back(account, charge, left))
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, error=str(error))

    async def _charge(self, limit: Limit, charge: Charge, seen: _Seen) -> Usage:
        settled, seen.settled = seen.settled[:SETTLED_IN_CALL], seen.settled[SETTLED_IN_CALL:]
        seen.settling.update(settled)
        try:
            usage = await self._store.charge(
                limit.account, limit.quota, charge, self._clock.now(), seen=seen.usage or Usage(), settled=settled
            )
        except BaseException:
            seen.settled[:0] = settled
            raise
        finally:
            seen.settling.difference_update(settled)
        seen.settled += [one for one in settled if one in usage.open]
        self._note(seen, usage)
        return usage

    def _read_if_older(self, account: Account, seen: _Seen, seconds: float) -> asyncio.Task[None] | None:
        """Start to read a usage that is older than this. Return the read that is under way, or None."""
        is_reading = seen.reading is not None and not seen.reading.done()
        if not is_reading and self._clock.monotonic() - seen.at > seconds:
            seen.reading = self._in_background(partial(self._read, account, seen))
        return seen.reading if seen.reading is not None and not seen.reading.done() else None

    async def _read(self, account: Account, seen: _Seen) -> None:
        """Read a usage and end the charges that have lapsed. If the table does not answer, the old usage stays."""
        seen.at = self._clock.monotonic()  # if it does not answer, the next read comes as much later
        before = seen.usage
        usage = await self._store.read_usage(account)
        if seen.usage is not before:
            return  # a write has changed it in the meantime, and what was read may be older
        self._note(seen, usage)
        await self._end(account, seen, usage, self._lapsed(usage, seen))

    def _lapsed(self, usage: Usage, seen: _Seen) -> list[Charge]:
        now, settled = self._clock.now() - SKEW_SECONDS, seen.settling.union(seen.settled)
        return [charge for charge in usage.lapsed(now) if charge not in settled][:ENDED_AT_A_TIME]

    async def _end(self, account: Account, seen: _Seen, usage: Usage, lapsed: Iterable[Charge]) -> None:
        """Settle charges of batches that were accepted, and give the others back. Leave those that are not decided."""
        for charge in lapsed:
            accepted = await self._was_accepted(account, charge)
            if accepted:
                ended = await self._store.settle_charges(account, [charge])
            elif accepted is False:
                left = give_back(charge.cost, usage.open[charge], self._clock.now())
                ended = await self._store.give_back(account, charge, left)
            else:
                continue
            self._note(seen, ended)

    async def _was_accepted(self, account: Account, charge: Charge) -> bool | None:
        """Return None if a front end may still accept the batch."""
        now = self._clock.now()
        batch = await self._store.read_batch(charge.id)
        if batch is not None and batch.state is BatchState.ACCEPTING and batch.accept_by + SKEW_SECONDS > now:
            return None
        return await was_accepted(self._store, charge.id, account.tenant, now, charge.lapses_at + DAY_SECONDS)

    def _find(self, account: Account) -> _Seen:
        seen = self._seen.setdefault(account, _Seen())
        self._seen.move_to_end(account)
        if len(self._seen) > MOST_ACCOUNTS:
            self._seen.popitem(last=False)
        return seen

    def _note(self, seen: _Seen, usage: Usage) -> None:
        seen.usage, seen.at = usage, self._clock.monotonic()

    def _in_background(self, step: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(_until_unavailable(step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _until_unavailable(step: Callable[[], Awaitable[None]]) -> None:
    with suppress(PenstockError):  # the next request tries again
        await step()
