"""The limit of open operations: what counts, when it is counted out, and what is rejected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.api_key import ApiKey, Scope, make_key
from penstock.batch import BatchState
from penstock.errors import Unavailable
from penstock.open_limit import OpenBatch, OpenLimit, OpenOperations, seconds_to_room
from penstock.quota import Account
from penstock.service import open_ledger
from penstock.service.keys import OPEN_LEDGER
from penstock.service.limits import opening
from penstock.testing import FakeClock, MemoryParts, MemoryStore, memory_parts
from penstock.testing.http import Answer
from tests.support.faults import Outage
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import Serve, Service, ask_for, assert_problem

DEFAULT = Account("default")
BACKGROUND = {"Prefer": "respond-async"}
NOW_OR_LATER = {"Prefer": "wait=0"}
NOTHING = OpenOperations()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def parts(clock: FakeClock) -> MemoryParts:
    return memory_parts(clock)


@pytest.fixture
def limited(serve: Serve, clock: FakeClock, parts: MemoryParts) -> Serve:
    """Start a front end of which a tenant may have ten open operations. All front ends share the table."""

    async def start(toys: Toys | None = None, **options: Any) -> Service:
        return await serve(
            (toys or Toys()).operations(),
            **{"parts": parts, "clock": clock, "tenant_max_open": 10, "min_chunks": 1, **options},
        )

    return start


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient) -> Plant:
    return await build_plant(aiohttp_client, Toys().operations(), chunk_operations=3, tenant_max_open=10)


async def until_counted(service: Service, account: Account) -> None:
    """Wait until the front end has read how far the batches are, in the background."""
    assert service.client.app is not None
    seen = service.client.app[OPEN_LEDGER]._accounts.find(account)
    assert seen.reading is not None
    await seen.reading
    assert seen.counting_some is not None
    await seen.counting_some


@asynccontextmanager
async def no_transaction() -> AsyncIterator[None]:
    yield


def many(count: int, path: str = "/succeed/a") -> list[dict[str, Any]]:
    return ask_for(*[path] * count)


async def open_now(parts: MemoryParts, account: Account = DEFAULT) -> int:
    is_open = await parts.store.read_open(account)
    assert is_open.total == sum(is_open.entries.values())
    return is_open.total


def assert_exceeded(answer: Answer, retry_after: int, policy: str = "open") -> Any:
    problem = assert_problem(answer, 429)
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert problem["violated-policies"] == [policy]
    assert answer.headers["Retry-After"] == str(retry_after)
    return problem


async def test_batches_are_accepted_until_too_much_is_open_and_again_when_they_are_final(plant: Plant) -> None:
    await plant.submit(*["/succeed/a"] * 6)
    await plant.submit(*["/succeed/b"] * 4)
    problem = assert_exceeded(await plant.service.post(many(1), BACKGROUND), 60)
    assert problem["detail"] == (
        "The batch has 1 operation. 10 operations of earlier batches have not finished. At most 10 may be open. "
        "Send it again in 60 s."
    )
    await plant.work_off()
    plant.clock.advance(1.1)
    await plant.submit(*["/succeed/c"] * 10)
    assert await open_now(plant.parts) == 10
    assert len((await plant.parts.store.read_open(DEFAULT)).entries) == 1


async def test_a_rejection_counts_a_single_operation_in_the_singular(plant: Plant) -> None:
    await plant.submit("/succeed/a")
    problem = assert_exceeded(await plant.service.post(many(10), BACKGROUND), 60)
    assert "1 operation of earlier batches has not finished. At most 10 may be open." in problem["detail"]


async def test_only_what_has_not_finished_counts_and_says_when_to_come_back(plant: Plant) -> None:
    await plant.submit(*["/succeed/a"] * 3, *["/second-time-right/b"] * 6)
    await take_turn(plant.consumer())
    plant.clock.advance(10)
    assert_exceeded(await plant.service.post(many(9), BACKGROUND), 17)  # 3 in 10 s have finished, and 5 are too many
    assert await open_now(plant.parts) == 6
    await plant.submit(*["/succeed/c"] * 4)
    assert_exceeded(await plant.service.post(many(1), BACKGROUND), 4)


async def test_batches_that_have_finished_whole_say_when_to_come_back(plant: Plant) -> None:
    for path in ("/succeed/a", "/second-time-right/b", "/second-time-right/c"):
        await plant.submit(*[path] * 3)
    assert_exceeded(await plant.service.post(many(2), BACKGROUND), 60)
    for _ in range(3):
        await take_turn(plant.consumer())
    plant.clock.advance(6)
    assert_exceeded(await plant.service.post(many(8), BACKGROUND), 8)  # 3 in 6 s have finished, and 4 are too many
    assert await open_now(plant.parts) == 6


async def test_batches_are_read_again_after_a_second_at_the_earliest(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    plant = await build_plant(
        aiohttp_client,
        Toys().operations(),
        tenant_max_open=10,
        watch=lambda call, moment: calls.append(call) if moment == "before" else None,
    )
    monkeypatch.setattr(open_ledger, "FRESH_SECONDS", 1_000)
    await plant.submit(*["/succeed/a"] * 10)
    for _ in range(5):
        assert_exceeded(await plant.service.post(many(1), BACKGROUND), 60)
    assert calls.count("store.read_progress") == 1
    assert calls.count("store.add_open") == 1 + 2, "rejected without a write, except for the first time"
    plant.clock.advance(1.1)
    assert_exceeded(await plant.service.post(many(1), BACKGROUND), 60)
    assert calls.count("store.read_progress") == 2


async def test_a_batch_that_is_larger_than_the_limit_never_fits(limited: Serve, parts: MemoryParts) -> None:
    problem = assert_problem(await (await limited()).post(many(11), BACKGROUND), 413)
    assert problem["maxOperations"] == 10
    assert await parts.store.read_open(DEFAULT) == NOTHING


async def test_a_batch_that_is_answered_with_its_results_does_not_count(limited: Serve, parts: MemoryParts) -> None:
    service = await limited()
    assert (await service.post(many(8), BACKGROUND)).status == 202
    for _ in range(3):
        assert (await service.post(many(2))).status == 200
    assert await open_now(parts) == 8


async def test_a_small_batch_is_started_only_if_there_is_room_for_it(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    toys = Toys()
    service = await limited(toys, tenant_limit="100/60")
    assert (await service.post(many(8), BACKGROUND)).status == 202
    tat = (await parts.store.read_usage(DEFAULT)).tat
    for _ in range(2):
        assert_exceeded(await service.post(many(6)), 60)
        clock.advance(1.1)
    assert_problem(await service.post(many(11)), 413)
    assert (toys.runs, await open_now(parts)) == ([], 8)
    assert (await parts.store.read_usage(DEFAULT)).tat == tat


async def test_a_small_batch_is_started_as_soon_as_earlier_ones_have_finished(plant: Plant) -> None:
    await plant.submit(*["/succeed/a"] * 10)
    assert_exceeded(await plant.service.post(many(1)), 60)
    await plant.work_off()
    plant.clock.advance(1.1)
    assert (await plant.service.post(many(10))).status == 200


async def test_an_atomic_batch_is_never_open_so_it_is_not_rejected(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(Toys().operations(transaction=no_transaction), parts=parts, tenant_max_open=10)
    assert (await service.post(many(10), BACKGROUND)).status == 202
    assert (await service.post(many(10), atomic=True)).status == 200
    assert await open_now(parts) == 10


async def test_a_batch_that_is_handed_over_counts(limited: Serve, parts: MemoryParts) -> None:
    service = await limited()
    assert (await service.post(many(6, "/hang/a"), NOW_OR_LATER)).status == 202
    assert await open_now(parts) == 6
    assert_exceeded(await service.post(many(6, "/hang/a"), NOW_OR_LATER), 60)
    assert_problem(await service.post(many(11, "/hang/a"), NOW_OR_LATER), 413)


@pytest.mark.parametrize("paths", [["/hang/a"] * 6, ["/succeed/a"] * 3 + ["/hang/a"] * 3])
async def test_a_batch_that_was_started_is_not_rejected(limited: Serve, parts: MemoryParts, paths: list[str]) -> None:
    """Another front end accepts a batch meanwhile, so there is no room when this one is handed over."""

    def accept_another(call: str, moment: str) -> None:
        if (call, moment) == ("store.add_open", "before"):
            parts.store._set_open(DEFAULT, {OpenBatch("another", 0): 8})

    service = await limited(sync_seconds=0.05, watch=accept_another)
    assert (await service.post(ask_for(*paths))).status == 202
    assert await open_now(parts) == 14


@pytest.mark.parametrize("call", ["store.list_batch", "chunks.send"])
async def test_a_batch_that_is_not_accepted_does_not_count(limited: Serve, parts: MemoryParts, call: str) -> None:
    service = await limited(watch=Outage(call))
    assert_problem(await service.post(many(5), BACKGROUND), 503)
    assert await parts.store.read_open(DEFAULT) == NOTHING


async def test_an_entry_whose_answer_is_lost_is_removed(limited: Serve, parts: MemoryParts) -> None:
    service = await limited(watch=Outage("store.add_open", "after", times=1))
    assert_problem(await service.post(many(5), BACKGROUND), 503)
    assert await parts.store.read_open(DEFAULT) == NOTHING


async def test_a_repeated_request_counts_once(limited: Serve, parts: MemoryParts) -> None:
    service = await limited()
    headers = {"Idempotency-Key": '"a"', **BACKGROUND}
    assert (await service.post(many(8), headers)).status == 202
    again = await service.post(many(8), headers)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert await open_now(parts) == 8


@pytest.mark.parametrize(
    ("dies_at", "most_ahead"),
    [("chunks.send", 10), ("store.accept_new", 10), ("store.create_batch", 0), ("store.accept_batch", 0)],
)
async def test_the_batch_of_a_front_end_that_died_leaves_after_its_acceptance_lease(
    limited: Serve,
    parts: MemoryParts,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dies_at: str,
    most_ahead: int,
) -> None:
    """It died before it accepted the batch. Here, AWS answers none of its calls after that."""
    monkeypatch.setattr("penstock.service.intake.acceptance.ACCEPT_REPEAT_SECONDS", 0)
    monkeypatch.setattr("penstock.service.intake.acceptance.MESSAGES_IN_CALL", most_ahead)

    def dead(call: str, _moment: str) -> None:
        if call in {dies_at, "store.lower_open", "store.abandon_batch"}:
            raise Unavailable("It died.")

    await (await limited(watch=dead)).post(many(8), BACKGROUND)
    other = await limited()
    assert_exceeded(await other.post(many(9), BACKGROUND), 60)
    assert await open_now(parts) == 8
    clock.advance(93)
    assert (await other.post(many(9), BACKGROUND)).status == 202
    assert await open_now(parts) == 9
    states = [batch.state for batch in parts.store._batches.values()]
    assert sorted(states) == [BatchState.ABANDONED, BatchState.QUEUED], "the first one can never be accepted any more"


async def test_twenty_front_ends_accept_no_more_than_the_limit(limited: Serve, parts: MemoryParts) -> None:
    services = [await limited() for _ in range(20)]
    answers = await asyncio.gather(*(service.post(many(3), BACKGROUND) for service in services))
    assert sorted(answer.status for answer in answers) == [202] * 3 + [429] * 17
    assert await open_now(parts) == 9


async def test_front_ends_that_count_at_the_same_time_count_nothing_out_twice(plant: Plant) -> None:
    batch_ids = [await plant.submit(*["/succeed/a"] * 2, *["/second-time-right/b"] * 3) for _ in range(2)]
    await take_turn(plant.consumer())
    await take_turn(plant.consumer())
    store = plant.parts.store
    ledgers = [open_ledger.OpenLedger(store, plant.clock, 60) for _ in range(5)]
    before = await store.read_open(DEFAULT)
    await asyncio.gather(*(ledger._recount(DEFAULT, ledger._accounts.find(DEFAULT), before) for ledger in ledgers))
    left = [5 - (await plant.status(batch_id))["completed"] for batch_id in batch_ids]
    assert await open_now(plant.parts) == sum(left) < 10


async def test_too_many_batches_are_rejected_however_small(limited: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.testing.memory.MOST_ENTRIES", 2)
    monkeypatch.setattr("penstock.open_limit.MOST_ENTRIES", 2)
    monkeypatch.setattr(opening, "MOST_ENTRIES", 2)
    service = await limited()
    for _ in range(2):
        assert (await service.post(many(1), BACKGROUND)).status == 202
    problem = assert_exceeded(await service.post(many(1), BACKGROUND), 60)
    assert problem["detail"] == "2 batches have not finished. At most 2 may be open. Send it again in 60 s."


async def test_answers_say_the_limit_and_what_is_left(plant: Plant) -> None:
    batch_id = await plant.submit(*["/succeed/a"] * 6)
    path = f"/batch/{batch_id}/status"
    answer = await plant.service.get(path)
    assert (answer.headers["RateLimit-Policy"], answer.headers["RateLimit"]) == ('"open";q=10', '"open";r=4')
    await plant.work_off()
    plant.clock.advance(5.1)
    await plant.service.get(path)  # counts out what has finished, for the next answer
    await until_counted(plant.service, DEFAULT)
    assert (await plant.service.get(path)).headers["RateLimit"] == '"open";r=10'
    assert await plant.parts.store.read_open(DEFAULT) == NOTHING


async def test_a_read_does_not_replace_what_was_seen_later(clock: FakeClock) -> None:
    """A batch is added between the read of the table and its answer."""
    limit, entry, read = OpenLimit("open", DEFAULT, 10), OpenBatch("a", int(clock.now()) + 30), asyncio.Event()

    class Slow(MemoryStore):
        async def read_open(self, account: Account) -> OpenOperations:
            is_open = await super().read_open(account)
            if asyncio.current_task() is ledger._accounts.find(account).reading:
                await read.wait()
            return is_open

    ledger = open_ledger.OpenLedger(Slow(), clock, 60)
    first = asyncio.create_task(ledger.open(DEFAULT))
    await asyncio.sleep(0)
    added = await ledger.add(limit, entry, 4, is_forced=False)
    read.set()
    assert await first == added == await ledger.open(DEFAULT)
    await ledger.remove(DEFAULT, entry, 4)
    assert await ledger.open(DEFAULT) == NOTHING


async def test_answers_say_both_kinds_of_limits(limited: Serve) -> None:
    answer = await (await limited(tenant_limit="20/60")).post(many(5), BACKGROUND)
    assert answer.headers["RateLimit-Policy"] == '"operations";q=20;w=60, "open";q=10'
    assert answer.headers["RateLimit"] == '"operations";r=15;t=3, "open";r=5'


async def test_a_batch_that_may_not_be_open_is_not_charged(limited: Serve, parts: MemoryParts) -> None:
    service = await limited(tenant_limit="100/60")
    await service.post(many(8), BACKGROUND)
    tat = (await parts.store.read_usage(DEFAULT)).tat
    assert_exceeded(await service.post(many(8), BACKGROUND), 60)
    assert (await parts.store.read_usage(DEFAULT)).tat == tat


async def test_an_answer_does_not_depend_on_what_is_open(limited: Serve) -> None:
    answer = await (await limited(watch=Outage("store.read_open"))).get("/batch/unknown/status")
    assert (answer.status, answer.headers["RateLimit-Policy"]) == (404, '"open";q=10')
    assert "RateLimit" not in answer.headers


async def test_without_a_limit_nothing_is_counted(serve: Serve) -> None:
    calls: list[str] = []
    service = await serve(Toys().operations(), watch=lambda call, _: calls.append(call))
    assert (await service.post(many(5), BACKGROUND)).status == 202
    assert not [call for call in calls if "open" in call]


async def test_a_key_has_a_limit_within_that_of_its_tenant(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    key, scopes, acme = make_key("test"), frozenset({Scope.WRITE}), Account("acme")
    await parts.store.create_api_key(
        ApiKey(id=key.id, digest=key.digest, tenant="acme", scopes=scopes, created_at=clock.now(), max_open=5)
    )
    service = await limited(auth="keys", operator_key="o" * 40)
    headers, operator = ({"Authorization": f"Bearer {token}"} for token in (key.text, "o" * 40))
    answer = await service.post(many(4), {**headers, **BACKGROUND})
    assert answer.headers["RateLimit-Policy"] == '"open";q=10, "open-of-key";q=5'
    assert answer.headers["RateLimit"] == '"open";r=6, "open-of-key";r=1'
    assert_exceeded(await service.post(many(2), {**headers, **BACKGROUND}), 60, "open-of-key")
    assert await open_now(parts, acme) == 4
    lowered = await limited(auth="keys", operator_key="o" * 40, tenant_max_open=4)
    assert_exceeded(await lowered.post(many(1), {**headers, **BACKGROUND}), 60)
    assert await open_now(parts, Account("acme", key.id)) == 4, "its entry is removed when its tenant has no room"
    answer = await service.post(many(11), {**operator, **BACKGROUND})
    assert answer.status == 202
    assert "RateLimit-Policy" not in answer.headers


class TestRetry:
    async def test_a_retry_counts_until_its_operations_have_succeeded(self, aiohttp_client: AiohttpClient) -> None:
        toys = Toys()
        plant = await build_plant(aiohttp_client, toys.operations(), chunk_operations=3, tenant_max_open=10)
        batch_id = await plant.submit(*["/break/a"] * 7, "/succeed/b")
        await plant.work_off()
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry")).status == 202
        assert await open_now(plant.parts) == 7
        again = await plant.ask("POST", f"/batch/{batch_id}/retry")
        assert_exceeded(again, 60)
        assert "The retry would run 7 operations." in again.body["detail"]
        toys.is_mended = True
        await plant.work_off()
        plant.clock.advance(1.1)
        assert (await plant.service.post(many(10), BACKGROUND)).status == 202

    async def test_a_retry_that_fails_again_does_not_count_for_long(self, plant: Plant) -> None:
        batch_id = await plant.submit(*["/break/a"] * 7)
        await plant.work_off()
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry")).status == 202
        await plant.work_off()
        plant.clock.advance(1.1)
        assert_exceeded(await plant.service.post(many(4), BACKGROUND), 60)
        plant.clock.advance(open_ledger.RETRY_SECONDS)
        assert (await plant.service.post(many(4), BACKGROUND)).status == 202

    async def test_a_retry_of_nothing_does_not_count(self, plant: Plant) -> None:
        batch_id = await plant.submit("/succeed/a")
        await plant.work_off()
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry")).body["retried"] == 0
        assert not [entry for entry in (await plant.parts.store.read_open(DEFAULT)).entries if entry.retry_id]


@pytest.mark.parametrize(
    ("excess", "each_second", "seconds"), [(10, 0, 60), (10, 3, 4), (1, 1_000, 1), (1_000_000, 1, 3_600)]
)
def test_seconds_to_room(excess: int, each_second: float, seconds: int) -> None:
    assert seconds_to_room(excess, each_second) == seconds
