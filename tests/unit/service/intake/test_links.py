"""Operations that depend on others, from the request to the outcomes, in a small batch and in the background."""

from typing import Any

import pytest

from penstock import Context, Operations, Reject, Retry
from penstock.message import decode_chunk
from penstock.priority import Priority
from penstock.testing import Answer, TestBulk

WAYS = ["wait=10", "respond-async"]


class App:
    """Notes which operations run. They fail as their bodies say."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.failing = {"rejected", "broken"}
        self.operations: Operations[Any] = Operations()
        self.operations.post("/do/{name}", max_attempts=3)(self.do)
        self.operations.post("/thread/{name}")(self.do_in_thread)
        self.operations.post("/bulk", bulk=True)(self.do_many)

    async def do(self, name: str, body: dict[str, Any], context: Context) -> str:
        self.ran.append((name, context.attempt))
        if context.attempt <= body.get("retries", 0):
            raise Retry("Not yet.", after_seconds=0)
        if body.get("fails") in self.failing:
            if body["fails"] == "rejected":
                raise Reject(409, "No.")
            raise RuntimeError
        return name

    def do_in_thread(self, name: str, body: dict[str, Any], context: Context) -> str:
        self.ran.append((name, context.attempt))
        return name

    async def do_many(self, bodies: list[dict[str, Any]], contexts: list[Context]) -> list[str]:
        self.ran.append((",".join(context.operation_id for context in contexts), contexts[0].attempt))
        return ["done" for _ in bodies]


def op(name: str, *depends_on: str, path: str | None = None, **body: Any) -> dict[str, Any]:
    links = {"dependsOn": list(depends_on)} if depends_on else {}
    return {"id": name, "method": "POST", "path": path or f"/do/{name}", "body": body, **links}


async def post(bulk: TestBulk, *operations: dict[str, Any], way: str = "respond-async", **options: Any) -> Answer:
    return await bulk.post(operations, headers={"Prefer": way}, **options)


@pytest.mark.parametrize("way", WAYS)
async def test_operations_run_after_what_they_depend_on(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk, op("a", retries=2), op("b"), op("c", "a", "b"), op("d", "c", path="/thread/d"), op("e"), way=way
        )
    assert answer.statuses == [200] * 5
    assert sorted(app.ran) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]
    order = [name for name, _ in app.ran]
    assert order.index("c") > max(place for place, name in enumerate(order) if name in {"a", "b"})
    assert order.index("d") > order.index("c")


@pytest.mark.parametrize("way", WAYS)
async def test_what_depends_on_a_failure_fails_and_never_runs(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", "a"), op("c", "b"), op("d"), way=way)
    assert answer.statuses == [409, 424, 424, 200]
    error = {"title": "Dependency failed", "detail": "Operation 'b' has failed, and this one depends on it."}
    assert answer.outcomes[2].error == error
    assert {name for name, _ in app.ran} == {"a", "d"}


async def test_what_is_ready_together_shares_a_bulk_call() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        first, *others = (
            op(name, *after, path="/bulk") for name, *after in [("a",), ("b", "a"), ("c", "a"), ("d", "b")]
        )
        answer = await post(bulk, first, *others)
    assert answer.statuses == [200] * 4
    assert [names for names, _ in app.ran] == ["a", "b,c", "d"]


async def test_what_waits_in_the_front_end_is_handed_over_in_order() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", retries=2), op("b", "a"), op("c"), way="wait=0")
    assert (answer.status, answer.statuses) == (202, [200] * 3)
    assert [name for name, _ in app.ran if name != "c"] == ["a", "a", "a", "b"]


async def test_failures_that_failed_together_are_retried_together_in_order() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", "a"), op("c", fails="rejected"), op("d"))
        app.failing.clear()
        app.ran.clear()
        batch_id = answer.body["batchId"]
        retried = await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["b"]})
        await bulk.run_until_idle()
        status = (await bulk.request("GET", f"/batch/{batch_id}/status")).body
    assert retried.body["retried"] == 2
    assert app.ran == [("a", 1), ("b", 1)]
    assert (status["succeeded"], status["failed"]) == (3, 1)


async def test_retry_fails_again_while_another_dependency_has_not_succeeded() -> None:
    """`c` failed with `a`, before `b` failed for good."""
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", fails="broken"), op("c", "a", "b"))
        assert answer.statuses == [409, 500, 424]
        batch_id = answer.body["batchId"]
        app.failing.remove("rejected")
        await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["c"]})
        await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
        assert [line["status"] for line in lines] == [200, 500, 424]
        assert lines[2]["error"]["detail"] == "Operation 'b' has not succeeded, and this one depends on it."
        await bulk._parts.store.suspect_batch(batch_id)  # its operations start with a slot and a note then
        await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["c"]})
        await bulk.run_until_idle()
        assert "c" not in dict(app.ran)
        app.failing.clear()
        for _ in range(2):
            await bulk.request("POST", f"/batch/{batch_id}/retry")
            await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] for line in lines] == [200] * 3
    assert [name for name, _ in app.ran].count("c") == 1


async def test_retry_whose_consumer_died_does_not_forget_the_other_dependency() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", fails="broken"), op("c", "a", "b"), op("d", "c"))
        assert answer.statuses == [409, 500, 424, 424]
        batch_id = answer.body["batchId"]
        app.failing.remove("rejected")
        await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["c"]})
        queue = bulk._parts.queues[Priority.NORMAL]
        [lost] = await queue.receive(10, 0)
        await queue.extend([lost], 0)
        await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
        assert [line["status"] for line in lines] == [200, 500, 424, 424]
        assert not {"c", "d"} & {name for name, _ in app.ran}


async def test_retry_in_a_suspect_batch_does_not_forget_the_other_dependency() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", fails="broken"), op("c", "a", "b"))
        batch_id = answer.body["batchId"]
        app.failing.remove("rejected")
        for _ in range(2):  # `c` runs with `a`, and then alone
            await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ["c"]})
            await bulk._parts.store.suspect_batch(batch_id)
            await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
        assert [line["status"] for line in lines] == [200, 500, 424]
        assert "c" not in {name for name, _ in app.ran}


async def test_rejected_rows_keep_what_they_depend_on() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a"), op("b", "a", fails="rejected"), op("c", "a", "b"))
        rows = (await bulk.request("GET", f"/batch/{answer.body['batchId']}/rejected?format=ndjson")).lines
        assert [row.get("dependsOn") for row in rows] == [None, ["b"]]
        app.failing.clear()
        again = await bulk.post(rows)
    assert again.statuses == [200, 200]


async def test_rejected_rows_keep_what_failed_in_another_record() -> None:
    """`b` fails later than `a` and `c`. Then `a` succeeds in a retry."""
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, op("a", fails="rejected"), op("b", fails="broken"), op("c", "a", "b"))
        path = f"/batch/{answer.body['batchId']}"
        rows = (await bulk.request("GET", f"{path}/rejected?format=ndjson")).lines
        assert [row.get("dependsOn") for row in rows] == [None, None, ["a", "b"]]
        app.failing.remove("rejected")
        await bulk.request("POST", f"{path}/retry", {"ids": ["a"]})
        await bulk.run_until_idle()
        rows = (await bulk.request("GET", f"{path}/rejected?format=ndjson")).lines
        assert [row.get("dependsOn") for row in rows] == [None, ["b"]]
        app.failing.clear()
        again = await bulk.post(rows)
    assert again.statuses == [200, 200]


async def test_large_batch_is_cut_between_linked_operations() -> None:
    app = App()
    operations = [op(f"{index}", *([f"{index - 1}"] if index % 5 else [])) for index in range(203)]
    async with TestBulk(app.operations, chunk_operations=7, min_chunks=1) as bulk:
        answer = await bulk.submit(operations)
        assert answer.status == 202
        messages = [kept.body for queue in bulk._parts.queues.values() for kept in queue.messages]
        sizes = sorted(len(decode_chunk(body).operations) for body in messages)
        assert await bulk.wait(answer.body["batchId"]) == "completed"
    assert sizes == [3, *[5] * 40]
    ran = [int(name) for name, _ in app.ran]
    assert sorted(ran) == list(range(203))
    assert all(ran.index(index - 1) < ran.index(index) for index in ran if index % 5)


@pytest.mark.parametrize(
    ("operations", "pointer", "detail"),
    [
        ([op("a", "a")], "/operations/0/dependsOn/0", "An operation cannot depend on itself."),
        (
            [op("a"), op("b", "c"), op("c")],
            "/operations/1/dependsOn/0",
            "No operation with the id 'c' is among the 1 before this one.",
        ),
        ([op("a"), op("b", "a", "a")], "/operations/1/dependsOn/1", "The id 'a' is named twice."),
        ([op("a"), {**op("b"), "dependsOn": "a"}], "/operations/1/dependsOn", "Input should be a valid list."),
    ],
)
async def test_wrong_links_are_rejected(operations: list[dict[str, Any]], pointer: str, detail: str) -> None:
    async with TestBulk(App().operations) as bulk:
        answer = await bulk.post(operations)
    assert answer.status == 422
    assert answer.errors == [{"pointer": pointer, "detail": detail}]


@pytest.mark.parametrize("count", [6, 150])
async def test_linked_operations_that_fit_into_no_chunk_are_rejected(count: int) -> None:
    """Before anything runs, also of a small batch."""
    app = App()
    operations = [op(f"{index}", *([f"{index - 1}"] if index else [])) for index in range(count)]
    async with TestBulk(app.operations, chunk_operations=5) as bulk:
        answer = await bulk.post(operations, headers={"Prefer": "wait=10"})
    assert (answer.status, answer.body["maxLinkedOperations"]) == (413, 5)
    assert f"They are {count} operations" in answer.body["detail"]
    assert not app.ran


async def test_atomic_batch_has_no_links() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await bulk.post([op("a"), op("b", "a")], atomic=True)
    assert answer.status == 422
    assert not app.ran
