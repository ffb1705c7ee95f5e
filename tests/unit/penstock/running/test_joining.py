"""Several runs of operations at once, and what happens to the others if one of them fails."""

import asyncio
import weakref
from contextlib import suppress

import pytest

from penstock.running.joining import gather
from tests.support.garbage import without_collections
from tests.support.waiting import settle


async def give(value: str) -> str:
    await asyncio.sleep(0)
    return value


async def fail(error: type[Exception]) -> str:
    await asyncio.sleep(0)
    raise error("bad luck")


async def test_results_come_in_the_order_of_the_runs() -> None:
    assert await gather([]) == []
    assert await gather([give("a")]) == ["a"]
    assert await gather([give("a"), give("b")]) == ["a", "b"]


async def test_first_error_is_raised_and_the_other_runs_are_cancelled() -> None:
    ended: list[str] = []

    async def wait() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waited")
        return ""

    with pytest.raises(LookupError) as caught:
        await gather([wait(), fail(LookupError), fail(OSError)])
    assert ended == ["waited"]
    assert caught.value.__context__ is None


@pytest.mark.parametrize("count", [1, 2])
async def test_error_does_not_keep_what_its_callers_have_in_memory(count: int) -> None:
    class Kept:
        """What a caller has."""

    async def run() -> "weakref.ref[Kept]":
        kept = Kept()
        with suppress(LookupError):
            await gather([give("a"), *(fail(LookupError) for _ in range(count))])
        return weakref.ref(kept)

    with without_collections():
        noted = await run()
        await settle()
        assert noted() is None
