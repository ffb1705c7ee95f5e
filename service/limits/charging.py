"""Rejects what exceeds a caller's quota, and charges what does not: once for a whole batch, before anything is sent.

A batch counts as many operations as it has, and is charged if it is accepted or answered with its results. A request
that is rejected or fails counts nothing.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from penstock.errors import AcceptanceUnknown, LimitPassed, QuotaExceeded
from penstock.quota import Account, Charge, Limit, NeverFits, Quota, TooSoon, Usage
from penstock.service.caller import tenant_of
from penstock.service.keys import BACKEND, CLOCK, LEDGER
from penstock.service.ledger import Ledger
from penstock.service.limits.applied import limits_of
from penstock.service.limits.words import count_operations

_HOW_IT_COUNTS = "A batch counts as many operations as it has."
_HOW_A_RETRY_COUNTS = "A retry counts as many operations as it runs again."


class Charged:
    """The charges of a request, one for each limit of its caller."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: list[tuple[Account, Charge]] = []

    def add(self, account: Account, charge: Charge) -> None:
        self._open.append((account, charge))

    async def settle(self) -> None:
        """Settle the charges now. A request calls this if the table does not show that its operations were accepted."""
        charges, self._open = self._open, []
        for account, charge in charges:
            await self._ledger.settle(account, charge)

    def settle_later(self) -> None:
        for account, charge in self._open:
            self._ledger.settle_later(account, charge)

    async def give_back(self) -> None:
        for account, charge in self._open:
            await self._ledger.give_back(account, charge)


async def check_something_left(request: web.Request, key: str | None = None) -> None:
    """Raise QuotaExceeded, before the body is read, if nothing is left of a quota.

    If an earlier request with the same Idempotency-Key did not fail, this may be a repeated one. Its answer is free.
    """
    for limit in limits_of(request):
        usage = await request.app[LEDGER].usage(limit.account)
        if not _is_used_up(request, limit, usage):
            continue
        usage = await request.app[LEDGER].usage_before_rejection(limit.account)
        if usage is None or not _is_used_up(request, limit, usage):
            continue
        now = request.app[CLOCK].now()
        if key is None or not await request.app[BACKEND].store.has_key(tenant_of(request), key, now):
            seconds = limit.quota.seconds_to_more(usage.tat, now)
            raise QuotaExceeded(
                f"Nothing is left of the quota of {_words(limit.quota)}. {_HOW_IT_COUNTS} The next operation is "
                f"available in {_seconds(seconds):,} s.",
                limit.name,
                _seconds(seconds),
            )


async def check_charge(request: web.Request, operations: int) -> None:
    """Raise what `charged` would raise, but charge nothing."""
    _check_fits(request, operations, is_retry=False)
    for limit in reversed(limits_of(request)):
        usage = await request.app[LEDGER].usage_before_rejection(limit.account) or Usage()
        if isinstance(limit.quota.charge(operations, usage.tat, request.app[CLOCK].now()), TooSoon):
            raise _exceeded(request, limit, operations, usage, is_retry=False)


@asynccontextmanager
async def charged(
    request: web.Request, charge_id: str, operations: int, seconds: float, *, is_retry: bool = False
) -> AsyncIterator[Charged]:
    """Charge operations while a request accepts or runs them. Raise QuotaExceeded if a quota does not allow them.

    If they are more than a whole quota, raise LimitPassed.

    If the request fails, they are given back. If nobody knows if the batch was accepted, the charge stays open. An open
    charge lapses after `seconds`, and then the batch with the id `charge_id` decides about it.
    """
    made = Charged(request.app[LEDGER])
    try:
        _check_fits(request, operations, is_retry=is_retry)
        await _charge(request, made, charge_id, operations, seconds, is_retry=is_retry)
        yield made
    except AcceptanceUnknown:
        raise
    except Exception:
        await made.give_back()
        raise
    made.settle_later()


def _check_fits(request: web.Request, operations: int, *, is_retry: bool) -> None:
    """Raise LimitPassed if there are more operations than a whole quota, so that they could never be charged."""
    for limit in limits_of(request):
        most = limit.quota.operations
        if operations > most:
            detail = _retry_never_fits if is_retry else _batch_never_fits
            raise LimitPassed(detail(operations, limit.quota), limit={"maxOperations": most})


def _batch_never_fits(operations: int, quota: Quota) -> str:
    return (
        f"The batch has {count_operations(operations)}, and the quota is {_words(quota)}. {_HOW_IT_COUNTS} "
        f"Send at most {quota.operations:,} operations in a batch."
    )


def _retry_never_fits(operations: int, quota: Quota) -> str:
    return (
        f"The retry would run {count_operations(operations)}, and the quota is {_words(quota)}. Choose at most "
        f"{quota.operations:,} failures, or ask an operator to retry the batch."
    )


async def _charge(
    request: web.Request, made: Charged, charge_id: str, operations: int, seconds: float, *, is_retry: bool
) -> None:
    lapses_at = math.ceil(request.app[CLOCK].now() + seconds)
    # The key comes before its tenant. So a key with little left takes nothing from the tenant, even for a moment.
    for limit in reversed(limits_of(request)) if operations else ():
        charge = Charge(charge_id, limit.quota.cost(operations), lapses_at)
        made.add(limit.account, charge)
        usage = await request.app[LEDGER].charge(limit, charge)
        if charge not in usage.open:
            raise _exceeded(request, limit, operations, usage, is_retry=is_retry)


def _exceeded(request: web.Request, limit: Limit, operations: int, usage: Usage, *, is_retry: bool) -> QuotaExceeded:
    now = request.app[CLOCK].now()
    left, decision = limit.quota.remaining(usage.tat, now), limit.quota.charge(operations, usage.tat, now)
    assert not isinstance(decision, NeverFits), "_check_fits comes first"
    seconds = _seconds(decision.retry_after_seconds if isinstance(decision, TooSoon) else 0)
    subject, how_it_counts = (
        ("The retry would run", _HOW_A_RETRY_COUNTS) if is_retry else ("The batch has", _HOW_IT_COUNTS)
    )
    return QuotaExceeded(
        f"{subject} {count_operations(operations)}, and {left:,} are left of the quota of {_words(limit.quota)}. "
        f"{how_it_counts} Send it again in {seconds:,} s.",
        limit.name,
        seconds,
    )


def _is_used_up(request: web.Request, limit: Limit, usage: Usage | None) -> bool:
    return usage is not None and limit.quota.remaining(usage.tat, request.app[CLOCK].now()) == 0


def _words(quota: Quota) -> str:
    return f"{quota.operations:,} operations in {quota.window_seconds:,} s"


def _seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
