"""The ledger of a front end: which charges it settles or gives back, and what it remembers of an account."""

import asyncio
from typing import Any

import pytest

from penstock.errors import Unavailable
from penstock.quota import Account, Charge, Limit, Quota, Usage
from penstock.service.ledger import Ledger
from penstock.testing import FakeClock, MemoryParts
from tests.support.faults import Outage, watched

QUOTA = Quota(10, 60)
ACCOUNT = Account("default")
LIMIT = Limit("operations", ACCOUNT, QUOTA)


def make_charge(clock: FakeClock, name: str, operations: int = 5) -> Charge:
    return Charge(name, QUOTA.cost(operations), int(clock.now()) + 10)


async def test_a_settled_charge_is_kept_when_the_next_charge_fails(parts: MemoryParts, clock: FakeClock) -> None:
    outage = Outage("store.charge", times=0)
    ledger = Ledger(watched(parts, outage).store, clock, 60)
    first = make_charge(clock, "first")
    tat = (await ledger.charge(LIMIT, first)).tat
    ledger.settle_later(ACCOUNT, first)
    outage.times = 1
    with pytest.raises(Unavailable):
        await ledger.charge(LIMIT, make_charge(clock, "second"))
    clock.advance(13)
    await ledger.usage_before_rejection(ACCOUNT)  # gives back what has lapsed
    assert (await parts.store.read_usage(ACCOUNT)).tat == tat
    assert first not in (await ledger.charge(LIMIT, make_charge(clock, "third"))).open


async def test_a_charge_that_is_being_settled_is_not_given_back(
    parts: MemoryParts, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_go_on = asyncio.Event(), asyncio.Event()
    store = parts.store
    charge_now = store.charge

    async def charge_slowly(*arguments: Any, **options: Any) -> Usage:
        started.set()
        await may_go_on.wait()
        return await charge_now(*arguments, **options)

    ledger = Ledger(store, clock, 60)
    first = make_charge(clock, "first")
    tat = (await ledger.charge(LIMIT, first)).tat
    ledger.settle_later(ACCOUNT, first)
    clock.advance(13)
    monkeypatch.setattr(store, "charge", charge_slowly)
    charging = asyncio.create_task(ledger.charge(LIMIT, make_charge(clock, "next")))
    await started.wait()
    await ledger.usage_before_rejection(ACCOUNT)
    assert (await store.read_usage(ACCOUNT)).tat == tat
    may_go_on.set()
    assert first not in (await charging).open


async def test_a_read_does_not_replace_the_usage_of_a_charge_that_came_after_it(
    parts: MemoryParts, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_read, may_answer = asyncio.Event(), asyncio.Event()
    store = parts.store
    read_now = store.read_usage

    async def read_slowly(account: Account) -> Usage:
        usage = await read_now(account)
        was_read.set()
        await may_answer.wait()
        return usage

    ledger = Ledger(store, clock, 60)
    await ledger.charge(LIMIT, make_charge(clock, "first"))
    clock.advance(2)
    with monkeypatch.context() as slow:
        slow.setattr(store, "read_usage", read_slowly)
        reading = asyncio.create_task(ledger.usage_before_rejection(ACCOUNT))
        await was_read.wait()
    charged = await ledger.charge(LIMIT, make_charge(clock, "second"))
    may_answer.set()
    assert await reading == charged
    assert await ledger.usage(ACCOUNT) == charged
