"""Keeps the open operations of each account: adds batches before they are accepted, and counts out what has finished.

Consumers know nothing of this. So an entry of a batch may be higher than what is really open of it. If there is no room
for another batch, the front end reads how far the batches are, lowers their entries, and decides again. An entry is
changed under the condition that it has the number that was read. So two front ends never count anything out twice.

An entry whose batch was not accepted in time belongs to a front end that died. The batch is abandoned, so that it never
will be accepted, and the entry is removed.

A retry has an entry of its own, because its batch is final. How much of a retry is open cannot be read: its operations
are among the failed ones until they have succeeded, and again if they have failed again. So a retry counts at most as
many operations as its batch has failed or unfinished ones, and does not count any more after `RETRY_SECONDS`.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from penstock.batch import UNACCEPTED_STATES, Batch, BatchState, Counts
from penstock.clock import Clock
from penstock.ending import counts_of
from penstock.errors import PenstockError
from penstock.open_limit import UNKNOWN_SECONDS, OpenBatch, OpenLimit, OpenOperations
from penstock.quota import Account
from penstock.service.abandoning import find_acceptance
from penstock.service.accounts import Accounts, Seen, is_running
from penstock.settings import DAY_SECONDS
from penstock.store import Store
from penstock.telemetry import Event, get_log

RETRY_SECONDS = 600
FRESH_SECONDS = 5.0  # what is older is read again, for the next answer
RECOUNT_SECONDS = 1.0  # after this, and for each batch of the account, the next request may lead to a recount
RECOUNT_SECONDS_EACH = 0.01
READ_AT_A_TIME = 20
KEPT_SECONDS = 60 * DAY_SECONDS  # after the last batch; a batch has finished long before


@dataclass(slots=True)
class _Seen(Seen[OpenOperations]):
    """The open operations of an account as last seen. `each_second` is how many of them finish in a second."""

    each_second: float = 0.0
    counting_some: asyncio.Task[None] | None = None
    recounting: asyncio.Task[None] | None = None
    finished: int = 0  # operations that were counted out since the last recount
    recounted_at: float | None = None
    recount_from: float = float("-inf")  # the next recount starts at this time, or later


@dataclass(frozen=True, slots=True)
class _Progress:
    """How many operations of an entry are open, and how many its batch finishes in a second."""

    left: int
    each_second: float = 0.0
    was_accepted: bool = True


class OpenLedger:
    """There is one in each front end."""

    def __init__(self, store: Store, clock: Clock, accept_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._accept_seconds = accept_seconds
        self._accounts = Accounts(clock, _Seen)

    async def add(self, limit: OpenLimit, entry: OpenBatch, operations: int, *, is_forced: bool) -> OpenOperations:
        """Add an entry. If it is not in the answer, there is no room for it. `is_forced` adds it beyond the limit."""
        if not is_forced and (is_full := self.known_as_full(limit, operations)):
            return is_full
        seen = self._accounts.find(limit.account)
        is_open = await self._add(limit, entry, operations, seen, is_forced=is_forced)
        if entry not in is_open.entries and await self._recount(limit.account, seen, is_open):
            is_open = await self._add(limit, entry, operations, seen, is_forced=is_forced)
        return is_open

    def known_as_full(self, limit: OpenLimit, operations: int) -> OpenOperations | None:
        """Return the open operations if they left no room, and it is too early to count them again. Makes no call."""
        seen = self._accounts.find(limit.account)
        if seen.value is None or limit.has_room(seen.value, operations):
            return None
        return seen.value if self._clock.monotonic() < seen.recount_from else None

    async def check(self, limit: OpenLimit, operations: int) -> OpenOperations | None:
        """Return the open operations as last seen. If they leave no room for `operations`, count them again first.

        Return None if the table does not answer.
        """
        is_open = await self.open(limit.account)
        if is_open is None or limit.has_room(is_open, operations):
            return is_open
        seen = self._accounts.find(limit.account)
        await self._recount(limit.account, seen, None)
        return seen.value

    async def remove(self, account: Account, entry: OpenBatch, operations: int) -> None:
        """Remove the entry of a batch that was not accepted. If the table does not answer, the entry lapses."""
        try:
            await self._lower(account, OpenOperations(operations, {entry: operations}), {entry: 0})
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, error=str(error))

    def each_second(self, account: Account) -> float:
        """Return how many operations of the account finished in a second, when this front end last counted."""
        return self._accounts.find(account).each_second

    async def open(self, account: Account) -> OpenOperations | None:
        """Return the open operations as last seen. Only a first read is waited for. None: the table does not answer.

        What has finished is counted out in the background, for later answers.
        """
        seen = self._accounts.find(account)
        return await self._accounts.refresh(seen, FRESH_SECONDS, partial(self._read, account, seen))

    async def _add(
        self, limit: OpenLimit, entry: OpenBatch, operations: int, seen: _Seen, *, is_forced: bool
    ) -> OpenOperations:
        most = None if is_forced else limit.operations
        expires_at = self._clock.now() + KEPT_SECONDS
        is_open = await self._store.add_open(limit.account, entry, operations, most=most, expires_at=expires_at)
        self._accounts.note(seen, is_open)
        return is_open

    async def _read(self, account: Account, seen: _Seen) -> None:
        is_open = await self._accounts.read(seen, partial(self._store.read_open, account))
        if not is_running(seen.counting_some):
            seen.counting_some = self._accounts.in_background(partial(self._count_some, account, is_open))

    async def _count_some(self, account: Account, is_open: OpenOperations) -> None:
        some = random.sample(list(is_open.entries), min(READ_AT_A_TIME, len(is_open.entries)))
        await self._count_out(account, is_open, some)

    async def _recount(self, account: Account, seen: _Seen, is_open: OpenOperations | None) -> bool:
        """Count out what has finished of all batches. Requests share a recount. If `is_open` is None, read it first.

        Return False, without a call, if that was done just now.
        """
        if not is_running(seen.recounting):
            if self._clock.monotonic() < seen.recount_from:
                return False
            seen.recounting = self._accounts.in_background(partial(self._recount_all, account, seen, is_open))
        assert seen.recounting is not None
        await asyncio.wait((seen.recounting,))
        return True

    async def _recount_all(self, account: Account, seen: _Seen, is_open: OpenOperations | None) -> None:
        entries, total = list[OpenBatch](), 0.0
        with suppress(PenstockError):  # the next attempt to add an entry tells its caller
            if is_open is None:
                is_open = await self._accounts.read(seen, partial(self._store.read_open, account))
            entries = list(is_open.entries)
            for start in range(0, len(entries), READ_AT_A_TIME):
                is_open, each_second = await self._count_out(account, is_open, entries[start : start + READ_AT_A_TIME])
                total += each_second
            seen.each_second = max(total, _finished_each_second(seen, self._clock.monotonic()))
            seen.finished, seen.recounted_at = 0, self._clock.monotonic()
        seen.recount_from = self._clock.monotonic() + RECOUNT_SECONDS + RECOUNT_SECONDS_EACH * len(entries)

    async def _count_out(
        self, account: Account, is_open: OpenOperations, entries: Sequence[OpenBatch]
    ) -> tuple[OpenOperations, float]:
        """Lower the entries to what is open of them. Return all entries, and what the open ones finish in a second."""
        counted = {entry: is_open.entries[entry] for entry in entries if entry in is_open.entries}
        read = await asyncio.gather(*(self._progress(entry, number) for entry, number in counted.items()))
        left = {entry: progress.left for entry, progress in zip(counted, read, strict=True)}
        is_open = await self._lower(account, is_open, left)
        accepted = [entry for entry, progress in zip(counted, read, strict=True) if progress.was_accepted]
        self._accounts.find(account).finished += sum(max(0, counted[entry] - left[entry]) for entry in accepted)
        return is_open, sum(progress.each_second for progress in read)

    async def _lower(self, account: Account, is_open: OpenOperations, left: Mapping[OpenBatch, int]) -> OpenOperations:
        """Lower entries. If another front end has changed one, decide again with its number."""
        while changes := {
            entry: (is_open.entries[entry], number)
            for entry, number in left.items()
            if number < is_open.entries.get(entry, 0)
        }:
            is_open = await self._store.lower_open(account, changes)
            self._accounts.note(self._accounts.find(account), is_open)
        return is_open

    async def _progress(self, entry: OpenBatch, counted: int) -> _Progress:
        batch, groups = await self._store.read_progress(entry.id, range(1), with_done=False)
        if batch is not None and batch.state is BatchState.VALIDATING:
            return _Progress(counted)
        if batch is None or batch.state in UNACCEPTED_STATES:
            now = self._clock.now()
            will_never_run = entry.retry_id is not None or (
                await find_acceptance(self._store, entry, batch, now, self._accept_seconds) is False
            )
            return _Progress(0 if will_never_run else counted, was_accepted=False)
        if len(groups) < len(batch.group_totals):
            groups = await self._store.read_groups(batch.id, range(len(batch.group_totals)))
        counts = counts_of(groups.values())
        return _progress_of(entry, batch, counts, self._clock.now())


def _progress_of(entry: OpenBatch, batch: Batch, counts: Counts, now: float) -> _Progress:
    unfinished = batch.total - counts.completed
    if entry.retry_id is not None:
        return _Progress(0 if now > entry.lapses_at else counts.failed + unfinished)
    if batch.is_final:
        return _Progress(0)
    running_seconds = 0.0 if batch.started_at is None else now - batch.started_at
    return _Progress(unfinished, counts.completed / running_seconds if running_seconds > 0 else 0.0)


def _finished_each_second(seen: _Seen, now: float) -> float:
    """Return how many operations were counted out in a second since the last recount, or 0 if there was none.

    After a long time without a recount, nobody knows when they finished. Then the result is only a guess.
    """
    if seen.recounted_at is None or now <= seen.recounted_at:
        return 0.0
    return seen.finished / min(now - seen.recounted_at, UNKNOWN_SECONDS)
