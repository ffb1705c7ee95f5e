"""Charges the operations of a file to the quotas of its caller, and counts them as open, once their number is known.

The charge is the same whoever makes it: its id is the batch's, and it lapses with the deadline of the batch. So a
planner that goes on finds the charge of the one before. If nobody settles it or gives it back, the front end that sees
it lapsed does, as with every charge: see `service/ledger.py`.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.ending import counts_of
from penstock.open_limit import OpenBatch, OpenLimit, OpenOperations
from penstock.planning import PlannedFile
from penstock.quota import Charge, Limit, NeverFits, TooSoon, give_back
from penstock.store import Store

KEPT_SECONDS = 60 * 24 * 3600.0  # an entry of open operations, after the last batch
LONGEST_WAIT_SECONDS = 60.0
COUNTED_AT_ONCE = 16  # batches whose open operations are counted


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A limit does not allow the operations. If `seconds` is None, it never will."""

    detail: str
    seconds: float | None = None


class Charging:
    def __init__(self, batch: Batch, file: PlannedFile, total: int, store: Store, clock: Clock) -> None:
        self._batch = batch
        self._file = file
        self._total = total
        self._store = store
        self._clock = clock
        self._lapses_at = math.ceil(batch.deadline_at)
        self._charged: list[Limit] = []  # by this planner, and not by an earlier one
        self._opened: list[OpenLimit] = []

    @property
    def _words(self) -> str:
        return f"The file has {self._total:,} operations"

    async def charge(self) -> NoRoom | None:
        """Charge every quota and count the operations as open. Return the limit that does not allow it."""
        for open_limit in self._file.open_limits:
            if self._total > open_limit.operations:
                return NoRoom(f"{self._words}, and at most {open_limit.operations:,} may be open.")
        for limit in self._file.limits:
            if (rejected := await self._charge(limit)) is not None:
                return rejected
        for open_limit in self._file.open_limits:
            if (rejected := await self._open(open_limit)) is not None:
                return rejected
        return None

    async def settle(self) -> None:
        """Settle the charges of a batch that is accepted."""
        for limit in self._file.limits:
            await self._store.end_charge(limit.account, self._charge_of(limit), 0)

    async def give_back(self) -> None:
        """Give the charges back, and remove the open operations, of a batch that is not accepted."""
        await self._give_back(self._file.limits, self._file.open_limits)

    async def take_back(self) -> None:
        """Give back only what this planner has charged: another one has accepted the batch, and settled its charges."""
        await self._give_back(self._charged, self._opened)

    async def _give_back(self, limits: Sequence[Limit], open_limits: Sequence[OpenLimit]) -> None:
        for limit in limits:
            charge = self._charge_of(limit)
            usage = await self._store.read_usage(limit.account)
            if charge in usage.open:
                amount = give_back(charge.cost, usage.open[charge], self._clock.now())
                await self._store.end_charge(limit.account, charge, amount)
        for open_limit in open_limits:
            entry = OpenBatch(self._batch.id, self._lapses_at)
            is_open = await self._store.read_open(open_limit.account)
            if entry in is_open.entries:
                await self._store.lower_open(open_limit.account, {entry: (is_open.entries[entry], 0)})

    async def _charge(self, limit: Limit) -> NoRoom | None:
        charge, now = self._charge_of(limit), self._clock.now()
        usage = await self._store.read_usage(limit.account)
        if charge in usage.open:
            return None
        decision = limit.quota.charge(self._total, usage.tat, now)
        quota = f"{limit.quota.operations:,} operations in {limit.quota.window_seconds:,} s"
        words = f"{self._words}, and the quota is {quota}."
        if isinstance(decision, NeverFits):
            return NoRoom(words)
        if not isinstance(decision, TooSoon):
            usage = await self._store.charge(limit.account, limit.quota, charge, now, seen=usage, settled=())
            if charge in usage.open:
                self._charged.append(limit)
                return None
            decision = limit.quota.charge(self._total, usage.tat, now)
        seconds = decision.retry_after_seconds if isinstance(decision, TooSoon) else 1.0
        return NoRoom(words, max(1.0, seconds))

    async def _open(self, limit: OpenLimit) -> NoRoom | None:
        """Count the operations as open. If there is no room, count out what has finished, and leave it for later."""
        entry = OpenBatch(self._batch.id, self._lapses_at)
        is_open = await self._store.read_open(limit.account)
        if entry in is_open.entries:
            return None
        if not limit.has_room(is_open, self._total):
            is_open = await self._count_out(limit, is_open)
        expires_at = self._clock.now() + KEPT_SECONDS
        is_open = await self._store.add_open(
            limit.account, entry, self._total, most=limit.operations, expires_at=expires_at
        )
        if entry in is_open.entries:
            self._opened.append(limit)
            return None
        return NoRoom(
            f"{self._words}, and {is_open.total:,} of earlier batches have not finished.", LONGEST_WAIT_SECONDS
        )

    async def _count_out(self, limit: OpenLimit, is_open: OpenOperations) -> OpenOperations:
        """Lower the entries of batches that are accepted to what is open of them."""
        entries, changes = list(is_open.entries), dict[OpenBatch, tuple[int, int]]()
        for first in range(0, len(entries), COUNTED_AT_ONCE):
            some = entries[first : first + COUNTED_AT_ONCE]
            for entry, left in zip(some, await asyncio.gather(*map(self._left, some)), strict=True):
                if left is not None and left < is_open.entries[entry]:
                    changes[entry] = is_open.entries[entry], left
        return await self._store.lower_open(limit.account, changes) if changes else is_open

    async def _left(self, entry: OpenBatch) -> int | None:
        """Return how many operations of a batch are still open, or None if the batch is not accepted."""
        batch = await self._store.read_batch(entry.id)
        if batch is None or batch.accepted_at is None or entry.retry_id is not None:
            return None
        if batch.is_final:
            return 0
        groups = await self._store.read_groups(batch.id, range(len(batch.group_totals)))
        return batch.total - counts_of(groups.values()).completed

    def _charge_of(self, limit: Limit) -> Charge:
        return Charge(self._batch.id, limit.quota.cost(self._total), self._lapses_at)
