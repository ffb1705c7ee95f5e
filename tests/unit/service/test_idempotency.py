"""The same key with the same request creates one batch, even if it is sent often or a front end dies."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from multidict import CIMultiDict
from pytest_aiohttp import AiohttpClient

from penstock.batch import BatchState
from penstock.errors import NoAccess, PenstockError, RejectedCall
from penstock.queue import MESSAGES_IN_CALL
from penstock.service.idempotency import HEADER
from penstock.service.intake import acceptance
from penstock.service.intake.submit import LEASE_MARGIN_SECONDS
from penstock.store import KeyClaim
from penstock.testing import FakeClock
from penstock.testing.http import Answer
from tests.support.builders import NOW, build_batch
from tests.support.faults import Moment, Outage, Watch
from tests.support.plant import Plant, Toys, all_of, build_plant
from tests.support.service import ask_for, assert_problem
from tests.support.waiting import UNIT_SECONDS

KEY = {"Idempotency-Key": '"one"'}
ASYNC_KEY = {**KEY, "Prefer": "respond-async"}
SYNC_SECONDS, ACCEPT_SECONDS, KEPT_SECONDS = 10, 60, 3600
LEASE_SECONDS = ACCEPT_SECONDS + LEASE_MARGIN_SECONDS
RUN_LEASE_SECONDS = SYNC_SECONDS + LEASE_MARGIN_SECONDS  # of a batch that runs immediately


SENT_AHEAD, WRITTEN_FIRST = "store.accept_new", "store.accept_batch"  # the calls that accept a batch
in_both_orders = pytest.mark.parametrize(
    "accepting", [SENT_AHEAD, WRITTEN_FIRST], indirect=True, ids=["sent ahead", "written first"]
)


@pytest.fixture(autouse=True)
def accepting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Accept batches with this call, as small ones or as large ones. Return it."""
    call: str = getattr(request, "param", SENT_AHEAD)
    monkeypatch.setattr(acceptance, "MESSAGES_IN_CALL", MESSAGES_IN_CALL if call == SENT_AHEAD else 0)
    return call


@pytest.fixture
def toys() -> Toys:
    return Toys()


async def build(aiohttp_client: AiohttpClient, toys: Toys, watch: Watch | None = None, **settings: Any) -> Plant:
    times = {
        "sync_seconds": SYNC_SECONDS,
        "accept_seconds": ACCEPT_SECONDS,
        "idempotency_seconds": KEPT_SECONDS,
    }
    return await build_plant(aiohttp_client, toys.operations(), watch=watch, **{**times, **settings})


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build(aiohttp_client, toys)


def is_replay(answer: Answer) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


def claim_of(plant: Plant) -> KeyClaim:
    [claim] = plant.parts.store._keys.values()
    return claim


@in_both_orders
async def test_large_batch_is_accepted_once_and_its_status_is_of_now(plant: Plant) -> None:
    asked = ask_for("/succeed/a", "/succeed/b")
    first = await plant.service.post(asked, ASYNC_KEY)
    assert (first.status, is_replay(first)) == (202, False)
    again = await plant.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again)) == (202, True)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.body == first.body | again.body
    assert (again.body["status"], plant.waiting_operations()) == ("queued", ["0", "1"])
    await plant.work_off()
    after = await plant.service.post(asked, ASYNC_KEY)
    assert (after.body["batchId"], after.body["status"]) == (first.body["batchId"], "completed")
    assert after.body["succeeded"] == 2


async def test_answer_at_once_is_repeated_byte_for_byte_and_nothing_runs_again(plant: Plant, toys: Toys) -> None:
    asked = ask_for("/succeed/a", "/reject/b", "/break/c")
    first = await plant.service.post(asked, KEY)
    again = await plant.service.post(asked, KEY)
    assert (first.status, is_replay(first)) == (200, False)
    assert (again.status, is_replay(again)) == (200, True)
    assert (again.content, again.content_type) == (first.content, first.content_type)
    assert toys.times == {"0": 1, "1": 1, "2": 1}


async def test_without_a_key_each_request_is_a_batch_of_its_own(plant: Plant, toys: Toys) -> None:
    for _ in range(2):
        assert not is_replay(await plant.service.post(ask_for("/succeed/a")))
    assert toys.times == {"0": 2}
    assert plant.parts.store._keys == {}


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "a"], ['"a"', '"b"'], ["a", ""]])
async def test_two_keys_are_no_key(plant: Plant, toys: Toys, keys: list[str]) -> None:
    headers = CIMultiDict((HEADER, key) for key in keys)
    assert_problem(await plant.service.post(ask_for("/succeed/a"), headers), 400)
    assert toys.times == {}


@pytest.mark.parametrize("headers", [KEY, ASYNC_KEY], ids=["at once", "in the background"])
async def test_key_with_another_body_is_refused(plant: Plant, toys: Toys, headers: dict[str, str]) -> None:
    await plant.service.post(ask_for("/succeed/a"), headers)
    problem = assert_problem(await plant.service.post(ask_for("/succeed/b"), headers), 422)
    assert problem["type"] == "urn:penstock:problem:key-reused"
    await plant.work_off()
    assert toys.times == {"0": 1}


async def test_answer_that_is_too_large_is_sent_but_not_stored(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, idempotency_answer_bytes=10)
    asked = ask_for("/succeed/a", "/reject/b")
    first = await plant.service.post(asked, KEY)
    again = await plant.service.post(asked, KEY)
    assert (first.status, len(first.body["results"]), toys.times) == (200, 2, {"0": 1, "1": 1})
    problem = assert_problem(again, 409)
    assert problem["type"] == "urn:penstock:problem:not-possible-now"
    assert f"Its answer of {len(first.content):,} bytes" in problem["detail"]
    assert len(claim_of(plant).answer or b"") < 40
    assert_problem(await plant.service.post(ask_for("/succeed/b"), KEY), 422)


async def test_answer_of_the_largest_size_is_stored(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    asked = ask_for("/succeed/a")
    size = len((await (await build(aiohttp_client, toys)).service.post(asked)).content)
    plant = await build(aiohttp_client, toys, idempotency_answer_bytes=size)
    first = await plant.service.post(asked, KEY)
    again = await plant.service.post(asked, KEY)
    assert (again.status, is_replay(again), again.content) == (200, True, first.content)


async def test_while_the_first_is_answered_others_are_told_to_wait(plant: Plant, toys: Toys) -> None:
    asked = ask_for("/hang/a")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(plant.service.post(asked, KEY))
        await toys.arrived.wait()
        for _ in range(3):
            early = await plant.service.post(asked, KEY)
            assert assert_problem(early, 409)["type"] == "urn:penstock:problem:key-in-use"
            assert int(early.headers["Retry-After"]) > 0
        toys.gate.set()
    late = await plant.service.post(asked, KEY)
    assert (late.content, is_replay(late)) == (first.result().content, True)
    assert toys.times == {"0": 1}


@in_both_orders
async def test_of_many_requests_at_once_one_makes_a_batch(plant: Plant, toys: Toys) -> None:
    answers = await asyncio.gather(*(plant.service.post(ask_for("/succeed/a"), ASYNC_KEY) for _ in range(20)))
    assert {answer.status for answer in answers} <= {202, 409}
    assert len({answer.body["batchId"] for answer in answers if answer.status == 202}) == 1
    await plant.work_off()
    assert toys.times == {"0": 1}


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ('"one"', "one", True),  # the bare form is the same key
        (' "one" ', '"one"', True),
        (r'"a\"b\\c"', r'"a\"b\\c"', True),
        ('"a b"', '"a  b"', False),
        ('"one"', '"One"', False),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', True),
        ("a" * 255, f'"{"a" * 255}"', True),
    ],
)
async def test_key_is_a_structured_string_or_bare(plant: Plant, first: str, second: str, *, is_same: bool) -> None:
    asked = ask_for("/succeed/a")
    assert (await plant.service.post(asked, {"Idempotency-Key": first})).status == 200
    assert is_replay(await plant.service.post(asked, {"Idempotency-Key": second})) is is_same


async def test_refused_request_keeps_no_key(plant: Plant) -> None:
    assert_problem(await plant.service.post(ask_for("/nowhere"), KEY), 422)
    assert plant.parts.store._keys == {}
    assert (await plant.service.post(ask_for("/succeed/a"), KEY)).status == 200


@in_both_orders
async def test_request_that_failed_may_be_sent_again_at_once(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, Outage("chunks.send", "after", times=1))
    asked = ask_for("/succeed/a")
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 503)
    plant.clock.advance(0.001)
    again = await plant.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again)) == (202, False)
    # The chunk of the first request was sent too, but its batch is abandoned.
    assert plant.waiting_operations() == ["0", "0"]
    await plant.work_off()
    assert toys.times == {"0": 1}
    assert await plant.counts(again.body["batchId"]) == ("completed", {"succeeded": 1})


# If a front end dies, nobody settles or releases its claim.


def death_after_acceptance() -> Watch:
    return Outage("store.settle_key")


def death_before_acceptance() -> Watch:
    """Its chunks are on the queue, but the batch is not accepted."""
    return all_of(Outage("chunks.send", "after", times=1), Outage("store.release_key"))


@in_both_orders
async def test_batch_that_a_dead_front_end_had_accepted_is_replayed(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, death_after_acceptance())
    asked = ask_for("/succeed/a")
    first = await plant.service.post(asked, ASYNC_KEY)
    assert not claim_of(plant).is_settled
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 409)
    plant.clock.advance(LEASE_SECONDS + 1)
    survivor = await build(aiohttp_client, toys, parts=plant.parts, clock=plant.clock)
    again = await survivor.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again), again.body["batchId"]) == (202, True, first.body["batchId"])
    assert claim_of(plant).is_settled
    await plant.work_off()
    assert toys.times == {"0": 1}


@in_both_orders
async def test_batch_that_a_dead_front_end_had_not_accepted_is_made_anew(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, death_before_acceptance())
    asked = ask_for("/succeed/a")
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 503)
    dead = claim_of(plant).batch_id
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 409)
    plant.clock.advance(LEASE_SECONDS + 1)
    again = await plant.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again)) == (202, False)
    assert again.body["batchId"] != dead
    assert (await plant.batch(dead)).state is BatchState.ABANDONED
    await plant.work_off()
    assert toys.times == {"0": 1}
    assert toys.keys == {f"{dead}/0"}, "the handler is to see the key of the first request"
    assert is_replay(await plant.service.post(asked, ASYNC_KEY))


@in_both_orders
@pytest.mark.parametrize("state", [BatchState.ACCEPTING, BatchState.ABANDONED])
async def test_batch_whose_creation_comes_late_is_made_anew(
    aiohttp_client: AiohttpClient, toys: Toys, state: BatchState, accepting: str
) -> None:
    """The batch is created just after the request that takes over found nothing to abandon. Nobody accepts it.

    A sweep may even have abandoned it.
    """
    first_call = "chunks.send" if accepting == SENT_AHEAD else "store.create_batch"
    plant = await build(aiohttp_client, toys, all_of(Outage(first_call), Outage("store.release_key")))
    asked = ask_for("/succeed/a")
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 503)
    dead = claim_of(plant).batch_id
    plant.clock.advance(LEASE_SECONDS + 1)

    def create_late(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.abandon_batch", "after"):
            late = build_batch(1, id=dead, state=state, accepted_at=None)
            plant.parts.store._batches.setdefault(dead, late)

    survivor = await build(aiohttp_client, toys, create_late, parts=plant.parts, clock=plant.clock)
    again = await survivor.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again)) == (202, False)
    assert (await plant.batch(dead)).state is BatchState.ABANDONED
    await plant.work_off()
    assert await plant.counts(again.body["batchId"]) == ("completed", {"succeeded": 1})


@in_both_orders
async def test_front_end_that_comes_too_late_accepts_nothing(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    """By another clock its lease is over before it created its batch. Afterwards, it can no longer create it."""
    plant = await build(aiohttp_client, toys, sync_seconds=2 * UNIT_SECONDS)
    asked = ask_for("/hang/a")
    slow = asyncio.create_task(plant.service.post(asked, KEY))
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await toys.arrived.wait()
    fast = FakeClock(NOW + LEASE_SECONDS + 2 * UNIT_SECONDS + 1)
    survivor = await build(aiohttp_client, toys, parts=plant.parts, clock=fast)
    again = await survivor.service.post(asked, ASYNC_KEY)
    assert (again.status, is_replay(again)) == (202, False)
    assert_problem(await slow, 503)
    toys.gate.set()
    await plant.work_off()
    assert await plant.counts(again.body["batchId"]) == ("completed", {"succeeded": 1})
    assert toys.times == {"0": 1}


@in_both_orders
async def test_other_body_is_refused_though_the_first_front_end_is_dead(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, death_before_acceptance())
    await plant.service.post(ask_for("/succeed/a"), ASYNC_KEY)
    plant.clock.advance(LEASE_SECONDS + 1)
    assert_problem(await plant.service.post(ask_for("/succeed/b"), ASYNC_KEY), 422)


# A small batch may have killed the front end that ran it, so it does not run immediately again.


def death_while_running() -> Watch:
    """Its handlers ran, but nobody knows: the front end died before the results were stored."""
    return Outage("store.settle_key")


@in_both_orders
async def test_small_batch_of_a_dead_front_end_runs_in_consumers_with_the_keys_of_the_first(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, death_while_running())
    asked = ask_for("/succeed/a", "/break/b")
    assert (await plant.service.post(asked, KEY)).status == 200
    plant.clock.advance(RUN_LEASE_SECONDS + 1)
    survivor = await build(aiohttp_client, toys, parts=plant.parts, clock=plant.clock)
    again = await survivor.service.post(asked, {**KEY, "Prefer": "wait=5"})
    assert (again.status, is_replay(again), "Preference-Applied" in again.headers) == (202, False, False)
    assert toys.times == {"0": 1, "1": 1}
    await plant.work_off()
    assert await plant.counts(again.body["batchId"]) == ("completed", {"succeeded": 1, "failed": 1})
    assert toys.times == {"0": 2, "1": 2}
    assert len(toys.keys) == 2
    assert len({context.batch_id for context in toys.runs}) == 2
    assert is_replay(await survivor.service.post(asked, KEY))


@in_both_orders
async def test_small_batch_stays_with_the_consumers_although_its_acceptance_fails(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    """The request that takes over cannot send the chunks. It releases the key, and the death is not forgotten."""
    plant = await build(aiohttp_client, toys, death_while_running())
    asked = ask_for("/succeed/a")
    await plant.service.post(asked, KEY)
    plant.clock.advance(RUN_LEASE_SECONDS + 1)
    survivor = await build(aiohttp_client, toys, Outage("chunks.send", times=1), parts=plant.parts, clock=plant.clock)
    assert_problem(await survivor.service.post(asked, KEY), 503)
    plant.clock.advance(0.001)
    assert (await survivor.service.post(asked, KEY)).status == 202
    assert toys.times == {"0": 1}
    assert claim_of(plant).deaths == 1


async def test_small_batch_whose_front_end_released_its_key_runs_immediately_again(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, Outage("chunks.send", times=1))
    asked = ask_for("/succeed/a")
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 503)
    plant.clock.advance(0.001)
    assert (await plant.service.post(asked, KEY)).status == 200
    assert (toys.times, claim_of(plant).deaths) == ({"0": 1}, 0)


async def test_key_of_a_small_batch_is_free_soon_after_its_front_end_died(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    """It need not wait for the time that an acceptance may take. The answer says how long it waits."""
    plant = await build(aiohttp_client, toys, death_while_running())
    asked = ask_for("/succeed/a")
    claimed_at = plant.clock.now()
    await plant.service.post(asked, {**KEY, "Prefer": "wait=2"})  # tries to settle the key for more than a second
    problem = assert_problem(await plant.service.post(asked, KEY), 409)
    assert "If its front end has died, a repeated request takes over after 11 s." in problem["detail"]
    plant.clock.advance(claimed_at + 12 - plant.clock.now())
    assert_problem(await plant.service.post(asked, KEY), 409)
    plant.clock.advance(0.001)
    assert (await plant.service.post(asked, KEY)).status == 202


async def test_hand_over_of_a_small_batch_has_the_whole_time_of_an_acceptance(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    """The lease of the key would end while the chunks are sent. The hand-over extends it."""
    unwatched = await build(aiohttp_client, toys, sync_seconds=0.1)
    leases: list[float] = []

    def note_lease(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "before"):
            leases.append(claim_of(unwatched).lease_until - NOW)

    watching = await build(aiohttp_client, toys, note_lease, parts=unwatched.parts, sync_seconds=0.1)
    answer = await watching.service.post(ask_for("/hang/a"), KEY)
    assert (answer.status, leases) == (202, [ACCEPT_SECONDS])


async def test_atomic_batch_runs_once_more_after_a_death_and_then_not_again(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    operations = toys.operations(transaction=nullcontext, savepoint=nullcontext)
    plant = await build_plant(aiohttp_client, operations, watch=death_while_running(), sync_seconds=SYNC_SECONDS)
    asked = ask_for("/succeed/a")
    for _ in range(2):
        assert (await plant.service.post(asked, KEY, atomic=True)).status == 200
        plant.clock.advance(RUN_LEASE_SECONDS + 1)
    for _ in range(2):
        problem = assert_problem(await plant.service.post(asked, KEY, atomic=True), 409)
        assert problem["type"] == "urn:penstock:problem:runs-no-more"
        plant.clock.advance(RUN_LEASE_SECONDS + 1)
    assert toys.times == {"0": 2}
    assert_problem(await plant.service.post(ask_for("/succeed/b"), KEY, atomic=True), 422)


@in_both_orders
async def test_one_of_many_takes_over(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, death_before_acceptance())
    asked = ask_for("/succeed/a")
    await plant.service.post(asked, ASYNC_KEY)
    plant.clock.advance(LEASE_SECONDS + 1)
    answers = await asyncio.gather(*(plant.service.post(asked, ASYNC_KEY) for _ in range(10)))
    assert {answer.status for answer in answers} <= {202, 409}
    assert len({answer.body["batchId"] for answer in answers if answer.status == 202}) == 1
    await plant.work_off()
    assert toys.times == {"0": 1}


@in_both_orders
async def test_late_front_end_does_not_settle_what_another_has_taken_over(plant: Plant, toys: Toys) -> None:
    asked = ask_for("/hang/a")
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(plant.service.post(asked, KEY))
        await toys.arrived.wait()
        plant.clock.advance(LEASE_SECONDS + 1)
        second = await plant.service.post(asked, KEY)
        toys.gate.set()
    assert (slow.result().status, second.status) == (200, 202)
    settled = claim_of(plant)
    assert (settled.batch_id, settled.is_settled, settled.answer) == (second.body["batchId"], True, None)


@in_both_orders
async def test_front_end_too_late_for_its_key_does_not_accept_its_batch(plant: Plant, toys: Toys) -> None:
    """Otherwise, the same key would create two batches: the one that took over, and the late one."""
    asked = ask_for("/hang/a")
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(plant.service.post(asked, {**KEY, "Prefer": "wait=1"}))
        await toys.arrived.wait()
        plant.clock.advance(LEASE_SECONDS + 1)  # it runs longer, and is handed over afterwards
        second = await plant.service.post(asked, ASYNC_KEY)
    assert second.status == 202
    assert_problem(slow.result(), 503)
    toys.gate.set()
    await plant.work_off()
    assert toys.times == {"0": 1}


@in_both_orders
async def test_key_of_a_batch_that_may_be_accepted_stays_claimed(
    aiohttp_client: AiohttpClient, toys: Toys, monkeypatch: pytest.MonkeyPatch, accepting: str
) -> None:
    monkeypatch.setattr(acceptance, "ACCEPT_REPEAT_SECONDS", 0)
    plant = await build(aiohttp_client, toys, Outage(accepting, "after"))
    asked = ask_for("/succeed/a")
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 504)
    plant.clock.advance(1)
    assert_problem(await plant.service.post(asked, ASYNC_KEY), 409)


@in_both_orders
async def test_batch_that_is_created_after_another_request_has_its_key_is_not_accepted(
    aiohttp_client: AiohttpClient, toys: Toys, accepting: str
) -> None:
    """The clock of its front end is slow, so that this one thinks that the lease still runs."""
    creating = SENT_AHEAD if accepting == SENT_AHEAD else "store.create_batch"
    gate, is_creating = asyncio.Event(), asyncio.Event()

    async def wait(call: str, moment: Moment) -> None:
        if (call, moment) == (creating, "before"):
            is_creating.set()
            await gate.wait()

    plant = await build(aiohttp_client, toys, wait)
    asked = ask_for("/succeed/a")
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(plant.service.post(asked, ASYNC_KEY))
        await is_creating.wait()
        fast = await build(aiohttp_client, toys, parts=plant.parts, clock=FakeClock(NOW + 1_000))
        assert (await fast.service.post(asked, ASYNC_KEY)).status == 202
        gate.set()
    assert_problem(slow.result(), 503)
    await plant.work_off()
    assert toys.times == {"0": 1}


async def test_tenants_do_not_see_each_other_s_keys(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, tenant_header="X-Tenant")
    for tenant, path in (("a", "/succeed/a"), ("b", "/succeed/b")):
        answer = await plant.service.post(ask_for(path), {**KEY, "X-Tenant": tenant})
        assert (answer.status, is_replay(answer)) == (200, False)
    assert is_replay(await plant.service.post(ask_for("/succeed/b"), {**KEY, "X-Tenant": "b"}))


async def test_key_is_forgotten_after_its_time(plant: Plant, toys: Toys) -> None:
    await plant.service.post(ask_for("/succeed/a"), KEY)
    plant.clock.advance(KEPT_SECONDS - 1)
    assert is_replay(await plant.service.post(ask_for("/succeed/a"), KEY))
    plant.clock.advance(2)
    answer = await plant.service.post(ask_for("/succeed/b"), KEY)
    assert (answer.status, is_replay(answer)) == (200, False)
    assert len(toys.keys) == 2


async def test_answer_is_stored_although_aws_was_unavailable_for_a_moment(
    aiohttp_client: AiohttpClient, toys: Toys
) -> None:
    plant = await build(aiohttp_client, toys, Outage("store.settle_key", times=3))
    assert (await plant.service.post(ask_for("/succeed/a"), KEY)).status == 200
    again = await plant.service.post(ask_for("/succeed/a"), KEY)
    assert (again.status, is_replay(again), toys.times) == (200, True, {"0": 1})


@pytest.mark.parametrize("error", [NoAccess("The credentials have expired."), RejectedCall("The item is too large.")])
async def test_answer_goes_out_although_aws_rejects_that_it_is_stored(
    aiohttp_client: AiohttpClient, toys: Toys, error: PenstockError
) -> None:
    def reject(call: str, _moment: Moment) -> None:
        if call == "store.settle_key":
            raise error

    plant = await build(aiohttp_client, toys, reject)
    assert (await plant.service.post(ask_for("/succeed/a"), KEY)).status == 200


async def test_answer_that_could_not_be_kept_goes_out(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, Outage("store.settle_key"))
    async with asyncio.timeout(20 * UNIT_SECONDS):
        answer = await plant.service.post(ask_for("/succeed/a"), KEY)
    assert (answer.status, toys.times) == (200, {"0": 1})
