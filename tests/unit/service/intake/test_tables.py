"""POST /batch with a file of rows: CSV, or NDJSON whose lines are bodies. The query says what each row is."""

import gzip
import json
from typing import Any

import pytest
from pydantic import BaseModel

from penstock import Operations, zstd
from penstock.message import decode_chunk
from penstock.testing.http import Answer
from tests.support.service import NDJSON, Serve, Service, assert_problem

CSV = "text/csv"
operations = Operations()


@operations.post("/users", status=201)
async def create_user(body: dict[str, Any]) -> dict[str, Any]:
    return body


@operations.put("/users/{id}")
async def change_user(id: str, body: dict[str, Any]) -> dict[str, Any]:  # noqa: A002
    return {"id": id, **body}


class Count(BaseModel):
    n: int


@operations.post("/counts")
async def add_count(body: Count) -> int:
    return body.n


@operations.post("/numbers")
async def add_number(body: int) -> int:
    return body


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations)


async def post(
    service: Service, content: bytes, method: str = "POST", path: str = "/users", kind: str = CSV, **query: str
) -> Answer:
    parameters = {"method": method, "path": path, **query}
    headers = {"Content-Type": kind}
    return await service.ask("POST", "/batch", data=content, params=parameters, headers=headers)


def results_of(answer: Answer) -> list[tuple[str, Any]]:
    assert answer.status == 200, answer.content
    return [(one["id"], one["result"]) for one in answer.body["results"]]


@pytest.mark.parametrize(
    "content",
    [
        b"id,name\n1,Ada\n2,Bob\n",
        b"id;name\r\n1;Ada\r\n2;Bob\r\n;\r\n;\r\n",
        b"id\tname\n1\tAda\n2\tBob",
        b"\xef\xbb\xbfid|name\n1|Ada\n2|Bob\n\n\n",
    ],
)
async def test_rows_are_operations_by_their_lines(service: Service, content: bytes) -> None:
    expected = [("2", {"id": "1", "name": "Ada"}), ("3", {"id": "2", "name": "Bob"})]
    assert results_of(await post(service, content)) == expected
    assert results_of(await post(service, content, "PUT", "/users/{id}")) == expected


async def test_what_is_named_is_not_guessed(service: Service) -> None:
    latin = "id~name\n1~café €\n".encode("cp1252")
    expected = [("2", {"id": "1", "name": "café €"})]
    assert results_of(await post(service, latin, delimiter="~", charset="windows-1252")) == expected
    assert results_of(await post(service, latin, delimiter="~", kind="text/csv; charset=cp1252")) == expected
    assert results_of(await post(service, latin.decode("cp1252").encode("utf-16"), delimiter="~", charset="utf-16"))


async def test_lines_are_bodies(service: Service) -> None:
    content = b'\xef\xbb\xbf{"id": 7, "age": 3}\n\n{"id": 8, "age": ""}'
    expected = [("1", {"id": "7", "age": 3}), ("3", {"id": "8", "age": ""})]
    assert results_of(await post(service, content, "PUT", "/users/{id}", NDJSON)) == expected


@pytest.mark.parametrize(
    ("content", "query", "status", "words"),
    [
        (
            "id,name\n1,café\n".encode("cp1252"),
            {},
            422,
            "It seems to be Windows-1252. Send it with charset=windows-1252",
        ),
        ("id,name\n1,a\n".encode("utf-16"), {}, 422, "Send it with charset=utf-16, or save it as CSV UTF-8."),
        (b"id,name\r1,Ada\r2,Bob\r", {}, 422, "Save the file with LF or CRLF line breaks."),
        (b"id,id\n1,2\n", {}, 422, "Two columns have the name 'id'."),
        (b"id,,name\n1,2,3\n", {}, 422, "Column 2 has no name."),
        (b"id,name\n1,2,3\n", {}, 422, "The row has 3 cells, and the first row has 2."),
        (b"", {}, 422, "The batch has no operations. The file is empty."),
        (b"\n\n", {}, 422, "The batch has no operations. The file is empty."),
        (
            b"id\n,\n",
            {},
            422,
            "The batch has no operations. The file has no rows after the row with the names of the columns.",
        ),
        (b"id\n1\n", {"method": "TRACE"}, 400, "The query needs a method"),
        (b"id\n1\n", {"path": "users"}, 400, "a path that starts with a slash"),
        (b"id,n\n,1\n", {"path": "/users/{id}", "method": "PUT"}, 422, "needs a value of id, and this row has none"),
        (
            b"id,n\n1,2\n",
            {"path": "/users/{key}", "method": "PUT"},
            422,
            "has no column 'key'. Its columns are 'id', 'n'.",
        ),
        (b"id,n\n1,2\n", {"columns": '{"Id": "nr"}'}, 422, "has no column 'Id'. Its columns are 'id', 'n'."),
        (b"id,n\n1,2", {"columns": '{"Id": null}', "invalidRows": "fail"}, 422, "has no column 'Id'."),
        (b"id,n\n1,2\n", {"key": "key"}, 422, "has no column 'key'."),
        (b"a,b\n1,2\n", {"path": "/users/{a}{b}"}, 400, "nothing between them to tell them apart. Write / or -."),
        (b"id\n1\n", {"path": "/nothing"}, 422, "There is no operation POST /nothing."),
        (b"id\n1\n", {"delimiter": ";;"}, 400, "should be one character, such as ; or |, or the word tab"),
        (b"id\n1\n", {"charset": "klingon"}, 400, "The charset 'klingon' is not supported."),
        (b"id\n1\n", {"columns": "[]"}, 400, "not a JSON object of names"),
        (b"id\n1\n", {"unknown": "1"}, 422, "unknown"),
    ],
)
async def test_file_that_cannot_be_read_is_rejected_with_what_to_do(
    service: Service, content: bytes, query: dict[str, str], status: int, words: str
) -> None:
    answer = await post(service, content, **query)
    assert_problem(answer, status)
    assert words in answer.content.decode()
    assert not service.parts.chunks.messages


async def test_errors_name_their_lines(service: Service) -> None:
    problem = assert_problem(await post(service, b'a\n1\n"x\ny"\n1,2\n\n2\n', path="/numbers"), 422)
    assert [(error["line"], error["pointer"]) for error in problem["errors"]] == [
        (2, "/operations/0/body"), (3, "/operations/1/body"), (5, "/operations/2"), (7, "/operations/3/body"),
    ]  # fmt: skip


async def test_delimiter_and_charset_are_for_csv(service: Service) -> None:
    answer = await post(service, b"{}\n", kind=NDJSON, charset="utf-16")
    assert "are for CSV files" in assert_problem(answer, 400)["detail"]


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
async def test_large_file_is_planned_while_it_arrives(serve: Serve, pack: Any) -> None:
    service = await serve(operations, sync_max_operations=10, chunk_operations=100)
    content = b"name;n\r\n" + b"".join(b'"J\xc3\xbcr;gen";%d\r\n' % number for number in range(1_000))
    headers = {"Content-Type": CSV, "Content-Encoding": "gzip" if pack is gzip.compress else "zstd"}
    answer = await service.ask("POST", "/batch?method=POST&path=/users", data=pack(content), headers=headers)
    assert answer.status == 202, answer.content
    sent = [one for message in service.parts.chunks.messages for one in decode_chunk(message.body).operations]
    bodies = sorted(((int(one.id), one.body) for one in sent), key=lambda one: one[0])
    assert bodies == [(number + 2, {"name": "Jür;gen", "n": str(number)}) for number in range(1_000)]
    layout = await service.parts.store.read_layout(answer.body["batchId"])
    assert layout is not None
    assert (layout.columns, layout.delimiter, layout.template.path) == (["name", "n"], ";", "/users")


async def test_repeated_request_is_the_same_only_with_the_same_query(service: Service) -> None:
    async def send(**query: str) -> Answer:
        headers = {"Content-Type": CSV, "Idempotency-Key": '"k"', "Prefer": "respond-async"}
        parameters = {"method": "POST", "path": "/users", **query}
        return await service.ask("POST", "/batch", data=b"id;name\n1;a\n", params=parameters, headers=headers)

    first, second = [await send() for _ in range(2)]
    assert first.body["batchId"] == second.body["batchId"]
    for query in ({"delimiter": ";"}, {"charset": "windows-1252"}, {"path": "/numbers"}, {"columns": '{"id": "x"}'}):
        assert_problem(await send(**query), 422)


async def test_layout_is_durable_before_the_batch_is_accepted(serve: Serve) -> None:
    calls: list[str] = []
    service = await serve(
        operations, sync_max_operations=0, watch=lambda call, moment: calls.append(call) if moment == "after" else None
    )
    assert (await post(service, b"id\n1\n")).status == 202
    assert calls.index("store.write_layout") < calls.index("store.accept_new")
    calls.clear()
    assert (await service.post([{"method": "POST", "path": "/numbers", "body": 1}])).status == 202
    assert "store.write_layout" not in calls


async def test_cell_can_be_the_key(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0)
    answer = await post(service, b"order;id\nA1;1\nA2;2\n", key="order")
    assert answer.status == 202, answer.content
    [message] = service.parts.chunks.messages
    assert [one.key for one in decode_chunk(message.body).operations] == ["A1", "A2"]
    problem = assert_problem(await post(service, b"order;id\n;1\nA1;2\nA1;3\n", key="order"), 422)
    assert [(error["line"], error["pointer"]) for error in problem["errors"]] == [
        (2, "/operations/0"), (4, "/operations/2/key"),
    ]  # fmt: skip


async def test_invalid_rows_fail_if_the_client_wants_that(service: Service) -> None:
    content = b'{"n": 1}\n{"n": "x"}\n{"n": 3}\n'
    assert_problem(await post(service, content, path="/counts", kind=NDJSON), 422)
    answer = await post(service, content, path="/counts", kind=NDJSON, invalidRows="fail")
    assert [(one["id"], one["status"]) for one in answer.body["results"]] == [("1", 200), ("2", 422), ("3", 200)]
    assert answer.body["results"][1]["error"]["title"] == "Invalid operation"
    csv = await post(service, b"n\n1\nx\n", path="/counts", invalidRows="fail")
    assert [one["status"] for one in csv.body["results"]] == [200, 422]
    for invalid in (b"n\n1\n1,2\n", b"m\n\n"):  # these rows are no operations
        assert_problem(await post(service, invalid, path="/counts", invalidRows="fail"), 422)
    assert_problem(await post(service, content, path="/counts", invalidRows="skip"), 400)


async def test_values_inside_of_bodies_count_as_elements(serve: Serve) -> None:
    """A batch with many elements goes to the background, because all of them in memory would be too much."""
    service = await serve(operations, max_elements=1_000)
    line = b'{"a": [%b]}\n' % b",".join([b"[]"] * 300)
    assert len(results_of(await post(service, line, kind=NDJSON))) == 1
    assert (await post(service, line * 3, kind=NDJSON)).status == 202


async def test_whole_operations_may_have_what_penstock_added(service: Service) -> None:
    operation = {"id": "a", "method": "POST", "path": "/numbers", "body": 1}
    added = {"error_status": 409, "error_title": "No", "error_detail": None}
    lines = json.dumps({**operation, **added}).encode()
    assert results_of(await service.post_content(lines, NDJSON)) == [("a", 1)]
    assert results_of(await service.post([{**operation, **added}])) == [("a", 1)]
    problem = assert_problem(await service.post([{**operation, **added, "other": 1}]), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/operations/0/other"]
    problem = assert_problem(await service.post([{**operation, "error_title": "No"}]), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/operations/0/error_title"]
