"""Files: upload, list, look at, read and delete, as OpenAI's clients do."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.service.dialects.openai import checking, files
from penstock.service.dialects.openai.input_file import operations_key
from penstock.service.dialects.openai.lines import EMPTY_FILE, INVALID_JSON, TOO_MANY
from penstock.testing import FakeClock, MemoryParts
from tests.support.builders import NOW
from tests.support.service import Serve, Service
from tests.unit.service.dialects.openai.conftest import assert_error, jsonl, line, operations, upload, uploaded

DAY = 86_400


async def test_uploaded_file_is_described_as_openai_does(service: Service) -> None:
    content = jsonl(line("a"), line("b"))
    answer = await upload(service, content, filename="my-input.jsonl")
    assert answer.status == 200
    assert answer.body == {
        "id": answer.body["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": int(NOW),
        "expires_at": int(NOW) + 7 * DAY,
        "filename": "my-input.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert answer.body["id"].startswith("file-")
    assert len(answer.body["id"]) <= 64
    assert (await service.get(f"/v1/files/{answer.body['id']}")).body == answer.body


async def test_file_may_come_before_the_other_fields(service: Service) -> None:
    answer = await upload(service, jsonl(line()), is_file_first=True)
    assert (answer.status, answer.body["status"]) == (200, "processed")


async def test_content_is_returned_as_it_came(service: Service) -> None:
    content = b"\xef\xbb\xbf" + jsonl(line("a")) + b"\r\n \n" + jsonl(line("b")).strip()
    answer = await upload(service, content)
    assert answer.body["status"] == "processed"
    read = await service.get(f"/v1/files/{answer.body['id']}/content", Accept="application/binary")
    assert (read.status, read.content) == (200, content)


async def test_operations_keep_the_numbers_of_their_lines(service: Service, parts: MemoryParts) -> None:
    file_id = await uploaded(service, line("a"), b"", b" ", line("b", method="GET", url="/v1/embeddings"), line("c"))
    assert (await service.get(f"/v1/files/{file_id}")).body["status"] == "error"  # there is no GET
    file_id = await uploaded(service, line("a"), b"", b" ", line("b"))
    assert parts.bucket is not None
    lines = parts.bucket.contents[operations_key("default", file_id)].split(b"\n")
    assert [bool(one) for one in lines] == [True, False, False, True, False]
    assert lines[3] == b'{"id":"b","method":"POST","path":"/v1/embeddings","body":{"model":"m","input":"text"}}'


@pytest.mark.parametrize(
    ("lines", "details"),
    [
        ([line("a"), b"{"], "Line 2: This line is not parseable as valid JSON."),
        ([line("a"), line("b"), line("a")], "Line 3: The custom_id 'a' is used in line 1 already."),
        ([line("a", url="/v1/chat")], "Line 1: There is no operation POST /v1/chat."),
        ([line("a", body={"model": "m"})], "Line 1: Field required"),
        ([line("a", body=None)], "Line 1: Missing required parameter: 'body'."),
        ([], "The file has no lines."),
        ([b"{"] * 5, "There are 2 more errors."),
    ],
)
async def test_file_with_wrong_lines_is_kept_with_its_errors(service: Service, lines: list[Any], details: str) -> None:
    answer = await upload(service, jsonl(*lines))
    assert (answer.status, answer.body["status"]) == (200, "error")
    assert details in answer.body["status_details"]
    assert (await service.get(f"/v1/files/{answer.body['id']}")).body == answer.body
    assert (await service.get(f"/v1/files/{answer.body['id']}/content")).content == jsonl(*lines)


async def test_file_with_wrong_lines_has_no_operations(service: Service, parts: MemoryParts) -> None:
    await uploaded(service, line("a"), b"{")
    assert parts.bucket is not None
    assert len(parts.bucket.contents) == 1


@pytest.mark.parametrize(
    ("content", "settings", "code"),
    [
        (jsonl(line("a"), line("b"), line("c")), {"max_stream_operations": 2}, TOO_MANY),
        (b"\n" * 5, {"max_stream_operations": 2}, TOO_MANY),
        (b"{" + b" " * 30_000, {"message_bytes": 4_096}, INVALID_JSON),
        (b'{"a":[' + b"1," * 2_000, {"max_elements": 1_000}, INVALID_JSON),
        (b"", {}, EMPTY_FILE),
    ],
)
async def test_limits_are_errors_of_the_file(
    serve: Serve, parts: MemoryParts, content: bytes, settings: dict[str, Any], code: str
) -> None:
    service = await serve(operations, parts=parts, **settings)
    answer = await upload(service, content)
    assert (answer.status, answer.body["status"]) == (200, "error")
    [entry] = await parts.store.list_entries("openai-file", "default", None, 1, now=NOW)
    assert [error["code"] for error in entry.content["errors"]] == [code]


async def test_very_many_errors_end_the_check_and_not_the_upload(
    service: Service, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MOST_FOUND", 150)
    content = jsonl(*[b"{"] * 1_000)
    answer = await upload(service, content)
    assert answer.body["bytes"] == len(content)
    [entry] = await parts.store.list_entries("openai-file", "default", None, 1, now=NOW)
    assert (entry.content["error_count"], len(entry.content["errors"])) == (150, 100)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch", "color": "red"}, "color"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[seconds]": "60"}, "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[seconds]": "2592001"}, "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[seconds]": "1e9"}, "expires_after[seconds]"),
    ],
)
@pytest.mark.parametrize("is_file_first", [False, True])
async def test_wrong_field_is_rejected_and_nothing_is_kept(
    service: Service, parts: MemoryParts, fields: dict[str, str], param: str, is_file_first: bool
) -> None:
    assert_error(await upload(service, jsonl(line()), fields, is_file_first=is_file_first), 400, param)
    assert parts.bucket is not None
    assert not parts.bucket.contents
    assert (await service.get("/v1/files")).body["data"] == []


async def test_form_without_a_file_is_rejected(service: Service) -> None:
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    only_purpose = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    answer = await service.ask("POST", "/v1/files", data=only_purpose, headers=boundary)
    assert "'file'" in assert_error(answer, 400, "file")


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data", 400),
        (b"nothing", "multipart/form-data; boundary=x", 400),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n{', "multipart/form-data; boundary=x", 400),
        (b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"b" * 5_000 + b"\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b"--x\r\nContent-Disposition: form-data; name*0=a'b\r\n\r\nbatch\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b"--x\r\nContent-Disposition: form-data; name=file; filename*0=a'b\r\n\r\n{}\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            400,
        ),
    ],
)
async def test_unreadable_form_is_rejected(service: Service, content: bytes, content_type: str, status: int) -> None:
    answer = await service.ask("POST", "/v1/files", data=content, headers={"Content-Type": content_type})
    assert_error(answer, status)
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("before", [b"\n" * 1_001, b"\r\n" * 1_001, b"x" * 1_023 + b"\n" + b"x" * 70_000 + b"\n"])
async def test_form_that_does_not_begin_is_not_searched_for_its_beginning(service: Service, before: bytes) -> None:
    form = before + b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await service.ask("POST", "/v1/files", data=form, headers=headers)
    assert "outside of its fields" in assert_error(answer, 400)
    answer = await service.ask("POST", "/v1/files", data=form.removeprefix(before), headers=headers)
    assert_error(answer, 400, "file")


async def test_file_that_is_too_large_is_rejected_and_not_kept(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts, max_stream_bytes=1_024)
    message = assert_error(await upload(service, b" " * 1_025), 413)
    assert "1,024 bytes" in message
    assert parts.bucket is not None
    assert not parts.bucket.contents


async def test_without_a_bucket_the_error_says_what_to_set(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=replace(parts, bucket=None))
    answer = await upload(service, jsonl(line()))
    assert "PENSTOCK_BUCKET" in assert_error(answer, 501)
    assert answer.headers["x-should-retry"] == "false"


async def test_files_are_listed_page_by_page_in_both_orders(service: Service) -> None:
    ids = sorted([await uploaded(service, line()) for _ in range(5)], reverse=True)
    first = (await service.get("/v1/files?limit=2")).body
    assert [one["id"] for one in first["data"]] == ids[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    last = (await service.get(f"/v1/files?limit=10&after={ids[3]}")).body
    assert ([one["id"] for one in last["data"]], last["has_more"]) == (ids[4:], False)
    upwards = (await service.get("/v1/files?order=asc&limit=4&purpose=batch")).body
    assert [one["id"] for one in upwards["data"]] == ids[:0:-1]
    empty = (await service.get(f"/v1/files?after={ids[4]}")).body
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await service.get("/v1/files?purpose=fine-tune")).body["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("order=up", "order"), ("x=1", "x"), ("after=x", "after")],
)
async def test_wrong_query_of_a_list_is_rejected(service: Service, query: str, param: str) -> None:
    assert_error(await service.get(f"/v1/files?{query}"), 400, param)


async def test_page_ends_although_more_was_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_FILES", 2)
    for _ in range(3):
        await uploaded(service, line())
    page = (await service.get("/v1/files")).body
    assert (len(page["data"]), page["has_more"]) == (2, True)


async def test_list_reads_many_deleted_files_at_once(
    service: Service, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, *deleted = [await uploaded(service, line()) for _ in range(8)]
    for file_id in deleted:
        await service.ask("DELETE", f"/v1/files/{file_id}")
    calls: list[int] = []
    list_entries = parts.store.list_entries

    async def count(*args: Any, **more: Any) -> Any:
        calls.append(1)
        return await list_entries(*args, **more)

    monkeypatch.setattr(parts.store, "list_entries", count)
    page = (await service.get("/v1/files?limit=1")).body
    assert ([one["id"] for one in page["data"]], page["has_more"], len(calls)) == ([kept], False, 1)


async def test_deleted_file_is_gone_with_its_contents(service: Service, parts: MemoryParts) -> None:
    kept, deleted = await uploaded(service, line()), await uploaded(service, line())
    answer = await service.ask("DELETE", f"/v1/files/{deleted}")
    assert answer.body == {"id": deleted, "object": "file", "deleted": True}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert_error(await service.ask(method, f"/v1/files/{deleted}{path}"), 404, "id")
    assert [one["id"] for one in (await service.get("/v1/files?limit=1")).body["data"]] == [kept]
    assert parts.bucket is not None
    assert not [key for key in parts.bucket.contents if deleted in key]


async def test_file_expires_when_its_client_says_so(service: Service, clock: FakeClock) -> None:
    fields = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    answer = await upload(service, jsonl(line()), fields)
    assert answer.body["expires_at"] == int(NOW) + 3_600
    clock.advance(3_599)
    assert (await service.get(f"/v1/files/{answer.body['id']}")).status == 200
    clock.advance(2)
    assert_error(await service.get(f"/v1/files/{answer.body['id']}"), 404, "id")
    assert (await service.get("/v1/files")).body["data"] == []


@pytest.mark.parametrize("file_id", ["file-x", "x", "file-" + "0" * 26, "..%2Fsecret"])
async def test_unknown_file_is_not_found(service: Service, file_id: str) -> None:
    assert "No such File" in assert_error(await service.get(f"/v1/files/{file_id}"), 404, "id")


async def test_files_of_another_tenant_do_not_exist(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts, tenant_header="X-Tenant")
    answer = await upload(service, jsonl(line()), headers={"X-Tenant": "acme"})
    path = f"/v1/files/{answer.body['id']}"
    assert (await service.get(path, **{"X-Tenant": "acme"})).status == 200
    assert_error(await service.get(path, **{"X-Tenant": "other"}), 404, "id")
    assert (await service.get("/v1/files", **{"X-Tenant": "other"})).body["data"] == []


async def test_other_parts_of_the_api_say_what_is_offered(service: Service) -> None:
    answer = await service.ask("POST", "/v1/chat/completions", json={})
    message = assert_error(answer, 404)
    assert "/v1/files and /v1/batches" in message
    assert "POST /batch" not in message


async def test_key_is_needed_as_for_other_endpoints(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts, auth="keys")
    answer = await service.get("/v1/files")
    assert "pk_" in assert_error(answer, 401)
    assert answer.body["error"]["code"] == "invalid_api_key"
    answer = await service.get("/v1/webhook_endpoints")
    assert answer.headers["Content-Type"] == "application/problem+json"
