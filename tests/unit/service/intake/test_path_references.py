"""Paths that refer to the results of other operations, in a small batch and in the background."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import Context, Operations, Reject, Retry
from penstock.testing import Answer, TestBulk

WAYS = ["wait=10", "respond-async"]


class App:
    """Keeps customers and their orders. Each gets the next number as its id, and fails as its body says."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.written: list[str] = []
        self.failing = {"rejected", "broken"}
        self.operations: Operations[Any] = Operations(transaction=self.transaction, savepoint=self.savepoint)
        self.operations.post("/customers", status=201, max_attempts=3)(self.add_customer)
        self.operations.post("/customers/{customer}/orders", status=201, max_attempts=3)(self.add_order)
        self.operations.get("/customers/{customer}/orders/{order}")(self.read_order)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[list[str]]:
        written: list[str] = []
        yield written
        self.written += written

    @asynccontextmanager
    async def savepoint(self, _: list[str]) -> AsyncIterator[None]:
        yield

    async def add_customer(self, body: dict[str, Any], context: Context[list[str]]) -> Any:
        return self._write("customer", body, context)

    async def add_order(self, customer: int, body: dict[str, Any], context: Context[list[str]]) -> Any:
        return self._write(f"order of {customer}", body, context)

    async def read_order(self, customer: int, order: int) -> str:
        return f"order {order} of {customer}"

    def _write(self, what: str, body: dict[str, Any], context: Context[list[str]]) -> Any:
        self.ran.append(what)
        if context.attempt <= body.get("retries", 0):
            raise Retry("Not yet.", after_seconds=0)
        if body.get("fails") in self.failing:
            if body["fails"] == "rejected":
                raise Reject(409, "No.")
            raise RuntimeError
        context.transaction.append(what)
        return body.get("result", {"id": len(self.ran)})


def customer(id_: str = "c", **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "POST", "path": "/customers", "body": {}, **members}


def refer(*operations: str, member: str | list[str] = "id") -> dict[str, Any]:
    return {name: {"operation": name, "member": member} for name in operations}


def order(id_: str = "o", of: str = "c", **members: Any) -> dict[str, Any]:
    path = f"/customers/{{{of}}}/orders"
    return {"id": id_, "method": "POST", "path": path, "body": {}, "references": refer(of), **members}


LOOK = {"id": "look", "method": "GET", "path": "/customers/{c}/orders/{o}", "references": refer("c", "o")}


async def post(bulk: TestBulk, *operations: dict[str, Any], way: str = "respond-async") -> Answer:
    return await bulk.post(operations, headers={"Prefer": way})


def titles(answer: Answer) -> list[str | None]:
    return [None if one.error is None else one.error["title"] for one in answer.outcomes]


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("way", WAYS)
async def test_path_has_the_id_of_what_was_created(way: str, retries: int) -> None:
    app, body = App(), {"retries": retries}
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk, customer(body=body), customer("d", body={"retries": 1}), order(body=body), LOOK, way=way
        )
    assert answer.statuses == [201, 201, 201, 200], answer.outcomes
    created, _, ordered = (one.result["id"] for one in answer.outcomes[:3])
    assert answer.outcomes[3].result == f"order {ordered} of {created}"
    assert app.written.count(f"order of {created}") == 1


async def test_path_is_made_when_the_batch_goes_on_in_the_background() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, customer(), order(body={"retries": 1}), LOOK, way="wait=0")
    assert (answer.status, answer.statuses) == (202, [201, 201, 200])
    assert answer.outcomes[2].result == "order 3 of 1"


@pytest.mark.parametrize("way", WAYS)
async def test_path_that_cannot_be_made_fails_the_operation_and_what_depends_on_it(way: str) -> None:
    app, nameless = App(), {"result": {"name": "x"}}
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk, customer(body=nameless), order(), LOOK, order("p", dependsOn=["o"], references=refer("c")), way=way
        )
    assert answer.statuses == [201, 424, 424, 424]
    assert titles(answer)[1:] == [
        "Unresolved reference",
        *["Dependency failed"] * 2,
    ]
    assert (answer.outcomes[1].error or {})["detail"] == "The path has {c}, but the result of that operation has no id."
    assert app.ran == ["customer"]


@pytest.mark.parametrize("way", WAYS)
async def test_value_that_the_handler_rejects_fails_the_operation(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, customer(body={"result": {"id": "no number"}}), order(), way=way)
    assert answer.statuses == [201, 422]
    assert "customer: Input should be a valid integer" in str(answer.outcomes[1])


@pytest.mark.parametrize("way", WAYS)
async def test_members_of_a_group_refer_to_each_other_and_to_what_was_before(way: str) -> None:
    app, group = App(), {"group": "g"}
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk,
            customer("before"),
            customer(**group),
            order("x", "before", **group),
            order(body={"retries": 1}, **group),
            {**LOOK, **group},
            way=way,
        )
    assert answer.statuses == [201, 201, 201, 201, 200], answer.outcomes
    created = answer.outcomes[1].result["id"]
    assert created == 5  # that of the second attempt
    assert app.written == ["customer", "customer", "order of 1", f"order of {created}"]


@pytest.mark.parametrize("way", WAYS)
async def test_group_is_rolled_back_if_a_path_cannot_be_made(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk, customer("d", body={"result": 7}), customer(group="g"), order("o", "d", group="g"), way=way
        )
    assert titles(answer) == [
        None,
        "Rolled back",
        "Unresolved reference",
    ]
    assert app.written == ["customer"]


@pytest.mark.parametrize("fails", ["rejected", "broken"])
async def test_failure_runs_again_with_its_path(fails: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, customer(body={"retries": 1}), order(body={"fails": fails}), LOOK)
        app.failing.clear()
        batch_id = answer.body["batchId"]
        await bulk.request("POST", f"/batch/{batch_id}/retry")
        await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] for line in lines] == [201, 201, 200], lines
    assert lines[2]["result"] == f"order {lines[1]['result']['id']} of {lines[0]['result']['id']}"


async def test_failure_finds_results_that_became_known_after_it_had_failed() -> None:
    """`look` fails with `d`, before `c` and `o` have succeeded."""
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk,
            customer("d", body={"fails": "rejected"}),
            customer(body={"retries": 1}),
            order(),
            {**LOOK, "dependsOn": ["d"]},
            order("again", body={"retries": 1}, dependsOn=["d"]),
        )
        assert answer.statuses == [409, 201, 201, 424, 424]
        app.failing.clear()
        batch_id = answer.body["batchId"]
        await bulk.request("POST", f"/batch/{batch_id}/retry")
        await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] for line in lines] == [201, 201, 201, 200, 201], lines
    assert lines[3]["result"] == f"order {lines[2]['result']['id']} of {lines[1]['result']['id']}"


async def test_rejected_operations_can_be_corrected_and_sent_again() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(
            bulk, customer(), customer("d", body={"fails": "rejected"}), order("o", "d"), order("p"), LOOK
        )
        rejected = (await bulk.request("GET", f"/batch/{answer.body['batchId']}/rejected?format=ndjson")).lines
        app.failing.clear()
        again = await bulk.post(rejected[:2])
    assert [(one["id"], one["path"], one.get("references")) for one in rejected] == [
        ("d", "/customers", None),
        ("o", "/customers/{d}/orders", refer("d", member=["id"])),
        ("look", "/customers/1/orders/{o}", refer("o", member=["id"])),
    ]
    assert again.statuses == [201, 201]


async def test_rejected_operation_never_refers_to_another_one_of_the_file_than_before() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        nameless, fails = customer("1", body={"result": {}}), customer("0", body={"fails": "rejected"})
        answer = await post(bulk, nameless, fails, order("c", "1"))
        rejected = (await bulk.request("GET", f"/batch/{answer.body['batchId']}/rejected?format=ndjson")).lines
        app.failing.clear()
        again = await bulk.post(rejected)
    assert [one["id"] for one in rejected] == ["0", "c"]
    assert rejected[1]["references"] == refer("1", member=["id"])
    [error] = again.body["errors"]
    assert error["pointer"] == "/operations/1/references/1/operation"
    assert error["detail"] == "No operation with the id '1' is among the 1 before this one."


@pytest.mark.parametrize(
    ("members", "where", "detail"),
    [
        ({"references": refer("x")}, "/references/x", "The path must have {x} once."),
        ({"references": refer("x~y")}, "/references/x~0y", "The path must have {x~y} once."),
        (
            {"path": "/customers/{x~y}/orders", "references": refer("x~y")},
            "/references/x~0y/operation",
            "No operation with the id 'x~y' is among the 1 before this one.",
        ),
        ({"path": "/customers/{c}/orders/{c}"}, "/references/c", "The path must have {c} once."),
        ({"references": {"c": {"operation": "o", "member": "id"}}}, "/references/c/operation", "depend on itself"),
        (
            {"references": {"c": {"operation": "later", "member": "id"}}},
            "/references/c/operation",
            "No operation with the id 'later' is among the 1 before this one.",
        ),
        ({"references": {"c": {"operation": "c"}}}, "/references/c/member", "Field required"),
        ({"references": {"c": {"operation": "c", "member": []}}}, "/references/c/member", "at least 1"),
        ({"references": {"{": {"operation": "c", "member": "id"}}}, "/references/{", "pattern"),
        ({"references": ["c"]}, "/references", "valid dictionary"),
        ({"body": 7}, "/body", "object"),
        ({"path": "/nowhere/{c}"}, "/path", "There is no operation"),
    ],
)
async def test_invalid_reference_is_refused(members: dict[str, Any], where: str, detail: str) -> None:
    async with TestBulk(App().operations) as bulk:
        answer = await bulk.post([customer(), order(**members), customer("later")])
    assert answer.status == 422
    [error] = [one for one in answer.body["errors"] if detail in one["detail"]]
    assert error["pointer"].startswith(f"/operations/1{where}")


async def test_parameter_that_is_known_is_checked_before_anything_runs() -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        look = {**LOOK, "path": "/customers/x/orders/{o}", "references": refer("o")}
        answer = await bulk.post([customer(), order(), look])
    assert [one["detail"] for one in answer.body["errors"]] == [
        "customer: Input should be a valid integer, unable to parse string as an integer."
    ]
    assert app.ran == []


async def test_message_has_room_for_all_values_before_they_are_known() -> None:
    chain = [customer("0"), *(order(str(index), str(index - 1)) for index in range(1, 60))]
    async with TestBulk(App().operations, message_bytes=32 * 1024) as bulk:
        too_many = await post(bulk, *chain)
        enough = await post(bulk, *chain[:30])
    assert (too_many.status, enough.status) == (413, 202)
    assert "They are 60 operations and need" in too_many.body["detail"]
    detail = "Operation 0 must be in the same message."
    assert too_many.body["errors"] == [{"pointer": "/operations/59", "detail": detail}]


@pytest.mark.parametrize("is_suspect", [False, True])
async def test_failure_that_runs_alone_finds_the_result_that_its_path_needs(is_suspect: bool) -> None:
    """`o` has failed with `d`, and then because `c` had not succeeded. `c` succeeds at last, in another chunk."""
    app = App()
    async with TestBulk(app.operations) as bulk:
        fails = customer("d", body={"fails": "rejected"})
        answer = await post(bulk, fails, customer(body={"fails": "broken"}), order(dependsOn=["d"]))
        assert answer.statuses == [409, 500, 424]
        batch_id = answer.body["batchId"]

        async def retry(*ids: str) -> list[int]:
            await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ids})
            await bulk.run_until_idle()
            return [line["status"] for line in (await bulk.request("GET", f"/batch/{batch_id}/results")).lines]

        app.failing.remove("rejected")
        assert await retry("o") == [201, 500, 424]
        app.failing.clear()
        assert await retry("c") == [201, 201, 424]
        if is_suspect:
            await bulk._parts.store.suspect_batch(batch_id)  # its operations start with a slot and a note then
        assert await retry("o") == [201, 201, 201]
    created = len(app.ran) - 1
    assert app.written[-1] == f"order of {created}"


@pytest.mark.parametrize("is_suspect", [False, True])
async def test_path_that_cannot_be_made_is_not_run_by_a_retry_either(is_suspect: bool) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        answer = await post(bulk, customer(body={"result": {"name": "x"}}), order(), order("p", "o"))
        batch_id = answer.body["batchId"]
        if is_suspect:
            await bulk._parts.store.suspect_batch(batch_id)
        for ids in (["o"], ["p"]):
            await bulk.request("POST", f"/batch/{batch_id}/retry", {"ids": ids})
            await bulk.run_until_idle()
        lines = (await bulk.request("GET", f"/batch/{batch_id}/results")).lines
    assert [line["status"] for line in lines] == [201, 424, 424]
    assert lines[1]["error"]["detail"] == "The path has {c}, but the result of that operation has no id."
    assert app.ran == ["customer"]


@pytest.mark.parametrize("way", WAYS)
async def test_operation_fails_as_soon_as_one_value_is_missing(way: str) -> None:
    app = App()
    async with TestBulk(app.operations) as bulk:
        look = {**LOOK, "references": refer("c", "o")}
        later = customer("o", body={"retries": 1})
        answer = await post(bulk, customer(body={"result": {}}), later, look, way=way)
    assert answer.statuses == [201, 201, 424]
    assert (answer.outcomes[2].error or {})["detail"] == "The path has {c}, but the result of that operation has no id."
