"""The bulk API in memory that applications use in their own tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from penstock import CallNext, Context, Limit, Operations, Reject, Retry, Throttled
from penstock.consumer import readers_first
from penstock.errors import Misconfigured
from penstock.testing import Answer, Outcome, TestBulk

HOUR = 3_600


class User(BaseModel):
    name: str


class Shop:
    """An application with a lifespan, a middleware and handlers that note what happens."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.operations: Operations[Any] = Operations(lifespan=self.lifespan, transaction=self.transaction)
        self.operations.middleware(self.watch)
        post = self.operations.post
        post("/users", status=201)(self.create_user)
        post("/later/{times}", max_attempts=5)(self.later)
        post("/busy/{times}")(self.busy)
        post("/broken", max_attempts=2)(self.broken)
        post("/bulk", bulk=True)(self.bulk)
        post("/thread")(self.in_thread)
        self.tries = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[str]:
        self.notes.append("open")
        yield "state"
        self.notes.append("closed")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Shop"]:
        yield self

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        yield

    async def watch(self, context: Context, call_next: CallNext) -> Any:
        self.notes.append("called")
        return await call_next()

    async def create_user(self, user: User, context: Context) -> str:
        if user.name == "taken":
            raise Reject(409, "This name is taken.")
        return f"{user.name} {context.state} {context.key}"

    async def later(self, times: int, context: Context) -> int:
        if context.attempt <= times:
            raise Retry(after_seconds=HOUR)
        return context.attempt

    async def busy(self, times: int) -> int:
        self.tries += 1
        if self.tries <= times:
            raise Throttled(after_seconds=30)
        return self.tries

    async def broken(self) -> None:
        raise ValueError("no such table")

    async def bulk(self, users: list[User]) -> list[str]:
        return [user.name for user in users]

    def in_thread(self) -> str:
        return "thread"


def users(*names: str) -> list[dict[str, Any]]:
    return [{"method": "POST", "path": "/users", "body": {"name": name}, "key": name} for name in names]


def to(path: str, body: Any = None) -> dict[str, Any]:
    return {"method": "POST", "path": path, "body": body}


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def bulk(shop: Shop) -> AsyncIterator[TestBulk]:
    async with TestBulk(shop.operations) as bulk:
        yield bulk


async def test_post_returns_the_outcomes_of_a_batch_that_has_ended(bulk: TestBulk) -> None:
    answer = await bulk.post(users("ada", "taken"))
    assert (answer.status, answer.state) == (202, "completed")
    assert answer.statuses == [201, 409]
    assert answer.results == ["ada state ada", None]
    assert answer.failures == [Outcome("1", 409, error={"title": "Rejected", "detail": "This name is taken."})]


async def test_post_does_not_wait_for_readers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_first, "SECONDS", 60)
    async with asyncio.timeout(30), TestBulk(shop.operations) as bulk:
        answer = await bulk.post(users("ada"))
    assert answer.state == "completed"


async def test_every_kind_of_handler_runs(bulk: TestBulk) -> None:
    answer = await bulk.post([to("/bulk", {"name": "a"}), to("/thread"), to("/bulk", {"name": "b"})])
    assert answer.results == ["a", "thread", "b"]


async def test_waits_between_attempts_take_no_time(bulk: TestBulk, shop: Shop) -> None:
    started_at = bulk.clock.now()
    answer = await bulk.post([to("/later/3"), to("/busy/4")])
    assert answer.results == [4, 5]
    assert 3 * HOUR <= bulk.clock.now() - started_at < 4 * HOUR
    assert shop.notes.count("called") == 4 + 5


async def test_failures_have_the_words_of_exceptions_and_are_dead_letters(bulk: TestBulk) -> None:
    answer = await bulk.post([to("/broken")])
    assert answer.state == "failed"
    [failure] = answer.failures
    assert failure.error is not None
    assert "no such table" in failure.error["detail"]
    [letter] = await bulk.dead_letters()
    assert (letter["path"], letter["status"]) == ("/broken", 500)


async def test_invalid_batch_returns_its_errors(bulk: TestBulk) -> None:
    answer = await bulk.post([to("/users", {"name": 5}), to("/nowhere")])
    assert (answer.status, answer.state, answer.outcomes) == (422, None, ())
    assert [error["pointer"] for error in answer.errors] == ["/operations/0/body/name", "/operations/1/path"]


async def test_atomic_batch_is_answered_immediately(bulk: TestBulk) -> None:
    answer = await bulk.post(users("ada", "bob"), atomic=True)
    assert (answer.status, answer.state) == (200, "completed")
    assert answer.statuses == [201, 201]
    assert (await bulk.post(users("ada", "taken"), atomic=True)).statuses == [424, 409]


async def test_batch_can_be_cancelled_and_retried(bulk: TestBulk) -> None:
    submitted = await bulk.submit([to("/later/9")])
    batch_id = submitted.body["batchId"]
    await bulk.request("POST", f"/batch/{batch_id}/cancel")
    assert await bulk.wait(batch_id) == "cancelled"
    batch_id = (await bulk.post([to("/broken")])).body["batchId"]
    assert (await bulk.request("POST", f"/batch/{batch_id}/retry")).body["retried"] == 1
    await bulk.run_until_idle()
    assert (await bulk.request("GET", f"/batch/{batch_id}/status")).body["failed"] == 1


async def test_several_batches_can_be_posted_at_the_same_time(bulk: TestBulk) -> None:
    answers = await asyncio.gather(*(bulk.post([to("/later/1"), *users(name)]) for name in "abc"))
    assert [answer.statuses for answer in answers] == [[200, 201]] * 3


async def test_paused_batch_is_not_waited_for(bulk: TestBulk) -> None:
    batch_id = (await bulk.submit(users("ada"))).body["batchId"]
    merge = {"Content-Type": "application/merge-patch+json"}
    await bulk.request("PATCH", f"/batch/{batch_id}", {"paused": True}, headers=merge)
    with pytest.raises(AssertionError, match="is paused"):
        await bulk.wait(batch_id)
    await bulk.request("PATCH", f"/batch/{batch_id}", {"paused": False}, headers=merge)
    assert await bulk.wait(batch_id) == "completed"


async def test_later_batch_runs_when_its_time_has_come(bulk: TestBulk) -> None:
    started_at = bulk.clock.now()
    answer = await bulk.post(users("ada"), notBefore="2023-11-16T00:00:00Z")
    assert answer.statuses == [201]
    assert bulk.clock.now() - started_at > 24 * HOUR


async def test_settings_are_those_of_the_program(shop: Shop) -> None:
    async with TestBulk(shop.operations, max_operations=2, sync_max_operations=2) as bulk:
        assert (await bulk.post(users("a", "b", "c"))).status == 413
        assert isinstance(await bulk.post(users("a", "b")), Answer)


async def test_environment_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_AUTH", "keys")
    monkeypatch.setenv("PENSTOCK_CONCURRENCY", "none")
    async with TestBulk(shop.operations) as bulk:
        assert (await bulk.post(users("a"))).statuses == [201]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_operation": 5}, "Unknown settings: max_operation. Use the names"),
        ({"aws_region": "eu-west-1"}, "Unknown settings: aws_region"),
        ({"concurrency": 0}, "PENSTOCK_CONCURRENCY=0: .* Use a number"),
    ],
)
def test_invalid_setting_is_rejected(shop: Shop, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        TestBulk(shop.operations, **settings)


async def test_lifespan_ends_with_the_bulk_and_it_cannot_be_used_without(shop: Shop) -> None:
    async with TestBulk(shop.operations) as bulk:
        assert shop.notes == ["open"]
        await bulk.post(users("a"))
    assert shop.notes == ["open", "called", "closed"]
    with pytest.raises(RuntimeError, match="async with TestBulk"):
        await TestBulk(shop.operations).post(users("a"))


async def test_limits_of_the_fleet_do_not_apply() -> None:
    operations: Operations[Any] = Operations(limits={"slow": Limit(rate=0.01), "few": Limit(concurrency=1)})
    tries: list[str] = []

    @operations.post("/slow", limit="slow")
    async def slow() -> None: ...

    @operations.post("/few", limit="few")
    async def few(context: Context) -> None:
        tries.append(context.operation_id)
        if len(tries) == 1:
            raise Throttled(after_seconds=HOUR)

    async with TestBulk(operations) as bulk:
        answer = await bulk.post([{"method": "POST", "path": path} for path in ("/slow", "/slow", "/few")])
        assert (answer.statuses, tries) == ([200, 200, 200], ["2", "2"])
        answer = await bulk.post([{"method": "POST", "path": "/slow"}] * 3, headers={"Prefer": "wait=10"})
        assert answer.statuses == [200, 200, 200]
