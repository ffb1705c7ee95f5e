"""A small batch that exceeds its time continues in the background. Finished operations do not run again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Context, Limit, Operations, Retry, Throttled
from penstock.batch import BatchState, Counts, Ending
from penstock.fleet_limit import LimitState
from penstock.store import Group
from penstock.testing.http import Answer
from tests.support.faults import Moment, Outage
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import Serve, ask_for, assert_problem
from tests.support.waiting import UNIT_SECONDS

SOON = 0.2 * UNIT_SECONDS  # the time of a batch in tests where it must run out
LONG = 60.0


@pytest.fixture
def toys() -> Toys:
    return Toys()


async def build(aiohttp_client: AiohttpClient, toys: Toys, **settings: Any) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), **{"sync_seconds": SOON, **settings})


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build(aiohttp_client, toys)


def handed_over(answer: Answer) -> str:
    assert answer.status == 202, answer.content
    batch_id: str = answer.body["batchId"]
    return batch_id


async def finish(plant: Plant, toys: Toys) -> None:
    toys.gate.set()
    await plant.work_off()


async def test_what_finished_is_not_run_again(plant: Plant, toys: Toys) -> None:
    answer = await plant.service.post(ask_for("/succeed/a", "/hang/b", "/reject/c", "/hang/d"))
    batch_id = handed_over(answer)
    assert answer.headers["Location"] == f"/batch/{batch_id}/status"
    assert await plant.counts(batch_id) == ("queued", {"succeeded": 1, "failed": 1})
    assert plant.waiting_operations() == ["1", "3"]
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})
    assert await plant.statuses(batch_id) == {"0": 201, "1": 200, "2": 409, "3": 200}
    assert toys.times == {"0": 1, "1": 1, "2": 1, "3": 1}


async def test_results_so_far_are_there_at_once(plant: Plant) -> None:
    batch_id = handed_over(await plant.service.post(ask_for("/hang/a", "/succeed/b")))
    assert await plant.statuses(batch_id) == {"1": 201}


async def test_wait_says_how_long_the_client_waits(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, sync_seconds=60)
    answer = await plant.service.post(ask_for("/succeed/a", "/hang/b"), {"Prefer": "wait=1"})
    batch_id = handed_over(answer)
    assert answer.headers["Preference-Applied"] == "wait=1"
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
    assert toys.times == {"0": 1, "1": 1}


async def test_client_that_does_not_wait_has_nothing_run_at_once(plant: Plant, toys: Toys) -> None:
    batch_id = handed_over(await plant.service.post(ask_for("/succeed/a", "/succeed/b"), {"Prefer": "wait=0"}))
    assert toys.runs == []
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})


async def test_what_is_to_be_tried_again_keeps_its_attempts(plant: Plant, toys: Toys) -> None:
    batch_id = handed_over(await plant.service.post(ask_for("/second-time-right/a", "/hang/b")))
    await finish(plant, toys)
    assert [(context.operation_id, context.attempt) for context in toys.runs] == [("0", 1), ("1", 1), ("0", 2)]
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
    assert toys.keys == {f"{batch_id}/0", f"{batch_id}/1"}


async def test_attempts_before_the_hand_over_count(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    operations = toys.operations()

    @operations.post("/third-time-right", max_attempts=3)
    async def third_time_right(context: Context) -> None:
        toys.runs.append(context)
        if context.attempt < 3:
            raise Retry(after_seconds=0 if context.attempt == 1 else 3600)

    plant = await build_plant(aiohttp_client, operations, sync_seconds=SOON)
    batch_id = handed_over(await plant.service.post(ask_for("/third-time-right", "/hang/b")))
    await finish(plant, toys)
    assert [context.attempt for context in toys.runs if context.operation_id == "0"] == [1, 2, 3]
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})


def throttled_at_first(toys: Toys, *times: float | None) -> Operations[Any]:
    """Add a handler that is throttled as often as there are `times`, and asks to wait for them."""
    operations = toys.operations()

    @operations.post("/throttled", max_attempts=1)
    async def throttled(context: Context) -> None:
        toys.runs.append(context)
        if toys.times[context.operation_id] <= len(times):
            raise Throttled(after_seconds=times[toys.times[context.operation_id] - 1])

    return operations


async def test_what_is_throttled_until_the_time_is_over_is_not_failed(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build_plant(aiohttp_client, throttled_at_first(toys, 0, 3600, None), sync_seconds=SOON)
    batch_id = handed_over(await plant.service.post(ask_for("/succeed/a", "/throttled")))
    assert plant.waiting_operations() == ["1"]
    await finish(plant, toys)
    assert [context.attempt for context in toys.runs if context.operation_id == "1"] == [1, 1, 1, 1]
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
    assert plant.parts.dead_letters.messages == []


SLOW = Limit(rate=0.1)  # one token now, and another one long after the time of a batch


def limited(toys: Toys, limit: Limit, **of_registry: Any) -> Operations[Any]:
    """Add handlers with a limit. The operations of one of them fail at their first attempts."""
    operations = toys.operations(limits={"slow": limit}, **of_registry)

    @operations.post("/limited/{name}", limit="slow")
    async def succeed(name: str, context: Context) -> None:
        toys.runs.append(context)

    @operations.post("/limited-again/{name}", limit="slow")
    async def fail_first(name: str, context: Context) -> None:
        toys.runs.append(context)
        if context.attempt == 1:
            raise Retry(after_seconds=0)

    @operations.post("/limited-bulk", limit="slow", bulk=True)
    async def succeed_together(bodies: list[int], contexts: list[Context]) -> list[None]:
        toys.runs.extend(contexts)
        return [None] * len(bodies)

    return operations


async def test_limited_operations_run_immediately_while_tokens_are_there(serve: Serve, toys: Toys) -> None:
    service = await serve(limited(toys, Limit(rate=1_000, concurrency=5)), sync_seconds=LONG)
    bulk = [{"method": "POST", "path": "/limited-bulk", "body": number} for number in range(20)]
    answer = await service.post([*ask_for("/limited/a", "/limited-again/b", "/succeed/c"), *bulk])
    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, 23)


async def test_what_has_no_token_in_time_is_handed_over(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build_plant(aiohttp_client, limited(toys, SLOW), sync_seconds=SOON)
    handed_over(await plant.service.post(ask_for("/limited/a", "/limited/b", "/succeed/c")))
    assert toys.times == {"0": 1, "2": 1}
    assert plant.waiting_operations() == ["1"]


async def test_next_attempt_that_has_no_token_in_time_is_handed_over(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build_plant(aiohttp_client, limited(toys, SLOW), sync_seconds=SOON)
    handed_over(await plant.service.post(ask_for("/limited-again/a")))
    assert toys.times == {"0": 1}
    assert plant.waiting_operations() == ["0"]


async def test_nobody_waits_for_a_service_that_pauses_for_longer_than_the_time(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build_plant(aiohttp_client, limited(toys, Limit()), sync_seconds=LONG)
    state = LimitState(not_before=plant.clock.now() + 2 * LONG, lease="seen")
    await plant.parts.store.lease_limit("slow", LimitState(), state)
    async with asyncio.timeout(LONG / 2):
        handed_over(await plant.service.post(ask_for("/limited/a", "/succeed/b")))
    assert toys.times == {"1": 1}


async def test_failures_are_dead_lettered_once(plant: Plant, toys: Toys) -> None:
    batch_id = handed_over(await plant.service.post(ask_for("/break/a", "/hang/b")))
    assert len(plant.parts.dead_letters.messages) == 1
    await finish(plant, toys)
    assert len(plant.parts.dead_letters.messages) == 1
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})


async def test_group_of_which_all_finished_at_once_does_not_hold_the_batch_up(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    """A group has 64 chunks, and no consumer receives any of them."""
    plant = await build(aiohttp_client, toys, chunk_operations=1, sync_seconds=5 * SOON, concurrency=100)
    batch_id = handed_over(await plant.service.post(ask_for(*["/succeed/a"] * 64, "/hang/b")))
    assert plant.waiting_operations() == ["64"]
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 65})


async def test_chunks_of_which_nothing_was_tried_are_sent_as_they_are(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2, concurrency=2)
    batch_id = handed_over(await plant.service.post(ask_for("/succeed/a", "/hang/b", "/hang/c", "/succeed/d")))
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 4})
    assert toys.times == {"0": 1, "1": 1, "2": 1, "3": 1}


STEPS = ["store.create_batch", "store.commit_chunk", "chunks.send", "store.count_chunk", "dead_letters.send"]


@pytest.mark.parametrize("call", STEPS)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_hand_over_that_fails_leaves_nothing_that_runs(
    aiohttp_client: AiohttpClient, toys: Toys, call: str, moment: Moment
) -> None:
    plant = await build(aiohttp_client, toys, watch=Outage(call, moment), accept_seconds=60)
    assert_problem(await plant.service.post(ask_for("/break/a", "/hang/b")), 503)
    assert_only_steps_until(plant, call, moment)
    plant.clock.advance(61)
    await finish(plant, toys)
    assert toys.times == {"0": 1}
    assert {batch.state for batch in plant.parts.store._batches.values()} <= {
        BatchState.ABANDONED,
        BatchState.ACCEPTING,
    }


def assert_only_steps_until(plant: Plant, call: str, moment: Moment) -> None:
    """A counted chunk has follow-ups on the queue, and a dead letter is counted, whenever the front end dies."""
    parts = plant.parts
    effects = (
        parts.store._batches,
        parts.store._records,
        parts.chunks.messages,
        parts.store._groups,
        parts.dead_letters.messages,
    )
    done = STEPS.index(call) + (moment == "after")
    assert [bool(effect) for effect in effects] == [number < done for number in range(len(STEPS))]


async def test_failures_in_a_closed_group_are_no_dead_letters(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    """They are not counted, so a redrive must not subtract them."""
    plant: Plant

    def close(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.count_chunk", "before"):
            [batch_id] = plant.parts.store._batches
            plant.parts.store._groups[batch_id, 0] = Group(Counts(expired=2), closed=Ending.EXPIRED)

    plant = await build(aiohttp_client, toys, watch=close)
    await plant.service.post(ask_for("/break/a", "/hang/b"))
    assert plant.parts.dead_letters.messages == []


async def test_failure_limit_holds_for_what_failed_before_it_was_handed_over(plant: Plant, toys: Toys) -> None:
    operations = ask_for("/break/a", "/break/b", "/hang/c", "/hang/d")
    batch_id = handed_over(await plant.service.post(operations, maxFailures=1))
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("cancelled", {"failed": 2, "cancelled": 2})
    assert "More than 1" in (await plant.status(batch_id))["reason"]


async def test_batch_is_handed_over_although_its_failure_limit_cannot_be_applied(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    """It is accepted, so the client must get its 202."""
    plant = await build(aiohttp_client, toys, watch=Outage("store.end_batch"))
    handed_over(await plant.service.post(ask_for("/break/a", "/hang/b"), maxFailures=0))


async def test_answer_to_a_key_is_the_batch_it_became(plant: Plant, toys: Toys) -> None:
    asked, key = ask_for("/succeed/a", "/hang/b"), {"Idempotency-Key": "k"}
    batch_id = handed_over(await plant.service.post(asked, key))
    again = await plant.service.post(asked, key)
    assert (again.headers["Idempotent-Replayed"], handed_over(again)) == ("true", batch_id)
    await finish(plant, toys)
    assert toys.times == {"0": 1, "1": 1}


# With a transaction.


class Ledger:
    """Transactions that only log what was done with them, in the same log as the records."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            self.log.append("roll back")
            raise
        self.log.append("commit")

    def savepoint(self, _: None) -> AbstractAsyncContextManager[None]:
        return self._nothing()

    @asynccontextmanager
    async def _nothing(self) -> AsyncIterator[None]:
        yield

    def watch(self, call: str, moment: Moment) -> None:
        if call in {"store.create_batch", "store.commit_chunk"} and moment == "before":
            self.log.append(call)


async def build_with_transaction(aiohttp_client: AiohttpClient, toys: Toys, ledger: Ledger) -> Plant:
    operations = toys.operations(transaction=ledger.transaction, savepoint=ledger.savepoint)
    return await build_plant(aiohttp_client, operations, watch=ledger.watch, sync_seconds=SOON)


async def test_what_finished_is_committed_before_it_is_recorded(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    ledger = Ledger()
    plant = await build_with_transaction(aiohttp_client, toys, ledger)
    batch_id = handed_over(await plant.service.post(ask_for("/succeed/a", "/hang/b", "/succeed/c")))
    assert ledger.log == ["commit", "store.create_batch", "store.commit_chunk"]
    assert await plant.statuses(batch_id) == {"0": 201}
    await finish(plant, toys)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3})
    assert toys.times == {"0": 1, "1": 1, "2": 1}


async def test_atomic_batch_that_has_no_tokens_in_time_is_rolled_back(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    ledger = Ledger()
    operations = limited(toys, SLOW, transaction=ledger.transaction, savepoint=ledger.savepoint)
    plant = await build_plant(aiohttp_client, operations, sync_seconds=SOON)
    answer = await plant.service.post(ask_for("/limited/a", "/limited/b"), atomic=True)
    assert [result["status"] for result in answer.body["results"]] == [424, 504]
    assert (ledger.log, toys.times) == (["roll back"], {"0": 1})


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=0"}, {"Prefer": "respond-async"}])
async def test_atomic_batch_is_never_handed_over(
    aiohttp_client: AiohttpClient, toys: Toys, prefer: dict[str, str]
) -> None:
    ledger = Ledger()
    plant = await build_with_transaction(aiohttp_client, toys, ledger)
    answer = await plant.service.post(ask_for("/succeed/a", "/hang/b"), prefer, atomic=True)
    assert (answer.status, answer.body["summary"]["failed"]) == (200, 2)
    assert "commit" not in ledger.log
    assert plant.parts.chunks.messages == []
    assert plant.parts.store._batches == {}
