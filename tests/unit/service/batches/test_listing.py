"""The list of batches: who sees which, filters, pages, and how much one request reads."""

from collections.abc import Sequence
from typing import Any

import pytest

from penstock import Operations
from penstock.api_key import ApiKey, Scope, make_key
from penstock.batch import Batch, BatchState, Counts
from penstock.priority import Priority
from penstock.service.batches import listing
from penstock.store import Store
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import NOW, build_batch, build_record
from tests.support.faults import Moment
from tests.support.service import Serve, Service, assert_problem, request

LATER = NOW + 1_000


async def add(store: Store, name: str, at: float = 0, metadata: dict[str, str] | None = None, **changes: Any) -> Batch:
    """Put a batch of two operations into the table and into the list."""
    batch = build_batch(2, id=name, created_at=NOW + at, has_metadata=bool(metadata), **changes)
    await store.create_batch(batch)
    await store.list_batch(batch, metadata or {})
    return batch


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [batch["batchId"] for batch in answer.body["batches"]]


async def pages(service: Service, query: str) -> list[list[str]]:
    """Follow the links to the last page."""
    found, url = [], f"/batches?{query}"
    while True:
        answer = await service.get(url)
        found.append(names(answer))
        assert ("Link" in answer.headers) == (answer.body["nextCursor"] is not None)
        if answer.body["nextCursor"] is None:
            return found
        url = answer.headers["Link"].removeprefix("<").partition(">")[0]


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts) -> Service:
    return await serve(Operations(), parts=parts, clock=FakeClock(LATER), tenant_header="X-Tenant", auth="none")


@pytest.fixture(autouse=True)
def _default_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request without a header belong to the default tenant."""
    monkeypatch.setattr(
        "penstock.service.access.named_tenant", lambda request: request.headers.get("X-Tenant", "default")
    )


async def test_batches_are_listed_newest_first_with_their_statuses(service: Service) -> None:
    store = service.parts.store
    for number, state in enumerate([BatchState.COMPLETED, BatchState.PROCESSING, BatchState.QUEUED]):
        batch = await add(store, f"b{number}", number, {"number": str(number)}, state=state)
        await store.count_chunk(batch, build_record("0", Counts(2 - number)))
    body = (await service.get("/batches")).body
    assert body["nextCursor"] is None
    assert body["batches"] == [(await service.get(f"/batch/b{number}")).body for number in (2, 1, 0)]
    assert [one["metadata"] for one in body["batches"]] == [{"number": str(number)} for number in (2, 1, 0)]


async def test_what_was_not_accepted_or_is_past_its_retention_is_not_listed(service: Service) -> None:
    store = service.parts.store
    await add(store, "accepting", state=BatchState.ACCEPTING)
    await add(store, "abandoned", state=BatchState.ABANDONED)
    await add(store, "forgotten", expires_at=LATER)
    await store.list_batch(build_batch(1, id="never-written"), {})
    await add(store, "there", expires_at=LATER + 1)
    assert names(await service.get("/batches")) == ["there"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 20])
async def test_pages_have_each_batch_once(service: Service, limit: int) -> None:
    for number in range(6):
        await add(service.parts.store, f"b{number}", number // 2)  # two have the same time
        await add(service.parts.store, f"n{number}", number // 2, state=BatchState.ABANDONED)
    found = await pages(service, f"limit={limit}")
    assert [name for page in found for name in page] == ["b5", "b4", "b3", "b2", "b1", "b0"]
    assert all(found)  # no page is empty


async def test_new_batch_is_on_no_later_page(service: Service) -> None:
    for number in range(3):
        await add(service.parts.store, f"b{number}", number)
    first = await service.get("/batches?limit=1")
    await add(service.parts.store, "new", 10)
    second = await service.get(f"/batches?limit=1&cursor={first.body['nextCursor']}")
    assert (names(first), names(second)) == (["b2"], ["b1"])


@pytest.fixture
async def various(service: Service) -> Service:
    store, growth, ops = service.parts.store, {"team": "growth", "year": "2026"}, {"team": "ops", "year": "2026"}
    await add(store, "a", 0, growth, state=BatchState.COMPLETED, priority=Priority.HIGH)
    await add(store, "b", 1, ops, state=BatchState.FAILED)
    await add(store, "c", 1.5, growth, state=BatchState.PROCESSING, paused_at=NOW)
    await add(store, "d", 2, state=BatchState.PROCESSING, priority=Priority.LOW)
    await add(store, "e", 3, state=BatchState.QUEUED)
    return service


FILTERS = {
    "": "edcba",
    "status=processing": "d",
    "status=paused": "c",
    "status=completed": "a",
    "status=cancelled": "",
    "priority=low": "d",
    "priority=normal": "ecb",
    "metadata.team=growth": "ca",
    "metadata.team=growth&metadata.year=2026": "ca",
    "metadata.team=growth&metadata.year=2025": "",
    "metadata.none=": "",
    "metadata.team=growth&status=completed&priority=high": "a",
    "createdAfter=2023-11-14T22:13:21Z": "edcb",
    "createdAfter=2023-11-14T22:13:21.0001Z": "edc",
    "createdBefore=2023-11-14T22:13:21.5Z": "ba",
    "createdAfter=2023-11-14T23:13:21%2B01:00&createdBefore=2023-11-14T22:13:22Z": "cb",
    "createdAfter=2023-11-14T22:13:22Z&createdBefore=2023-11-14T22:13:20Z": "",
    "tenant=default": "edcba",
}


@pytest.mark.parametrize("query", FILTERS)
async def test_filter(various: Service, query: str) -> None:
    for limit in (1, 100):
        found = await pages(various, f"{query}&limit={limit}")
        assert "".join(name for page in found for name in page) == FILTERS[query]


async def test_batch_whose_counts_show_another_status_is_left_out(service: Service) -> None:
    batch = await add(service.parts.store, "a")
    await service.parts.store.count_chunk(batch, build_record("0", Counts(2)))  # it is shown as processing
    assert names(await service.get("/batches?status=queued")) == []


INVALID = [
    "status=accepting",
    "status=",
    "status=queued&status=failed",
    "priority=urgent",
    "createdAfter=yesterday",
    "createdBefore=2023-11-14T22:13:21+01:00",
    "limit=0",
    "limit=101",
    "cursor=x",
    "cursor=1.a.b",
    f"cursor={'1' * 16}.a",
    f"cursor=1.{'a' * 41}",
    "metadata.team=a&metadata.team=b",
    "team=growth",
    "metadata=x",
]


@pytest.mark.parametrize("query", INVALID)
async def test_invalid_query_is_rejected(service: Service, query: str) -> None:
    assert_problem(await service.get(f"/batches?{query}"), 400)


async def test_filter_that_matches_nothing_reads_a_limited_number_of_entries(
    serve: Serve, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ENTRIES_IN_STEP", 3)
    monkeypatch.setattr(listing, "MOST_ENTRIES", 6)
    for number in range(14):
        await add(parts.store, f"b{number:02}", number, {"team": "growth"} if number == 0 else {"team": "ops"})
    calls: list[str] = []

    def watch(call: str, moment: Moment) -> None:
        if moment == "after":
            calls.append(call)

    service = await serve(Operations(), parts=parts, clock=FakeClock(LATER), watch=watch)
    assert names(await service.get("/batches?metadata.team=growth")) == []
    assert calls == [
        "store.read_list",
        "store.read_batches",
        "store.read_list",
        "store.read_batches",
        "store.read_groups_of",
    ]
    assert await pages(service, "metadata.team=growth") == [[], [], ["b00"]]


async def test_page_ends_early_if_its_batches_have_very_many_groups(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_COUNTERS", 4)
    for number, totals in enumerate([(1, 1), (1,) * 9, (1, 1), (1, 1)]):
        batch = build_batch(*totals, id=f"b{number}", created_at=NOW + number)
        await service.parts.store.create_batch(batch)
        await service.parts.store.list_batch(batch, {})
    assert await pages(service, "") == [["b3", "b2"], ["b1"], ["b0"]]


async def test_page_is_read_with_three_calls(serve: Serve, parts: MemoryParts) -> None:
    for number in range(30):
        await add(parts.store, f"b{number:02}", number, {"team": "growth"})
    calls: list[str] = []

    def watch(call: str, moment: Moment) -> None:
        if moment == "after":
            calls.append(call)

    service = await serve(Operations(), parts=parts, clock=FakeClock(LATER), watch=watch)
    assert len(names(await service.get("/batches"))) == listing.PAGE_BATCHES
    assert calls == ["store.read_list", "store.read_batches", "store.read_groups_of"]


# --- Tenants


@pytest.fixture
async def tenants(service: Service) -> Service:
    for number, tenant in enumerate(["default", "acme", "other", "acme"]):
        await add(service.parts.store, f"b{number}", number, tenant=tenant)
    return service


async def with_key(service: Service, scopes: Sequence[Scope], query: str = "") -> Answer:
    made = make_key("test")
    await service.parts.store.create_api_key(ApiKey(made.id, made.digest, "acme", frozenset(scopes), NOW))
    return await service.get(f"/batches?{query}", Authorization=f"Bearer {made.text}")


async def test_each_tenant_sees_its_own_batches(tenants: Service) -> None:
    assert names(await tenants.get("/batches")) == ["b0"]
    assert names(await tenants.get("/batches", **{"X-Tenant": "acme"})) == ["b3", "b1"]
    assert names(await with_key(tenants, [Scope.READ])) == ["b3", "b1"]
    assert names(await with_key(tenants, [Scope.READ], "tenant=acme")) == ["b3", "b1"]


@pytest.mark.parametrize("tenant", ["other", "nobody", "*", ""])
async def test_other_tenants_need_the_scope_operate(tenants: Service, tenant: str) -> None:
    problem = assert_problem(await with_key(tenants, [Scope.READ], f"tenant={tenant}"), 403)
    assert problem["scope"] == "operate"


async def test_operator_names_a_tenant_or_all(tenants: Service) -> None:
    scopes = [Scope.READ, Scope.OPERATE]
    assert names(await with_key(tenants, scopes)) == ["b3", "b1"]
    assert names(await with_key(tenants, scopes, "tenant=other")) == ["b2"]
    assert names(await with_key(tenants, scopes, "tenant=*")) == ["b3", "b2", "b1", "b0"]
    assert names(await with_key(tenants, scopes, "tenant=*&limit=2")) == ["b3", "b2"]
    assert_problem(await with_key(tenants, scopes, "tenant=a%20b"), 400)


async def test_listener_for_operators_lists_the_batches_of_all_tenants(tenants: Service) -> None:
    answer = await request(tenants.operators, "GET", "/batches")
    assert names(answer) == ["b3", "b2", "b1", "b0"]
    assert [batch["tenant"] for batch in answer.body["batches"]] == ["acme", "other", "acme", "default"]
    assert names(await request(tenants.operators, "GET", "/batches?tenant=acme")) == ["b3", "b1"]


async def test_batch_is_listed_once_it_is_accepted(serve: Serve) -> None:
    operations = Operations()

    @operations.post("/run")
    async def run() -> None:
        pass

    service = await serve(operations, sync_max_operations=0)
    accepted = await service.post([{"method": "POST", "path": "/run"}], metadata={"team": "growth"})
    [listed] = (await service.get("/batches?metadata.team=growth")).body["batches"]
    assert listed == (await service.get(accepted.body["statusUrl"])).body
