"""The quota of a tenant: what is charged, what is rejected, and what every answer says about it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations
from penstock.api_key import ApiKey, NewKey, Scope, make_key
from penstock.batch import BatchState
from penstock.errors import Unavailable
from penstock.quota import Account, Charge, Limit, Quota, Usage
from penstock.service.batches import retry
from penstock.service.intake import acceptance
from penstock.service.limits import charging
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.faults import Outage
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import NDJSON, Serve, Service, ask_for, assert_problem

operations = Operations()
DEFAULT = Account("default")
BACKGROUND = {"Prefer": "respond-async"}


@operations.post("/run")
async def run() -> None: ...


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "ACCEPT_REPEAT_SECONDS", 0)


@pytest.fixture
def limited(serve: Serve, clock: FakeClock, parts: MemoryParts) -> Serve:
    """Start a front end with a quota of ten operations in a minute. All of them share the table."""

    async def start(**options: Any) -> Service:
        patient = {"sync_seconds": 60}  # on a busy machine ten operations may take longer than the default
        return await serve(
            operations, **{"parts": parts, "clock": clock, "tenant_limit": "10/60", **patient, **options}
        )

    return start


def many(count: int) -> list[dict[str, Any]]:
    return ask_for(*["/run"] * count)


async def left(parts: MemoryParts, clock: FakeClock, account: Account = DEFAULT) -> int:
    return Quota(10, 60).remaining((await parts.store.read_usage(account)).tat, clock.now())


def assert_exceeded(answer: Answer, retry_after: int) -> Any:
    problem = assert_problem(answer, 429)
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert problem["violated-policies"] == ["operations"]
    assert answer.headers["Retry-After"] == str(retry_after)
    assert "A batch counts as many operations as it has." in problem["detail"]
    return problem


@pytest.mark.parametrize("headers", [{}, BACKGROUND])
async def test_batches_are_charged_until_the_quota_is_used_up(
    limited: Serve, clock: FakeClock, headers: dict[str, str]
) -> None:
    service = await limited()
    first = await service.post(many(7), headers)
    assert first.status in {200, 202}
    assert first.headers["RateLimit-Policy"] == '"operations";q=10;w=60'
    assert first.headers["RateLimit"] == '"operations";r=3;t=6'
    rejected = await service.post(many(4), headers)
    assert_exceeded(rejected, 6)
    assert rejected.headers["RateLimit"] == '"operations";r=3;t=6'
    assert (await service.post(many(3), headers)).status == first.status
    clock.advance(12)
    assert_exceeded(await service.post(many(3), headers), 6)
    assert (await service.post(many(2), headers)).status == first.status


async def test_each_tenant_has_its_own_quota(limited: Serve) -> None:
    service = await limited(tenant_header="X-Tenant")
    for tenant in ("a", "b"):
        assert (await service.post(many(10), {"X-Tenant": tenant})).status == 200
    assert_exceeded(await service.post(many(1), {"X-Tenant": "a"}), 6)


async def test_a_batch_that_is_larger_than_the_quota_never_fits(limited: Serve, parts: MemoryParts) -> None:
    service = await limited()
    problem = assert_problem(await service.post(many(11)), 413)
    assert problem["maxOperations"] == 10
    assert await parts.store.read_usage(DEFAULT) == await parts.store.read_usage(Account("never"))


async def test_nothing_is_read_of_a_batch_if_nothing_is_left(limited: Serve, clock: FakeClock) -> None:
    service = await limited()
    await service.post(many(10))
    assert_exceeded(await service.post_content(b"no JSON"), 6)
    assert_exceeded(await service.post_content(b"no JSON", **{"Idempotency-Key": '"new"'}), 6)
    clock.advance(6)
    assert_problem(await service.post_content(b"no JSON"), 400)


async def test_nothing_is_read_of_a_batch_whose_key_was_rejected_before(limited: Serve) -> None:
    service = await limited()
    await service.post(many(8))
    headers = {"Idempotency-Key": '"a"'}
    assert_exceeded(await service.post(many(5), headers), 18)
    await service.post(many(2))
    assert_exceeded(await service.post_content(b"no JSON", **headers), 6)


async def test_a_repeated_request_is_free(limited: Serve) -> None:
    service = await limited()
    for headers in ({"Idempotency-Key": '"a"'}, {"Idempotency-Key": '"b"', **BACKGROUND}):
        first = await service.post(many(5), headers)
        again = await service.post(many(5), headers)
        assert (again.status, again.headers["Idempotent-Replayed"]) == (first.status, "true")
    assert (await service.post(many(5), {"Idempotency-Key": '"a"'})).status == 200


async def test_a_repeated_request_is_free_although_the_quota_is_now_smaller(limited: Serve, clock: FakeClock) -> None:
    headers = {"Idempotency-Key": '"a"'}
    assert (await (await limited()).post(many(8), headers)).status == 200
    clock.advance(60)
    lowered = await limited(tenant_limit="5/60")
    again = await lowered.post(many(8), headers)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")


async def test_a_batch_that_is_larger_than_the_quota_keeps_its_key(limited: Serve) -> None:
    headers = {"Idempotency-Key": '"a"'}
    assert_problem(await (await limited(tenant_limit="5/60")).post(many(8), headers), 413)
    assert (await (await limited()).post(many(8), headers)).status == 200


async def test_a_batch_that_is_rejected_by_its_quota_keeps_its_key(limited: Serve, clock: FakeClock) -> None:
    service = await limited()
    await service.post(many(5))
    headers = {"Idempotency-Key": '"a"'}
    assert_exceeded(await service.post(many(8), headers), 18)
    clock.advance(18)
    answer = await service.post(many(8), headers)
    assert answer.status == 200
    assert "Idempotent-Replayed" not in answer.headers


async def test_an_invalid_batch_is_free(limited: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    service = await limited()
    assert_problem(await service.post([*many(5), {"method": "POST", "path": "/unknown"}]), 422)
    assert await left(parts, clock) == 10


@pytest.mark.parametrize("call", ["store.list_batch", "chunks.send"])
async def test_a_batch_that_is_not_accepted_is_free(
    limited: Serve, parts: MemoryParts, clock: FakeClock, call: str
) -> None:
    service = await limited(watch=Outage(call))
    assert_problem(await service.post(many(5), BACKGROUND), 503)
    assert await left(parts, clock) == 10
    assert not (await parts.store.read_usage(DEFAULT)).open


async def test_a_stream_is_charged_once(limited: Serve) -> None:
    calls: list[str] = []
    service = await limited(watch=lambda call, moment: calls.append(call) if moment == "before" else None)
    body = b'{"method": "POST", "path": "/run"}\n' * 10
    assert (await service.post_content(body, NDJSON, **BACKGROUND)).status == 202
    assert calls.count("store.charge") == 1
    assert calls.index("store.charge") < calls.index("chunks.send") < calls.index("store.accept_new")


async def test_a_charge_whose_answer_is_lost_is_given_back(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    service = await limited(watch=Outage("store.charge", "after", times=1))
    assert_problem(await service.post(many(5)), 503)
    assert await left(parts, clock) == 10


async def test_a_charge_of_a_front_end_that_died_is_given_back_by_another(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    """It died before it wrote the batch. Here, AWS answers none of its calls after the charge."""

    def dead(call: str, _moment: str) -> None:
        if call in {"chunks.send", "store.end_charge"}:
            raise Unavailable("It died.")

    await (await limited(watch=dead, accept_seconds=1)).post(many(8), BACKGROUND)
    other = await limited(accept_seconds=1)
    assert_exceeded(await other.post(many(9)), 42)
    clock.advance(34)
    assert (await other.post(many(9))).status == 200
    assert len(parts.store._batches) == 1, "a batch takes the place of the one that must not be accepted any more"
    [batch] = parts.store._batches.values()
    assert batch.state is BatchState.ABANDONED


@pytest.mark.parametrize(("seconds", "remaining"), [(90, 5), (94, 10)])
async def test_a_charge_is_kept_while_its_batch_may_still_be_written(
    limited: Serve, parts: MemoryParts, clock: FakeClock, seconds: float, remaining: int
) -> None:
    """It is sent before it is written. Its front end has 60 s for that, from half a minute after the charge."""

    def dead(call: str, _moment: str) -> None:
        if call in {"store.accept_new", "store.end_charge"}:
            raise Unavailable("It died.")

    await (await limited(watch=dead, tenant_limit="10/600")).post(many(10), BACKGROUND)
    clock.advance(seconds)
    other = await limited(tenant_limit="10/600")
    answer = await other.post(many(remaining), BACKGROUND)
    assert answer.status == (429 if seconds == 90 else 202)
    assert bool(parts.store._batches) is (seconds == 94)


@pytest.mark.parametrize(("is_over", "remaining"), [(False, 1), (True, 5)])
async def test_a_charge_is_kept_while_its_batch_may_still_be_accepted(
    limited: Serve,
    parts: MemoryParts,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_over: bool,
    remaining: int,
) -> None:
    monkeypatch.setattr(acceptance, "MESSAGES_IN_CALL", 0)  # the batch is written before it is sent

    def dead(call: str, _moment: str) -> None:
        if call in {"store.accept_batch", "store.abandon_batch", "store.end_charge"}:
            raise Unavailable("It died.")

    await (await limited(watch=dead)).post(many(10), BACKGROUND)
    clock.advance(33)
    [(batch_id, batch)] = parts.store._batches.items()
    parts.store._batches[batch_id] = replace(batch, accept_by=clock.now() + (-10 if is_over else 10))
    other = await limited()
    assert (await other.post(many(remaining))).status == 200
    assert bool((await parts.store.read_usage(DEFAULT)).open) is not is_over


async def test_the_charge_of_an_accepted_batch_is_settled_with_the_next_one(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    service = await limited()
    await service.post(many(2), BACKGROUND)
    [first] = (await parts.store.read_usage(DEFAULT)).open
    await service.post(many(2), BACKGROUND)
    [second] = (await parts.store.read_usage(DEFAULT)).open
    assert first != second
    clock.advance(100)
    other = await limited()  # the first front end has no other request, so this one settles its charge
    await other.get("/batch/unknown/status")
    assert not (await parts.store.read_usage(DEFAULT)).open


async def test_the_charge_of_a_batch_that_is_answered_is_settled_immediately(
    limited: Serve, parts: MemoryParts
) -> None:
    await (await limited()).post(many(2))
    usage = await parts.store.read_usage(DEFAULT)
    assert usage.tat > 0
    assert not usage.open


async def test_every_answer_of_a_limited_tenant_says_what_is_left(limited: Serve, clock: FakeClock) -> None:
    service = await limited()
    await service.post(many(4))
    for path in ("/batch/unknown/status", "/batch/unknown/results"):
        answer = await service.get(path)
        assert (answer.status, answer.headers["RateLimit"]) == (404, '"operations";r=6;t=6')
    clock.advance(23)
    assert (await service.get("/batch/unknown/status")).headers["RateLimit"] == '"operations";r=9;t=1'
    clock.advance(1)
    assert (await service.get("/batch/unknown/status")).headers["RateLimit"] == '"operations";r=10'
    for path in ("/health/live", "/openapi.json"):
        assert "RateLimit-Policy" not in (await service.get(path)).headers


async def test_what_is_left_is_read_once_in_five_seconds(limited: Serve, clock: FakeClock) -> None:
    calls: list[str] = []
    service = await limited(watch=lambda call, moment: calls.append(call) if moment == "before" else None)
    other = await limited()
    await asyncio.gather(*(service.get("/batch/unknown/status") for _ in range(5)))
    assert (await service.get("/batch/unknown/status")).headers["RateLimit"] == '"operations";r=10'
    await other.post(many(5))
    assert (await service.get("/batch/unknown/status")).headers["RateLimit"] == '"operations";r=10'
    assert calls.count("store.read_usage") == 1
    clock.advance(5.1)
    await service.get("/batch/unknown/status")  # reads it for the next answer
    assert (await service.get("/batch/unknown/status")).headers["RateLimit"] == '"operations";r=5;t=1'
    assert calls.count("store.read_usage") == 2


async def test_an_answer_does_not_depend_on_what_is_left(limited: Serve) -> None:
    service = await limited(watch=Outage("store.read_usage"))
    answer = await service.get("/batch/unknown/status")
    assert (answer.status, answer.headers["RateLimit-Policy"]) == (404, '"operations";q=10;w=60')
    assert "RateLimit" not in answer.headers


async def test_a_rejection_is_not_based_on_an_old_usage(limited: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    """Another front end may have given something back in the meantime."""
    service = await limited()
    await service.post(many(10), BACKGROUND)
    usage = await parts.store.read_usage(DEFAULT)
    [charge] = usage.open
    await parts.store.end_charge(DEFAULT, charge, charge.cost)
    assert_exceeded(await service.post(many(1)), 6)
    clock.advance(1.1)
    assert (await service.post(many(1))).status == 200


async def test_without_a_limit_nothing_is_charged(serve: Serve) -> None:
    calls: list[str] = []
    service = await serve(operations, watch=lambda call, _: calls.append(call))
    answer = await service.post(many(5))
    assert "RateLimit-Policy" not in answer.headers
    assert not {"store.charge", "store.read_usage"} & set(calls)


async def create_limited_key(parts: MemoryParts, clock: FakeClock) -> NewKey:
    key, scopes = make_key("test"), frozenset({Scope.WRITE})
    await parts.store.create_api_key(
        ApiKey(id=key.id, digest=key.digest, tenant="acme", scopes=scopes, created_at=clock.now(), limit="5/60")
    )
    return key


async def test_a_key_has_a_limit_within_that_of_its_tenant(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    key, calls = await create_limited_key(parts, clock), list[str]()
    service = await limited(
        auth="keys",
        operator_key="o" * 40,
        watch=lambda call, moment: calls.append(call) if moment == "before" else None,
    )
    headers = {"Authorization": f"Bearer {key.text}"}
    answer = await service.post(many(4), headers)
    assert answer.headers["RateLimit-Policy"] == '"operations";q=10;w=60, "operations-of-key";q=5;w=60'
    assert answer.headers["RateLimit"] == '"operations";r=6;t=6, "operations-of-key";r=1;t=12'
    calls.clear()
    problem = assert_problem(await service.post(many(2), headers), 429)
    assert problem["violated-policies"] == ["operations-of-key"]
    assert calls.count("store.charge") == 1, "nothing is charged to the tenant"
    assert await left(parts, clock, Account("acme")) == 6
    assert assert_problem(await service.post(many(6), headers), 413)["maxOperations"] == 5


async def test_what_its_tenant_may_not_use_is_given_back_to_a_key(
    limited: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    key, acme, quota = await create_limited_key(parts, clock), Account("acme"), Quota(10, 60)
    other = Charge("other", quota.cost(8), int(clock.now()) + 60)
    await parts.store.charge(acme, quota, other, clock.now(), seen=Usage(), settled=())
    service = await limited(auth="keys", operator_key="o" * 40)
    problem = assert_problem(await service.post(many(3), {"Authorization": f"Bearer {key.text}"}), 429)
    assert problem["violated-policies"] == ["operations"]
    usage = await parts.store.read_usage(Account("acme", key.id))
    assert Quota(5, 60).remaining(usage.tat, clock.now()) == 5
    assert not usage.open


async def test_an_operator_has_no_limit(limited: Serve, parts: MemoryParts) -> None:
    service = await limited(auth="keys", operator_key="o" * 40)
    answer = await service.post(many(11), {"Authorization": f"Bearer {'o' * 40}"})
    assert answer.status == 200
    assert "RateLimit-Policy" not in answer.headers
    assert await parts.store.read_usage(DEFAULT) == await parts.store.read_usage(Account("never"))


class TestRetry:
    @pytest.fixture
    async def plant(self, aiohttp_client: AiohttpClient) -> Plant:
        return await build_plant(aiohttp_client, Toys().operations(), chunk_operations=3, tenant_limit="10/3600")

    async def test_a_retry_charges_what_runs_again(self, plant: Plant) -> None:
        batch_id = await plant.submit("/succeed/a", "/break/b", "/reject/c", "/break/d")
        await plant.work_off()
        answer = await plant.ask("POST", f"/batch/{batch_id}/retry")
        assert (answer.status, answer.body["retried"]) == (202, 3)
        assert answer.headers["RateLimit"].startswith('"operations";r=3;')
        await plant.work_off()
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry")).status == 202
        await plant.work_off()
        again = await plant.ask("POST", f"/batch/{batch_id}/retry")
        assert (again.status, again.body["violated-policies"]) == (429, ["operations"])

    async def test_a_retry_of_some_failures_charges_only_these(self, plant: Plant) -> None:
        batch_id = await plant.submit("/succeed/a", *["/break/b"] * 5, "/reject/c")
        await plant.work_off()
        answer = await plant.ask("POST", f"/batch/{batch_id}/retry", json={"status": [409]})
        assert (answer.status, answer.headers["RateLimit"].partition(";t")[0]) == (202, '"operations";r=2')
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry", json={"ids": ["1", "2", "3"]})).status == 429
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry", json={"ids": ["0"]})).status == 409
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry", json={"ids": ["1", "2"]})).status == 202

    async def test_a_retry_reads_the_failures_once(self, aiohttp_client: AiohttpClient) -> None:
        calls: list[str] = []
        toys = Toys().operations()
        plant = await build_plant(aiohttp_client, toys, watch=lambda call, _: calls.append(call), tenant_limit="10/60")
        batch_id = await plant.submit("/break/a")
        await plant.work_off()
        calls.clear()
        assert (await plant.ask("POST", f"/batch/{batch_id}/retry")).body["retried"] == 1
        assert calls.count("store.read_group") == 2, "before the call and after it"

    async def test_a_retry_that_is_rejected_says_what_it_would_run(self, plant: Plant) -> None:
        batch_id = await plant.submit("/succeed/a", *["/break/b"] * 6)
        await plant.work_off()
        answer = await plant.ask("POST", f"/batch/{batch_id}/retry")
        assert answer.status == 429
        assert answer.body["detail"].startswith(
            "The retry would run 6 operations, and 3 are left of the quota of 10 operations in 3,600 s. "
            "A retry counts as many operations as it runs again. Send it again in "
        )

    async def test_a_retry_of_more_than_the_quota_says_what_to_do(
        self, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch_id = await plant.submit("/break/a", "/break/b", "/break/c", "/succeed/d")
        await plant.work_off()
        plant.clock.advance(3600)
        lowered = (Limit("operations", DEFAULT, Quota(2, 36)),)
        for module in (retry, charging):
            monkeypatch.setattr(module, "limits_of", lambda _request: lowered)
        answer = await plant.ask("POST", f"/batch/{batch_id}/retry")
        assert (answer.status, answer.body["maxOperations"]) == (413, 2)
        assert answer.body["detail"] == (
            "The retry would run 3 operations, and the quota is 2 operations in 36 s. Choose at most 2 failures, or "
            "ask an operator to retry the batch."
        )
