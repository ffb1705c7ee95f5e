"""Keeps the charges of this front end, and what it has last seen of each account's usage.

A charge is open from the write that makes it until it is known if its operations were accepted. Then it is settled or
given back. If the table shows that a batch was accepted, settling its charge is urgent for nobody, and is part of the
next charge of the account. A charge that stays open lapses: its front end has died, or has had no other request of the
account. The front end that sees it then reads its batch. It settles the charge if the batch was accepted. Otherwise it
abandons the batch, so that it never will be, and gives the charge back.

The clock that counts for a charge is that of the front end that makes it. If the clocks of two front ends differ by
some seconds, a tenant may use at most what becomes available in so many seconds before its time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.quota import Account, Charge, Limit, Usage, give_back
from penstock.service.abandoning import SKEW_SECONDS, find_acceptance
from penstock.service.accounts import Accounts, Seen
from penstock.store import Store
from penstock.telemetry import Event, get_log

FRESH_SECONDS = 5.0  # a usage that is older is read again, for the next answer
REJECTING_SECONDS = 1.0  # a usage that is older is read again before a request is rejected
SETTLED_IN_CALL = 25
ENDED_AT_A_TIME = 20  # charges that have lapsed


@dataclass(slots=True)
class _Seen(Seen[Usage]):
    """The usage of an account as last seen.

    `settled` are charges of accepted batches that are open in the table. `settling` are those that a write settles now.
    """

    settled: list[Charge] = field(default_factory=list)
    settling: set[Charge] = field(default_factory=set)


class Ledger:
    """There is one in each front end."""

    def __init__(self, store: Store, clock: Clock, accept_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._accept_seconds = accept_seconds
        self._accounts = Accounts(clock, _Seen)

    async def usage(self, account: Account) -> Usage | None:
        """Return the usage as last seen. Only a first read is waited for. Return None if the table does not answer."""
        seen = self._accounts.find(account)
        return await self._accounts.refresh(seen, FRESH_SECONDS, partial(self._read, account, seen))

    async def usage_before_rejection(self, account: Account) -> Usage | None:
        """Return a usage of the last second, with no charge that has lapsed."""
        seen = self._accounts.find(account)
        return await self._accounts.refresh(seen, REJECTING_SECONDS, partial(self._read, account, seen), wait=True)

    async def charge(self, limit: Limit, charge: Charge) -> Usage:
        """Charge an account. If the charge is not open in the usage that is returned, its quota did not allow it."""
        seen = self._accounts.find(limit.account)
        usage = await self._charge(limit, charge, seen)
        lapsed = self._lapsed(usage, seen)
        if charge in usage.open:
            if lapsed:
                self._accounts.in_background(partial(self._end_lapsed, limit.account, seen, usage, lapsed))
        elif lapsed:
            await self._end_lapsed(limit.account, seen, usage, lapsed)
            usage = await self._charge(limit, charge, seen)
        return usage

    def settle_later(self, account: Account, charge: Charge) -> None:
        """Settle a charge with the next one. The table shows that its batch was accepted."""
        self._accounts.find(account).settled.append(charge)

    async def settle(self, account: Account, charge: Charge) -> None:
        """Settle a charge now: the table does not show that its operations were accepted."""
        try:
            await self._end(account, self._accounts.find(account), charge, 0)
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, error=str(error))
            self.settle_later(account, charge)

    async def give_back(self, account: Account, charge: Charge) -> None:
        """Give a charge back. If the table does not answer, the charge lapses."""
        try:
            seen = self._accounts.find(account)
            usage = seen.value
            if usage is None or charge not in usage.open:
                usage = await self._store.read_usage(account)
            if (until := usage.open.get(charge)) is not None:
                await self._end(account, seen, charge, give_back(charge.cost, until, self._clock.now()))
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, error=str(error))

    async def _charge(self, limit: Limit, charge: Charge, seen: _Seen) -> Usage:
        settled, seen.settled = seen.settled[:SETTLED_IN_CALL], seen.settled[SETTLED_IN_CALL:]
        seen.settling.update(settled)
        try:
            usage = await self._store.charge(
                limit.account, limit.quota, charge, self._clock.now(), seen=seen.value or Usage(), settled=settled
            )
        except BaseException:
            seen.settled[:0] = settled
            raise
        finally:
            seen.settling.difference_update(settled)
        seen.settled += [one for one in settled if one in usage.open]
        self._accounts.note(seen, usage)
        return usage

    async def _read(self, account: Account, seen: _Seen) -> None:
        """Read a usage and end the charges that have lapsed, unless a write has changed it meanwhile."""
        usage = await self._accounts.read(seen, partial(self._store.read_usage, account))
        if seen.value is usage:
            await self._end_lapsed(account, seen, usage, self._lapsed(usage, seen))

    def _lapsed(self, usage: Usage, seen: _Seen) -> list[Charge]:
        now, settled = self._clock.now() - SKEW_SECONDS, seen.settling.union(seen.settled)
        return [charge for charge in usage.lapsed(now) if charge not in settled][:ENDED_AT_A_TIME]

    async def _end_lapsed(self, account: Account, seen: _Seen, usage: Usage, lapsed: Iterable[Charge]) -> None:
        """Settle charges of batches that were accepted, and give the others back. Leave those that are not decided."""
        for charge in lapsed:
            batch, now = await self._store.read_batch(charge.id), self._clock.now()
            accepted = await find_acceptance(self._store, charge, batch, now, self._accept_seconds)
            if accepted is not None:
                given_back = 0 if accepted else give_back(charge.cost, usage.open[charge], self._clock.now())
                await self._end(account, seen, charge, given_back)

    async def _end(self, account: Account, seen: _Seen, charge: Charge, given_back: int) -> None:
        self._accounts.note(seen, await self._store.end_charge(account, charge, given_back))
