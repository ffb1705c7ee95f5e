"""`POST /$batch` of the HTTP program, and its monitor."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Context, Operations, Reject, Retry
from penstock.api_key import Scope
from penstock.service.batches.results import Reading
from penstock.service.dialects.odata.dialect import ODATA
from penstock.testing import FakeClock
from penstock.testing.http import Answer
from tests.support.builders import NOW
from tests.support.generators import are_closed, kept_generators
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import Serve, Service

JSON = {"Content-Type": "application/json"}
ASYNC = {"Prefer": "respond-async"}
WAYS = ["wait=10", "respond-async"]

operations = Operations()


@operations.get("/users/{user}")
async def read(user: int) -> dict[str, int]:
    if user > 9:
        raise Reject(404, "There is no such user.")
    return {"id": user}


@operations.post("/users", status=201)
async def create_user(body: dict[str, str]) -> dict[str, str]:
    return body


@operations.delete("/users/{user}", status=204)
async def delete(user: int) -> None: ...


@operations.post("/shops", status=201)
async def open_shop(body: str) -> dict[str, str]:
    if body == "taken":
        raise Reject(409, "Taken.")
    return {"id": body}


@operations.post("/shops/{shop}/offers", status=201)
async def offer(shop: str, body: dict[str, int]) -> dict[str, Any]:
    return {"id": body["price"], "shop": shop}


@operations.get("/shops/{shop}/offers/{offer}")
async def look(shop: str, offer: int) -> str:
    return f"{shop} {offer}"


@operations.post("/nameless", status=201)
async def create_nameless() -> None: ...


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations)


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), sync_max_operations=3)


def get(id_: str, url: str = "users/1", **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "GET", "url": url, **members}


def toy(path: str, **members: Any) -> dict[str, Any]:
    return {"id": path.rpartition("/")[2], "method": "POST", "url": path, **members}


async def send(service: Service, *requests: Any, path: str = "/$batch", **headers: str) -> Answer:
    return await service.ask("POST", path, json={"requests": list(requests)}, headers=headers)


async def run(plant: Plant, *requests: Any, prefer: str) -> Answer:
    """Send a batch, let it run to its end, and return the answer with its responses."""
    answer = await send(plant.service, *requests, Prefer=prefer)
    if answer.status != 202:
        return answer
    await plant.work_off()
    return await plant.ask("GET", answer.headers["Location"])


def create(id_: str, url: str, body: Any = None, **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "POST", "url": url, "body": body, **members}


def error_in(answer: Answer, status: int) -> Any:
    assert answer.status == status, answer.content
    assert answer.content_type == "application/json"
    assert answer.headers["OData-Version"] == "4.01"
    error = answer.body["error"]
    assert error["code"]
    assert error["message"]
    return error


async def test_each_request_gets_a_response_of_its_own(service: Service) -> None:
    answer = await send(
        service,
        get("a"),
        {"id": "b", "method": "post", "url": "/users", "headers": JSON, "body": {"name": "Ada"}},
        {"id": "c", "method": "DELETE", "url": "users(3)"},
        get("d", "users/10"),
    )
    assert (answer.status, answer.content_type, answer.headers["OData-Version"]) == (200, "application/json", "4.01")
    missing = {"code": "rejected", "message": "There is no such user."}
    assert answer.body == {
        "responses": [
            {"id": "a", "status": 200, "headers": JSON, "body": {"id": 1}},
            {"id": "b", "status": 201, "headers": JSON, "body": {"name": "Ada"}},
            {"id": "c", "status": 204},
            {"id": "d", "status": 404, "headers": JSON, "body": {"error": missing}},
        ]
    }


async def test_invalid_request_does_not_stop_the_others(service: Service) -> None:
    answer = await send(
        service,
        get("ok"),
        get("no-number", "users/x"),
        get("no-path", "elsewhere"),
        {"id": "no-body", "method": "POST", "url": "users"},
        {"id": "wrong-body", "method": "POST", "url": "users", "body": {"name": 1}},
    )
    responses = {one["id"]: one for one in answer.body["responses"]}
    assert {id_: one["status"] for id_, one in responses.items()} == {
        "ok": 200, "no-number": 422, "no-path": 404, "no-body": 422, "wrong-body": 422,
    }  # fmt: skip
    assert responses["no-path"]["body"]["error"]["code"] == "unknownOperation"
    assert responses["no-body"]["body"]["error"]["message"] == "POST /users needs a body."


@pytest.mark.parametrize("path", ["/$batch", "/%24batch", "/v1.0/$batch", "/$batch?$format=json&api-version=7"])
@pytest.mark.parametrize("url", ["users/1", "/users/1", "http://127.0.0.1:{port}/users/1"])
async def test_batch_and_its_urls_have_several_forms(service: Service, path: str, url: str) -> None:
    answer = await send(service, get("1", url.format(port=service.client.port)), path=path)
    assert answer.body["responses"][0]["body"] == {"id": 1}


async def test_urls_may_start_with_the_public_url(serve: Serve) -> None:
    service = await serve(operations, public_url="https://api.example/bulk")
    urls = ["https://api.example/bulk/users/1", "/bulk/users/1", "/bulk/v1.0/users/1", "users/1", "/users/1"]
    answer = await send(service, *(get(str(number), url) for number, url in enumerate(urls)), path="/v1.0/$batch")
    assert [one["status"] for one in answer.body["responses"]] == [200] * len(urls)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "The body is not valid JSON"),
        (b"[]", 400, "requests: A batch is a JSON object with a list"),
        (b'{"requests": []}', 400, "requests: The batch has no requests. It needs at least one."),
        (b'{"operations": []}', 400, "The request has 2 errors"),
        (b'{"requests": [{"id": "1"}]}', 400, "The first one is in requests/0/method: Field required"),
        (b'{"requests": [1, 2, 3, 4, 5]}', 413, "The batch has 5 requests. The limit is 4."),
    ],
)
async def test_invalid_batch_is_an_odata_error(serve: Serve, body: bytes, status: int, message: str) -> None:
    service = await serve(operations, max_operations=4, sync_max_operations=4)
    answer = await service.ask("POST", "/$batch", data=body, headers=JSON)
    assert message in error_in(answer, status)["message"]


async def test_errors_of_an_invalid_batch_are_listed_with_their_places(service: Service) -> None:
    key = {"Idempotency-Key": "k"}
    answer = await send(service, get("a", headers=key), get("b", headers=key), get("c", f"users/{'1' * 3000}"))
    error = error_in(answer, 400)
    assert [one["target"] for one in error["details"]] == ["requests/1/headers/idempotency-key", "requests/2/url"]


async def test_what_is_not_offered_is_501(service: Service) -> None:
    error = error_in(await send(service, get("a", headers={"If-Match": 'W/"1"'})), 501)
    assert error["target"] == "requests/0/headers/if-match"


async def test_multipart_batch_is_rejected_with_a_sentence(service: Service) -> None:
    headers = {"Content-Type": "multipart/mixed; boundary=b"}
    answer = await service.ask("POST", "/$batch", data=b"--b--", headers=headers)
    assert error_in(answer, 415)["message"].startswith("Multipart batches are not offered.")


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"Accept": "multipart/mixed"}, "/$batch", 406),
        ({"OData-Version": "3.0"}, "/$batch", 400),
        ({}, "/$batch?$filter=x", 400),
    ],
)
async def test_wrong_headers_and_options_are_rejected(
    service: Service, headers: dict[str, str], path: str, status: int
) -> None:
    error_in(await send(service, get("a"), path=path, **headers), status)


@pytest.mark.parametrize("headers", [{"OData-MaxVersion": "4.0"}, {"OData-Version": "4.0", "OData-MaxVersion": "4.0"}])
async def test_client_of_odata_4_0_is_answered_in_it(service: Service, headers: dict[str, str]) -> None:
    accept = "application/json;odata.metadata=minimal, */*;q=0.1"
    answer = await send(service, get("a"), Accept=accept, **headers)
    assert (answer.status, answer.headers["OData-Version"]) == (200, "4.0")


async def test_errors_of_the_way_are_odata_errors(serve: Serve) -> None:
    service = await serve(operations, auth="keys")
    denied = await send(service, get("a"))
    wrong = await service.ask("PUT", "/$batch")
    unknown = await service.ask("GET", "/$batch/x/y")
    assert error_in(denied, 401)["code"] == "notAuthenticated"
    assert denied.headers["WWW-Authenticate"] == "Bearer"
    assert error_in(wrong, 405)["code"] == "methodNotAllowed"
    assert error_in(unknown, 404)["code"] == "notFound"


async def test_quota_is_charged_by_requests(serve: Serve) -> None:
    service = await serve(operations, tenant_limit="3/3600")
    assert (await send(service, get("a"), get("b"))).status == 200
    answer = await send(service, get("a"), get("b"))
    assert error_in(answer, 429)["code"]
    assert int(answer.headers["Retry-After"]) > 0


async def test_repeated_key_gets_the_same_answer(service: Service) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = await send(service, get("a"), **headers), await send(service, get("a"), **headers)
    assert first.body == again.body
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await send(service, get("a"), Prefer="continue-on-error=false", **headers)
    assert error_in(other, 422)["code"] == "keyReused"


async def test_dependant_of_a_failure_is_424(service: Service) -> None:
    answer = await send(
        service,
        get("a", "users/10"),
        get("b", dependsOn=["a"]),
        get("c", depends_on=["b"]),
        get("d", dependsOn=[]),
        get("e", dependsOn=["d"]),
    )
    assert [(one["id"], one["status"]) for one in answer.body["responses"]] == [
        ("a", 404), ("b", 424), ("c", 424), ("d", 200), ("e", 200),
    ]  # fmt: skip
    assert answer.body["responses"][1]["body"]["error"]["code"] == "dependencyFailed"


async def test_nothing_runs_after_an_error_if_the_client_wants_that(service: Service) -> None:
    requests = [get("a"), get("b", "users/10"), get("c"), get("d", "nowhere")]
    answer = await send(service, *requests, Prefer="odata.continue-on-error=false")
    assert [one["status"] for one in answer.body["responses"]] == [200, 404, 424, 424]
    assert answer.headers["Preference-Applied"] == "odata.continue-on-error=false"
    answer = await send(service, *requests, Prefer="continue-on-error")
    assert [one["status"] for one in answer.body["responses"]] == [200, 404, 200, 404]
    assert answer.headers["Preference-Applied"] == "continue-on-error=true"
    assert "Preference-Applied" not in (await send(service, *requests)).headers


@pytest.mark.parametrize("prefer", WAYS)
async def test_requests_refer_to_what_earlier_ones_have_created(aiohttp_client: AiohttpClient, prefer: str) -> None:
    plant = await build_plant(aiohttp_client, operations)
    answer = await run(
        plant,
        create("shop", "/shops", "corner shop", headers=JSON),
        create("offer", "$shop/offers", {"price": 7}, dependsOn=["shop"]),
        get("look", "$offer"),
        create("taken", "/shops", "taken"),
        create("late", "$taken/offers", {"price": 8}, dependsOn=["taken"]),
        create("nameless", "/nameless"),
        get("lost", "$nameless/offers/1"),
        create("wrong", "$shop/offers", "no price"),
        prefer=prefer,
    )
    responses = {one["id"]: (one["status"], one["body"]) for one in answer.body["responses"]}
    assert responses["offer"] == (201, {"id": 7, "shop": "corner shop"})
    assert responses["look"] == (200, "corner shop 7")
    assert {id_: status for id_, (status, _) in responses.items() if status > 299} == {
        "taken": 409, "late": 424, "lost": 424, "wrong": 422,
    }  # fmt: skip
    assert responses["lost"][1]["error"]["code"] == "unresolvedReference"


@pytest.mark.parametrize("prefer", WAYS)
async def test_group_succeeds_or_fails_as_a_whole(aiohttp_client: AiohttpClient, prefer: str) -> None:
    rows: list[str] = []
    plant = await build_plant(aiohttp_client, table(rows))
    answer = await run(
        plant,
        create("a", "/rows", "a", atomicityGroup="one"),
        create("b", "/rows", "b", atomicityGroup="one"),
        create("c", "/rows", "c", atomicityGroup="two", dependsOn=["one"]),
        create("d", "/rows", "wrong", atomicityGroup="two"),
        create("e", "/rows", "e", dependsOn=["two"]),
        create("f", "/rows", "f", dependsOn=["one"]),
        prefer=prefer,
    )
    responses = [(one["id"], one.get("atomicityGroup"), one["status"]) for one in answer.body["responses"]]
    assert responses == [
        ("a", "one", 201), ("b", "one", 201), ("c", "two", 424), ("d", "two", 409), ("e", None, 424), ("f", None, 201),
    ]  # fmt: skip
    assert rows == ["a", "b", "f"]


@pytest.mark.parametrize("prefer", WAYS)
async def test_reference_to_what_a_group_creates_is_resolved_after_it(
    aiohttp_client: AiohttpClient, prefer: str
) -> None:
    plant = await build_plant(aiohttp_client, table([]))
    answer = await run(
        plant,
        create("a", "/rows", "a", atomicityGroup="one"),
        create("b", "/rows", "b", atomicityGroup="one"),
        get("c", "$b"),
        get("d", "$a", atomicityGroup="two"),
        get("e", "$b", atomicityGroup="two"),
        prefer=prefer,
    )
    assert [one["body"] for one in answer.body["responses"][2:]] == ["b", "a", "b"]


@pytest.mark.parametrize("prefer", WAYS)
async def test_members_of_a_group_refer_to_what_earlier_ones_create(aiohttp_client: AiohttpClient, prefer: str) -> None:
    rows: list[str] = []
    plant = await build_plant(aiohttp_client, table(rows))
    answer = await run(
        plant,
        create("before", "/rows", "x"),
        create("1", "/rows", "a", atomicityGroup="g"),
        create("2", "$1/parts", "b", atomicityGroup="g"),
        get("3", "$2", atomicityGroup="g"),
        get("4", "$3", atomicityGroup="g"),
        get("5", "$before", atomicityGroup="g"),
        get("after", "$2"),
        prefer=prefer,
    )
    assert [one["status"] for one in answer.body["responses"]] == [201, 201, 201, 200, 200, 200, 200], answer.content
    assert [one["body"] for one in answer.body["responses"][3:]] == ["a b", "a b", "x", "a b"]
    assert rows == ["x", "a", "a/b"]


@pytest.mark.parametrize("prefer", WAYS)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "nameless",
            (424, "unresolvedReference", "The path has {1}, but the result of that operation has no @odata.id"),
        ),
        ("elsewhere", (404, "unknownOperation", "There is no operation POST /nowhere/parts.")),
        ("thread", (422, "invalidOperation", "POST /threads/parts does not run in the transaction")),
        ("limit", (422, "invalidOperation", "POST /limited/parts has another limit than its group.")),
        ("a", (409, "rejected", "No.")),
    ],
)
async def test_group_is_rolled_back_if_one_that_refers_to_another_fails(
    aiohttp_client: AiohttpClient, text: str, error: tuple[int, str, str], prefer: str
) -> None:
    status, code, message = error
    rows: list[str] = []
    plant = await build_plant(aiohttp_client, table(rows))
    answer = await run(
        plant,
        create("1", "/rows", text, atomicityGroup="g"),
        create("2", "$1/parts", "wrong", atomicityGroup="g"),
        create("3", "/rows", "c", atomicityGroup="g"),
        create("4", "/rows", "d"),
        prefer=prefer,
    )
    responses = answer.body["responses"]
    assert [one["status"] for one in responses] == [424, status, 424, 201]
    assert responses[1]["body"]["error"]["code"] == code
    assert responses[1]["body"]["error"]["message"].startswith(message)
    assert [responses[at]["body"]["error"]["code"] for at in (0, 2)] == ["rolledBack"] * 2
    assert rows == ["d"]


@pytest.mark.parametrize("prefer", WAYS)
async def test_group_that_is_tried_again_resolves_its_references_again(
    aiohttp_client: AiohttpClient, prefer: str
) -> None:
    rows: list[str] = []
    plant = await build_plant(aiohttp_client, table(rows))
    answer = await run(
        plant,
        create("1", "/rows", "attempt", atomicityGroup="g"),
        create("2", "$1/parts", "late", atomicityGroup="g"),
        get("3", "$2"),
        prefer=prefer,
    )
    assert [one["body"] for one in answer.body["responses"][2:]] == ["attempt-2 late"]
    assert rows == ["attempt-2", "attempt-2/late"]


async def test_group_needs_a_transaction(service: Service) -> None:
    error = error_in(await send(service, get("a", atomicityGroup="g")), 400)
    assert error["target"] == "requests/0/atomicityGroup"


LINKS = {  # results that lead elsewhere
    "nameless": {},
    "elsewhere": {"@odata.id": "/nowhere"},
    "thread": {"@odata.id": "/threads"},
    "limit": {"@odata.id": "/limited"},
}


def table(rows: list[str]) -> Operations[Any]:
    """Return an application with a table of texts, which has a transaction."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[list[str]]:
        written: list[str] = []
        yield written
        rows.extend(written)

    @asynccontextmanager
    async def savepoint(_: list[str]) -> AsyncIterator[None]:
        yield

    operations = Operations(transaction=transaction, savepoint=savepoint)

    @operations.post("/rows", status=201)
    async def insert(body: str, context: Context[list[str]]) -> dict[str, str]:
        if body == "wrong":
            raise Reject(409, "No.")
        id_ = f"attempt-{context.attempt}" if body == "attempt" else body
        context.transaction.append(id_)
        return LINKS.get(body, {"id": id_})

    @operations.get("/rows/{row}")
    async def read_row(row: str) -> str:
        return row

    add_parts(operations)
    return operations


def add_parts(operations: Operations[Any]) -> None:
    """Add operations whose URLs continue those of rows, or of what the results in `LINKS` lead to."""

    @operations.post("/rows/{row}/parts", status=201)
    async def insert_part(row: str, body: str, context: Context[list[str]]) -> dict[str, str]:
        if body == "wrong":
            raise Reject(409, "No.")
        context.transaction.append(f"{row}/{body}")
        if body == "late" and context.attempt == 1:
            raise Retry("Not yet.", after_seconds=0)
        return {"id": body}

    @operations.get("/rows/{row}/parts/{part}")
    async def read_part(row: str, part: str) -> str:
        return f"{row} {part}"

    @operations.post("/threads/parts")
    def insert_in_thread(body: str) -> None: ...

    @operations.post("/limited/parts", limit="slow")
    async def insert_slowly(body: str) -> None: ...


async def test_batch_with_references_goes_on_in_the_background(aiohttp_client: AiohttpClient) -> None:
    rows: list[str] = []
    plant = await build_plant(aiohttp_client, table(rows))
    linked = await send(
        plant.service,
        create("1", "/rows", "attempt", atomicityGroup="g"),
        create("2", "$1/parts", "b"),
        Prefer="wait=0",
    )
    assert linked.body["responses"] == []
    await plant.work_off()
    answer = await plant.ask("GET", linked.body["@odata.nextLink"])
    assert [one["status"] for one in answer.body["responses"]] == [201, 201]
    assert rows == ["attempt-1", "attempt-1/b"]


async def test_monitor_has_the_responses_when_the_batch_has_ended(plant: Plant, toys: Toys) -> None:
    accepted = await send(plant.service, toy("succeed/a"), toy("reject/b"), toy("nowhere/c"), **ASYNC)
    assert (accepted.status, accepted.content) == (202, b"")
    assert accepted.headers["Preference-Applied"] == "respond-async"
    monitor = accepted.headers["Location"]
    running = await plant.ask("GET", monitor)
    assert (running.status, running.content, running.headers["Location"]) == (202, b"", monitor)
    assert int(running.headers["Retry-After"]) >= 1
    await plant.work_off()
    done = await plant.ask("GET", f"/v1.0{monitor}")
    assert (done.status, done.headers["AsyncResult"], done.headers["OData-Version"]) == (200, "200", "4.01")
    assert [(one["id"], one["status"]) for one in done.body["responses"]] == [("a", 201), ("b", 409), ("c", 404)]
    assert done.body["responses"][0]["body"] == "a"
    assert "@odata.nextLink" not in done.body
    conflict = await plant.ask("DELETE", monitor)
    assert error_in(conflict, 409)["code"] == "notPossibleNow"


@pytest.mark.parametrize("headers", [{"Accept": "application/http"}, {"Accept": "application/http, */*;q=0.1"}])
async def test_monitor_answers_as_an_http_message_if_asked(plant: Plant, headers: dict[str, str]) -> None:
    accepted = await send(plant.service, toy("succeed/a"), **ASYNC)
    await plant.work_off()
    done = await plant.ask("GET", accepted.headers["Location"], headers={**headers, "OData-MaxVersion": "4.0"})
    head, _, body = done.content.partition(b"\r\n\r\n")
    assert (done.content_type, head) == (
        "application/http", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nOData-Version: 4.0",
    )  # fmt: skip
    assert json.loads(body)["responses"][0]["status"] == 201


async def test_responses_come_in_pages(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.service.dialects.odata.monitor.PAGE_OUTCOMES", 2)
    accepted = await send(plant.service, *(toy(f"succeed/{number}") for number in range(5)), **ASYNC)
    await plant.work_off()
    windows = kept_generators(monkeypatch, Reading, "windows")
    link, pages = accepted.headers["Location"], []
    while link:
        page = (await plant.ask("GET", link)).body
        pages.append([one["id"] for one in page["responses"]])
        link = page.get("@odata.nextLink")
    assert pages == [["0", "1"], ["2", "3"], ["4"]]
    assert are_closed(windows) == [True] * 3
    wrong = await plant.ask("GET", f"{accepted.headers['Location']}?$skiptoken=x")
    assert error_in(wrong, 400)["message"].startswith("Invalid $skiptoken 'x'.")


async def test_deleted_monitor_cancels_the_batch_and_is_gone(plant: Plant, toys: Toys) -> None:
    monitor = (await send(plant.service, toy("succeed/a"), **ASYNC)).headers["Location"]
    assert (await plant.ask("DELETE", monitor)).status == 204
    await plant.work_off()
    assert toys.times == {}
    for method in ("GET", "DELETE"):
        assert error_in(await plant.ask(method, monitor), 404)["code"] == "unknownBatch"
    assert (await plant.ask("GET", f"/batch/{monitor.rpartition('/')[2]}")).body["status"] == "cancelled"


async def test_batch_whose_end_is_not_written_yet_has_its_responses(plant: Plant) -> None:
    monitor = (await send(plant.service, toy("succeed/a"), **ASYNC)).headers["Location"]
    await plant.work_off()
    await plant.forget_end(monitor.rpartition("/")[2])
    assert [response["status"] for response in (await plant.ask("GET", monitor)).body["responses"]] == [201]
    error_in(await plant.ask("DELETE", monitor), 409)


async def test_batch_that_was_cancelled_in_another_way_still_has_responses(plant: Plant) -> None:
    monitor = (await send(plant.service, toy("succeed/a"), **ASYNC)).headers["Location"]
    await plant.ask("POST", f"/batch/{monitor.rpartition('/')[2]}/cancel")
    await plant.work_off()
    [response] = (await plant.ask("GET", monitor)).body["responses"]
    assert (response["status"], response["body"]["error"]["code"]) == (410, "cancelled")


class WorkingClock(FakeClock):
    """A clock that lets a consumer work off everything while a front end waits for the first time."""

    work: Callable[[], Awaitable[None]] | None = None

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        work, self.work = self.work, None
        if work is not None:
            await work()


async def test_large_batch_is_waited_for_without_respond_async(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    clock = WorkingClock(NOW)
    plant = await build_plant(aiohttp_client, toys.operations(), clock=clock, sync_max_operations=3)
    clock.work = plant.work_off
    answer = await send(plant.service, *(toy(f"succeed/{number}") for number in range(5)))
    assert answer.status == 200
    assert [(one["id"], one["status"]) for one in answer.body["responses"]] == [(str(n), 201) for n in range(5)]


async def test_batch_that_is_not_done_in_time_is_answered_with_a_link(plant: Plant) -> None:
    answer = await send(plant.service, *(toy(f"succeed/{number}") for number in range(5)))
    assert (answer.status, answer.body["responses"]) == (200, [])
    link = answer.body["@odata.nextLink"]
    assert (await plant.ask("GET", link)).status == 202
    await plant.work_off()
    assert len((await plant.ask("GET", link)).body["responses"]) == 5


async def test_monitor_is_for_its_tenant_only(serve: Serve) -> None:
    service = await serve(operations, tenant_header="X-Tenant")
    accepted = await send(service, get("a"), **ASYNC, **{"X-Tenant": "one"})
    assert accepted.status == 202
    other = await service.get(accepted.headers["Location"], **{"X-Tenant": "two"})
    assert error_in(other, 404)["code"] == "unknownBatch"


def test_monitor_is_read_and_cancelled_with_the_usual_scopes() -> None:
    scopes = {route.method: route.scope for route in ODATA.routes}
    assert scopes == {"POST": Scope.WRITE, "GET": Scope.READ, "DELETE": Scope.WRITE}
