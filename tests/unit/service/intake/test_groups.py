"""Atomic groups of operations, from the request to the outcomes, in a small batch and in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import Context, Operations, Reject, Retry
from penstock.priority import Priority
from penstock.testing import Answer, TestBulk

WAYS = ["wait=10", "respond-async"]


class Database:
    """Has what was committed. A transaction has what it has written, and what has happened to it."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.rolled_back = 0
        self.fails_to_commit = 0
        self.swallows = False

        self.hangs_at: str | None = None
        self.ignores_cancellation = False

    async def _hang(self, at: str) -> None:
        while self.hangs_at == at:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if not self.ignores_cancellation:
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[list[str]]:
        written: list[str] = []
        await self._hang("opening")
        try:
            yield written
        except BaseException:
            self.rolled_back += 1
            await self._hang("rolling back")
            if self.swallows:
                return
            raise
        await self._hang("committing")
        if self.fails_to_commit:
            self.fails_to_commit -= 1
            raise ConnectionError
        self.rows += written


class App:
    def __init__(self, timeout_seconds: float = 60) -> None:
        self.ran: list[tuple[str, int]] = []
        self.fails = True
        self.database = Database()
        self.operations: Operations[Any] = Operations(transaction=self.database.transaction)
        self.operations.post("/do/{name}", max_attempts=3, timeout_seconds=timeout_seconds)(self.do)
        self.operations.post("/other", limit="limit")(self.other)
        self.operations.post("/bulk", bulk=True)(self.do_many)
        self.operations.post("/thread")(self.do_in_thread)

    async def do(self, name: str, body: dict[str, Any], context: Context) -> str:
        self.ran.append((name, context.attempt))
        context.transaction.append(name)
        if context.attempt <= body.get("retries", 0):
            raise Retry("Not yet.", after_seconds=0)
        if body.get("fails") and self.fails:
            raise Reject(409, "No.")
        return name

    async def do_many(self, bodies: list[dict[str, Any]], contexts: list[Context]) -> list[str]:
        for context in contexts:
            context.transaction.append(context.operation_id)
        return ["done" for _ in bodies]

    async def other(self, body: dict[str, Any]) -> None: ...

    def do_in_thread(self, body: dict[str, Any]) -> None: ...


def op(name: str, group: str | None = None, *depends_on: str, path: str | None = None, **body: Any) -> dict[str, Any]:
    links = {"dependsOn": list(depends_on)} if depends_on else {}
    member = {"group": group} if group else {}
    return {"id": name, "method": "POST", "path": path or f"/do/{name}", "body": body, **links, **member}


async def post(bulk: TestBulk, *operations: dict[str, Any], way: str = "respond-async") -> Answer:
    return await bulk.post(operations, headers={"Prefer": way})


@pytest.mark.parametrize("way", WAYS)
async def test_group_runs_in_order_in_one_transaction(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("x"), op("a", "g"), op("b", "g", path="/bulk"), op("c", "g"), op("y"), way=way)
    assert answer.statuses == [200] * 5
    rows = app.database.rows
    start = rows.index("a")
    assert rows[start : start + 3] == ["a", "b", "c"]
    assert sorted(rows) == ["a", "b", "c", "x", "y"]


@pytest.mark.parametrize("way", WAYS)
async def test_failure_of_one_undoes_its_group_and_nothing_else(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk,
            op("a", "g"),
            op("b", "g", fails=True),
            op("c", "g"),
            op("d", None, "a"),
            op("e", "h"),
            op("f", "h"),
            way=way,
        )
    assert answer.statuses == [424, 409, 424, 424, 200, 200]
    assert app.database.rows == ["e", "f"]
    assert answer.outcomes[0].error == {
        "title": "Rolled back",
        "detail": "Operation 'b' of the same group has failed.",
    }
    assert answer.outcomes[3].error == {
        "title": "Dependency failed",
        "detail": "Operation 'a' has failed, and this one depends on it.",
    }
    assert "c" not in dict(app.ran)
    assert "d" not in dict(app.ran)


@pytest.mark.parametrize("way", WAYS)
async def test_group_is_tried_again_as_a_whole(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g", retries=2), op("c", None, "b"), way=way)
    assert answer.statuses == [200] * 3
    assert app.ran == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3), ("c", 1)]
    assert app.database.rows == ["a", "b", "c"]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_retried_group_waits_for_what_failed_in_another_record(is_lost: bool) -> None:
    """`a` fails at once and `b` later. Only `a` succeeds when the group is retried."""
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails=True), op("b", retries=9), op("c", "g", "a"), op("d", "g", "b"))
        assert answer.statuses[::2] == [409, 424]
        batch_id, app.fails = answer.body["batchId"], False
        for _ in range(2):
            await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["c"]})
            if is_lost:
                queue = bulk._parts.queues[Priority.NORMAL]
                await queue.extend(await queue.receive(10, 0), 0)
            await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] < 400 for line in lines] == [True, False, False, False]
    assert not {"c", "d"} & set(dict(app.ran))


@pytest.mark.parametrize("way", WAYS)
async def test_group_waits_for_what_its_members_depend_on(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails=True), op("b", "g"), op("c", "g", "a"), way=way)
    assert answer.statuses == [409, 424, 424]
    detail = "Operation 'a' has failed, and the group of this one depends on it."
    assert (answer.outcomes[1].error or {})["detail"] == detail
    assert app.ran == [("a", 1)]


@pytest.mark.parametrize("way", WAYS)
async def test_commit_that_fails_is_tried_again(way: str) -> None:
    app = App()
    app.database.fails_to_commit = 1
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g"), way=way)
    assert answer.statuses == [200, 200]
    assert app.database.rows == ["a", "b"]
    assert [attempt for _, attempt in app.ran] == [1, 1, 2, 2]


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize(
    ("at", "statuses"), [("opening", [503, 424]), ("committing", [503, 424]), ("rolling back", [424, 409])]
)
async def test_transaction_that_hangs_ends_at_the_time_limit(
    at: str, statuses: list[int], ignores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.running.atomic_group.NOTICE_SECONDS", 0.02)
    app = App(timeout_seconds=0.05)
    app.database.hangs_at, app.database.ignores_cancellation = at, ignores
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g", fails=at == "rolling back"))
        app.database.hangs_at = None
    assert answer.statuses == ([504, 424] if ignores and statuses[0] == 503 else statuses)


async def test_transaction_that_swallows_the_exception_commits_nothing_of_a_failed_group() -> None:
    app = App()
    app.database.swallows = True
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g", fails=True))
    assert answer.statuses == [424, 409]
    assert app.database.rows == []


async def test_failed_group_is_retried_as_a_whole() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g", fails=True), op("c"))
        app.fails = False
        app.ran.clear()
        batch_id = answer.body["batchId"]
        await bulk.request("POST", f"/batch/{batch_id}/retry", {"status": [409]})
        await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] for line in lines] == [200] * 3
    assert [name for name, _ in app.ran] == ["a", "b"]
    assert app.database.rows == ["c", "a", "b"]


async def test_rejected_rows_keep_their_group() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", "g"), op("b", "g", fails=True), op("c", "h"), op("d", None, "b"))
        rows = (await bulk.request("GET", f"/batch/{answer.body['batchId']}/rejected?format=ndjson")).lines
        app.fails = False
        again = await bulk.post(rows)
    assert [row.get("group") for row in rows] == ["a", "a", None]
    assert again.statuses == [200, 200, 200]


WRONG = [
    (
        [op("a", "g"), op("b"), op("c", "g")],
        "/operations/2/group",
        "Group 'g' began with operation 0. Its operations must follow each other.",
    ),
    (
        [op("a", "g"), op("b", "g", path="/thread")],
        "/operations/1/group",
        "POST /thread does not run in the transaction, so it could not be rolled back with its group.",
    ),
    (
        [op("a", "g"), op("b", "g", path="/other")],
        "/operations/1/group",
        "The operations of a group must have the same limit.",
    ),
]


@pytest.mark.parametrize(("operations", "pointer", "detail"), WRONG)
async def test_wrong_groups_are_rejected(operations: list[dict[str, Any]], pointer: str, detail: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await bulk.post(operations)
    assert (answer.status, answer.errors) == (422, [{"pointer": pointer, "detail": detail}])
    assert not app.ran


async def test_application_without_a_transaction_has_no_groups() -> None:
    app = App()
    operations: Operations[Any] = Operations()
    operations.post("/do/{name}")(app.do)
    async with TestBulk(operations) as bulk:
        answer = await bulk.post([op("a", "g"), op("b", "g")])
    assert answer.status == 422
    assert "has no transaction" in answer.errors[0]["detail"]
