"""Work under a lease, and errors of calls that were made at the same time."""

import asyncio
import weakref
from contextlib import suppress

import pytest

from penstock.waiting import raise_first, under_lease, wait_for_all
from tests.support.garbage import without_collections
from tests.support.waiting import settle


class Kept:
    """What a caller has."""


class LeaseLost(Exception):
    """Somebody else has the lease."""


async def forever() -> None:
    await asyncio.Event().wait()


async def lose_lease() -> None:
    raise LeaseLost


async def break_down() -> None:
    raise ValueError("of the work")


async def test_lease_is_kept_until_the_work_has_ended() -> None:
    ended = asyncio.Event()

    async def keep() -> None:
        try:
            await forever()
        finally:
            ended.set()

    assert await under_lease(asyncio.sleep(0, "done"), keep()) == "done"
    assert ended.is_set()
    with pytest.raises(ValueError, match="of the work"):
        await under_lease(break_down(), forever())


async def test_work_ends_when_its_lease_is_lost() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.set()

    with pytest.raises(LeaseLost):
        await under_lease(work(), lose_lease())
    assert ended.is_set()


@pytest.mark.parametrize("is_lost", [False, True])
async def test_failed_work_under_a_lease_does_not_keep_its_callers_in_memory(*, is_lost: bool) -> None:
    async def run() -> "weakref.ref[Kept]":
        kept = Kept()
        with suppress(ValueError, LeaseLost):
            await (under_lease(forever(), lose_lease()) if is_lost else under_lease(break_down(), forever()))
        return weakref.ref(kept)

    with without_collections():
        noted = await run()
        await settle()
        assert noted() is None


def fail(_kept: Kept, count: int) -> None:
    raise_first([None, *[ValueError("of a call that several callers share")] * count, OSError("of another call")])


def test_results_without_an_error_raise_none() -> None:
    raise_first([])
    raise_first([None, 1, None])


@pytest.mark.parametrize("count", [1, 2])
def test_error_does_not_keep_its_callers_in_memory(count: int) -> None:
    kept = Kept()
    freed = weakref.ref(kept)
    with without_collections():
        with suppress(ValueError):
            fail(kept, count)
        del kept
        assert freed() is None


async def test_calls_have_all_ended_when_an_error_is_raised() -> None:
    ended: list[str] = []

    async def end(name: str) -> str:
        await settle()
        ended.append(name)
        return name

    assert await wait_for_all([end("a"), end("b")]) == ["a", "b"]
    with pytest.raises(ValueError, match="of the work"):
        await wait_for_all([break_down(), end("c"), lose_lease()])
    assert ended == ["a", "b", "c"]
