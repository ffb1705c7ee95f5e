"""Rejects a batch if its caller then had too many operations that have not finished, and counts it otherwise.

A batch counts from just before it is accepted until its operations have finished. A batch that is answered with its
results does not count. If it is handed over to the consumers, it counts from then on. So it is started only if there is
room for it, and its hand-over is not rejected any more.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from penstock.errors import AcceptanceUnknown, LimitPassed, QuotaExceeded
from penstock.open_limit import MOST_ENTRIES, UNKNOWN_SECONDS, OpenBatch, OpenLimit, OpenOperations, seconds_to_room
from penstock.service.keys import CLOCK, OPEN_LEDGER
from penstock.service.limits.applied import open_limits_of
from penstock.service.limits.words import count_operations
from penstock.service.open_ledger import RETRY_SECONDS

ACCEPT_SECONDS = 30  # from here to the write that starts the acceptance of a batch: usually milliseconds
_SEND_LESS = "Send at most {:,} operations in a batch."
_RETRY_FEWER = "Choose at most {:,} failures, or ask an operator to retry the batch."


@dataclass(slots=True)
class Opening:
    """The entries of a request. If it fails, they are removed, unless it may run some of its operations."""

    may_run: bool = False


async def check_room(request: web.Request, operations: int, *, is_started: bool) -> None:
    """Raise QuotaExceeded if there was no room for a batch when this front end last looked, or LimitPassed.

    `is_started`: the batch is started next, and later nobody can reject it. So count again if there seems to be no room
    or nothing is known. Otherwise this makes no call, and the entry of the batch decides.
    """
    _check_fits(request, operations)
    ledger = request.app[OPEN_LEDGER]
    for limit in reversed(open_limits_of(request)):
        is_open = await ledger.check(limit, operations) if is_started else ledger.known_as_full(limit, operations)
        if is_open is not None and not limit.has_room(is_open, operations):
            raise _exceeded(request, limit, operations, is_open)


@asynccontextmanager
async def opened(
    request: web.Request, batch_id: str, operations: int, *, retry_id: str | None = None, is_forced: bool = False
) -> AsyncIterator[Opening]:
    """Count operations as open while a request accepts them, and after that.

    Raise QuotaExceeded if there is no room for them, and LimitPassed if there never will be. `is_forced` counts them in
    any case.
    """
    seconds = ACCEPT_SECONDS if retry_id is None else RETRY_SECONDS
    entry = OpenBatch(batch_id, math.ceil(request.app[CLOCK].now() + seconds), retry_id)
    opening, tried = Opening(), list[OpenLimit]()
    try:
        if not is_forced:
            _check_fits(request, operations, is_retry=retry_id is not None)
        # The key comes before its tenant. So a key without room takes nothing from the tenant, even for a moment.
        for limit in reversed(open_limits_of(request)) if operations else ():
            tried.append(limit)
            is_open = await request.app[OPEN_LEDGER].add(limit, entry, operations, is_forced=is_forced)
            if entry not in is_open.entries and not is_forced:
                tried.pop()
                raise _exceeded(request, limit, operations, is_open, is_retry=retry_id is not None)
        yield opening
    except AcceptanceUnknown:
        raise
    except Exception:
        if not opening.may_run:
            for limit in tried:
                await request.app[OPEN_LEDGER].remove(limit.account, entry, operations)
        raise


def _check_fits(request: web.Request, operations: int, *, is_retry: bool = False) -> None:
    for limit in open_limits_of(request):
        if operations > limit.operations:
            what_to_do = _RETRY_FEWER if is_retry else _SEND_LESS
            words = f"{_subject(operations, is_retry=is_retry)}, and at most {limit.operations:,} may be open. "
            raise LimitPassed(words + what_to_do.format(limit.operations), limit={"maxOperations": limit.operations})


def _exceeded(
    request: web.Request, limit: OpenLimit, operations: int, is_open: OpenOperations, *, is_retry: bool = False
) -> QuotaExceeded:
    excess = is_open.total + operations - limit.operations
    if excess > 0:
        seconds = seconds_to_room(excess, request.app[OPEN_LEDGER].each_second(limit.account))
        verb = "has" if is_open.total == 1 else "have"
        reason = f"{count_operations(is_open.total)} of earlier batches {verb} not finished."
        detail = f"{_subject(operations, is_retry=is_retry)}. {reason} At most {limit.operations:,} may be open."
    else:
        seconds = UNKNOWN_SECONDS
        detail = f"{len(is_open.entries):,} batches have not finished. At most {MOST_ENTRIES:,} may be open."
    return QuotaExceeded(f"{detail} Send it again in {seconds:,} s.", limit.name, seconds)


def _subject(operations: int, *, is_retry: bool) -> str:
    return f"{'The retry would run' if is_retry else 'The batch has'} {count_operations(operations)}"
