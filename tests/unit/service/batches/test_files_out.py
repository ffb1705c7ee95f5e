"""Results as CSV, and the rows of a file that failed, to be corrected and sent again."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations, Reject
from penstock.batch import BatchState
from penstock.files.rejected import ADDED
from penstock.outcome import ChunkRecord, failed, succeeded
from penstock.service.batches import csv_results, rejected
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID, build_batch, build_operation
from tests.support.plant import Plant, build_plant
from tests.support.service import NDJSON, Serve, assert_problem

CSV = "text/csv"
IN_BACKGROUND = {"Prefer": "respond-async"}


@pytest.fixture
def is_mended() -> list[bool]:
    return []


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, is_mended: list[bool]) -> Plant:
    operations = Operations()

    def check(body: dict[str, Any]) -> None:
        if "bad" in str(body):
            raise Reject(409, "=The name is taken.")
        if "broken" in str(body) and not is_mended:
            raise RuntimeError("It is broken.")

    @operations.post("/users", status=201, max_attempts=1)
    async def create_user(body: dict[str, Any]) -> dict[str, Any]:
        check(body)
        return {"id": 7, **body}

    @operations.post("/notes")
    async def add_note(body: str | None) -> None:
        raise Reject(409, "No.")

    @operations.post("/empty")
    @operations.delete("/notes")
    async def delete_notes() -> None:
        raise Reject(409, "No.")

    @operations.put("/users/{id}", max_attempts=1)
    async def change_user(id: str, body: dict[str, Any]) -> str:  # noqa: A002
        check(body)
        return id

    return await build_plant(aiohttp_client, operations, chunk_operations=2)


async def send(plant: Plant, content: bytes, kind: str = CSV, **query: str) -> str:
    headers = {"Content-Type": kind, **IN_BACKGROUND}
    answer = await plant.service.ask("POST", "/batch", data=content, params=query, headers=headers)
    assert answer.status == 202, answer.content
    await plant.work_off()
    batch_id: str = answer.body["batchId"]
    return batch_id


async def get(plant: Plant, batch_id: str, what: str, query: str = "format=csv") -> Answer:
    answer = await plant.service.get(f"/batch/{batch_id}/{what}?{query}")
    assert answer.status == 200, answer.content
    return answer


def table_of(answer: Answer, delimiter: str = ",") -> list[list[str]]:
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(
        csv.reader(io.StringIO(answer.content.decode("utf-8-sig"), newline=""), delimiter=delimiter, strict=True)
    )


async def test_results_are_a_table(plant: Plant) -> None:
    batch_id = await send(plant, b"name;phone\r\nAda;+49 30\r\nbad;1\r\n", method="POST", path="/users")
    answer = await plant.service.get(f"/batch/{batch_id}/results", Accept="text/csv")
    assert table_of(answer) == [
        ["id", "status", "title", "detail", "result.id", "name", "phone"],
        ["2", "201", "", "", "7", "Ada", "+49 30"],
        ["3", "409", "Rejected", "'=The name is taken.", "", "", ""],
    ]
    only_failed = await get(plant, batch_id, "results", "format=csv&status=failed")
    assert [row[0] for row in table_of(only_failed)] == ["id", "3"]
    assert len((await get(plant, batch_id, "results", "format=ndjson")).lines) == 2
    assert (await get(plant, batch_id, "results", "format=json")).body["nextCursor"] is None
    head = await plant.service.ask("HEAD", f"/batch/{batch_id}/results?format=csv")
    assert (head.status, head.content) == (200, b"")


@pytest.mark.parametrize(
    "query", ["format=csv&limit=2", "format=csv&cursor=0.1", "format=xls", "format=csv&format=csv"]
)
async def test_results_in_a_form_that_does_not_exist_are_rejected(plant: Plant, query: str) -> None:
    batch_id = await send(plant, b"name\nAda\n", method="POST", path="/users")
    assert_problem(await plant.service.get(f"/batch/{batch_id}/results?{query}"), 400)


async def test_results_of_later_windows_keep_the_columns(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_results, "WINDOW_OUTCOMES", 1)
    lines = b'{"a": 1}\n{"b": [2]}\n'
    batch_id = await send(plant, lines, NDJSON, method="POST", path="/users")
    assert table_of(await get(plant, batch_id, "results")) == [
        ["id", "status", "title", "detail", "result.id", "a", "more"],
        ["1", "201", "", "", "7", "1", ""],
        ["2", "201", "", "", "7", "", '{"b":[2]}'],
    ]


FILE = 'Nr;"Full ""name""";left out;note\r\n1;Ada;x;\r\n2;"bad; one";y;"=1\n2"\r\n3;Bob;;\r\n4;broken;z;-5\r\n'
NAMES = {"Nr": "id", 'Full "name"': "name", "left out": None}


@pytest.mark.parametrize("charset", ["windows-1252", "utf-16", "utf-16-be"])
async def test_charset_may_be_repeated_with_the_file_that_comes_back(plant: Plant, charset: str) -> None:
    query = {"method": "POST", "path": "/users", "charset": charset}
    content = "näme;note\n€ bad;x\n".encode(charset)
    expected = [["näme", "note"], ["€ bad", "x"]]
    for _ in range(2):
        answer = await get(plant, await send(plant, content, **query), "rejected")
        assert [row[:2] for row in table_of(answer, ";")] == expected
        content = answer.content
        assert content.startswith(b"\xef\xbb\xbf")
    plain = await send(plant, b"name\nbad\n", method="POST", path="/users")
    assert (await get(plant, plain, "rejected")).content.startswith(b"name,")


async def test_rows_that_failed_come_back_as_they_were(plant: Plant) -> None:
    content = FILE.encode("cp1252")
    query = {"method": "PUT", "path": "/users/{id}", "columns": json.dumps(NAMES), "charset": "cp1252"}
    batch_id = await send(plant, content, **query)
    answer = await get(plant, batch_id, "rejected")
    assert table_of(answer, ";") == [
        ["Nr", 'Full "name"', "note", "error_status", "error_title", "error_detail"],
        ["2", "bad; one", "'=1\n2", "409", "Rejected", "'=The name is taken."],
        ["4", "broken", "-5", "500", "Broke", (await _detail(plant, batch_id))],
    ]
    lines = (await get(plant, batch_id, "rejected", "")).lines
    assert [list(line) for line in lines] == [
        ["Nr", 'Full "name"', "note", "error_status", "error_title", "error_detail"]
    ] * 2
    assert lines[0]["note"] == "=1\n2"


async def _detail(plant: Plant, batch_id: str) -> str:
    lines = (await get(plant, batch_id, "results", "status=failed")).lines
    return str(lines[-1]["error"]["detail"])


@pytest.mark.parametrize("format_", ["csv", "ndjson"])
async def test_corrected_file_is_sent_again(plant: Plant, is_mended: list[bool], format_: str) -> None:
    """What is still wrong comes back with the same columns, and none of them is there twice."""
    query = {"method": "PUT", "path": "/users/{id}", "columns": json.dumps(NAMES)}
    first = await get(plant, await send(plant, FILE.encode(), **query), "rejected", f"format={format_}")
    is_mended.append(True)
    kind = CSV if format_ == "csv" else NDJSON
    second = await send(plant, first.content, kind, **query)
    assert await plant.statuses(second) == ({"2": 409, "4": 200} if format_ == "csv" else {"1": 409, "2": 200})
    left = await get(plant, second, "rejected", f"format={format_}")
    assert left.content.splitlines()[:-1] == first.content.splitlines()[: len(left.content.splitlines()) - 1]
    third = await send(plant, left.content.replace(b"bad; one", b"good"), kind, **query)
    assert set((await plant.statuses(third)).values()) == {200}
    assert (await get(plant, third, "rejected", "format=ndjson")).content == b""


@pytest.mark.parametrize(("format_", "kind"), [("csv", CSV), ("ndjson", NDJSON)])
async def test_names_of_columns_come_back_as_they_were(plant: Plant, format_: str, kind: str) -> None:
    """Also those that a spreadsheet would run as a formula, and those that Penstock adds."""
    query = {"method": "POST", "path": "/users"}
    first = await send(plant, b"@name,-x,'=y,error_title,error_path\nbad,=1,'-a,mine,/p\n", **query)
    second = await send(plant, (await get(plant, first, "rejected", f"format={format_}")).content, kind, **query)
    assert (await get(plant, second, "rejected")).content.startswith(
        b"'@name,'-x,''=y,body.error_title,error_path,error_status,error_title,error_detail\r\nbad,'=1,''-a,mine,/p,"
    )
    [line] = (await get(plant, second, "rejected", "format=ndjson")).lines
    own = {"@name": "bad", "-x": "=1", "'=y": "'-a", "body.error_title": "mine", "error_path": "/p"}
    assert {name: cell for name, cell in line.items() if name not in ADDED} == own


async def test_retried_rows_that_succeed_are_not_in_the_file(plant: Plant, is_mended: list[bool]) -> None:
    batch_id = await send(plant, FILE.encode(), method="POST", path="/users")
    assert len(table_of(await get(plant, batch_id, "rejected"), ";")) == 3
    is_mended.append(True)
    assert (await plant.service.ask("POST", f"/batch/{batch_id}/retry")).status == 202
    await plant.work_off()
    assert [row[1] for row in table_of(await get(plant, batch_id, "rejected"), ";")[1:]] == ["bad; one"]


async def test_operations_of_a_batch_without_a_file_come_back_whole(plant: Plant) -> None:
    operations = [
        {"method": "POST", "path": "/users", "body": {"name": "bad", "tags": ["x"]}, "id": "a", "key": "k1"},
        {"method": "POST", "path": "/users", "body": {"name": "good"}},
        {"method": "PUT", "path": "/users/7", "body": {"name": "bad", "age": 4}},
    ]
    sent = "\n".join(map(json.dumps, operations)).encode()
    batch_id = await send(plant, sent, NDJSON)
    answer = await get(plant, batch_id, "rejected", "format=ndjson")
    added = {"error_status": 409, "error_title": "Rejected", "error_detail": "=The name is taken."}
    assert answer.lines == [{**operations[0], **added}, {"id": "2", **operations[2], **added}]
    assert table_of(await get(plant, batch_id, "rejected")) == [
        ["name", "tags", "age", *added, "error_id", "error_method", "error_path"],
        ["bad", '["x"]', "", "409", "Rejected", "'=The name is taken.", "a", "POST", "/users"],
        ["bad", "", "4", "409", "Rejected", "'=The name is taken.", "2", "PUT", "/users/7"],
    ]
    again = await send(plant, answer.content.replace(b'"bad"', b'"good"'), NDJSON)
    assert await plant.statuses(again) == {"a": 201, "2": 200}


async def test_body_that_is_null_comes_back(plant: Plant) -> None:
    operations: list[dict[str, Any]] = [
        {"method": "POST", "path": "/notes", "body": None},
        {"method": "POST", "path": "/empty"},
        {"method": "DELETE", "path": "/notes"},
    ]
    batch_id = await send(plant, "\n".join(map(json.dumps, operations)).encode(), NDJSON)
    answer = await get(plant, batch_id, "rejected", "format=ndjson")
    assert [line.get("body", "none") for line in answer.lines] == [None, None, "none"]
    assert set((await plant.statuses(await send(plant, answer.content, NDJSON))).values()) == {409}


async def test_rows_are_told_while_the_batch_runs_and_in_parts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks with follow-ups, in two groups. What is not counted is not told."""
    monkeypatch.setattr(rejected, "PART_ROWS", 2)
    monkeypatch.setattr(rejected, "TURN_BYTES", 1)
    service = await serve(Operations())
    store = service.parts.store
    batch = build_batch(128, 2, chunk_count=66, state=BatchState.PROCESSING)
    await store.create_batch(batch)

    def record(chunk_id: str, *outcomes: Mapping[str, Any]) -> ChunkRecord:
        operations = [build_operation(one["index"], body={"n": one["index"]}) for one in outcomes]
        return ChunkRecord(
            chunk_id,
            tuple(
                failed(operation, 409, "No") if one["fails"] else succeeded(operation, 200, None)
                for operation, one in zip(operations, outcomes, strict=True)
            ),
            failed_operations=tuple(
                operation for operation, one in zip(operations, outcomes, strict=True) if one["fails"]
            ),
        )

    def bad(index: int) -> Mapping[str, Any]:
        return {"index": index, "fails": True}

    counted = [record("0", bad(1)), record("0.0.1.0", bad(0)), record("1", bad(3), {"index": 2, "fails": False})]
    counted += [record("64", bad(129)), record("0.d1", {"index": 1, "fails": False})]
    for one in counted:
        await store.commit_chunk(batch, one)
        await store.count_chunk(batch, one)
    await store.commit_chunk(batch, record("65", bad(128)))
    lines = (await service.get(f"/batch/{BATCH_ID}/rejected")).lines
    assert [line["body"]["n"] for line in lines] == [0, 3, 129]


async def test_batch_without_failures_has_an_empty_file(plant: Plant) -> None:
    batch_id = await send(plant, b"name,age\nAda,\n", method="POST", path="/users")
    assert (await get(plant, batch_id, "rejected")).content == b"name,age,error_status,error_title,error_detail\r\n"
    assert (await get(plant, batch_id, "rejected", "format=ndjson")).content == b""


@pytest.mark.parametrize("query", ["format=json", "limit=1", "format="])
async def test_unknown_form_of_the_rows_is_rejected(plant: Plant, query: str) -> None:
    batch_id = await send(plant, b"name\nAda\n", method="POST", path="/users")
    assert_problem(await plant.service.get(f"/batch/{batch_id}/rejected?{query}"), 400)


async def test_rows_of_an_unknown_batch_are_not_found(plant: Plant) -> None:
    assert_problem(await plant.service.get(f"/batch/{BATCH_ID}/rejected"), 404)
