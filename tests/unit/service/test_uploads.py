"""POST /uploads, and POST /batch with an upload."""

from dataclasses import replace

import pytest

from penstock import bucket
from penstock.bucket import upload_key
from penstock.service.intake import uploaded as uploads
from penstock.service.schemas import time_text
from penstock.service.uploads import OFFER_SECONDS
from penstock.testing import FakeClock, MemoryParts
from tests.support.builders import NOW
from tests.support.faults import Moment
from tests.support.service import NDJSON, Serve, Service, assert_problem
from tests.unit.service.test_access import operations

UPLOAD_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
CSV = {"Content-Type": "text/csv"}
ROWS = "/batch?method=POST&path=/run/{name}"


async def test_an_upload_has_a_place_of_its_own_under_its_tenant(serve: Serve, clock: FakeClock) -> None:
    service = await serve(operations, clock=clock, max_upload_bytes=5_000)

    answers = [await service.ask("POST", "/uploads") for _ in range(2)]

    assert [answer.status for answer in answers] == [201, 201]
    first, second = (answer.body for answer in answers)
    assert first["uploadId"] != second["uploadId"]
    assert first["fields"] == {
        "key": f"uploads/default/{first['uploadId']}",
        "most_bytes": "5000",
        "seconds": str(OFFER_SECONDS),
    }
    assert (first["url"], first["maxBytes"]) == ("memory:", 5_000)
    assert first["expiresAt"] == time_text(NOW + OFFER_SECONDS)


def test_keys_of_two_tenants_have_nothing_in_common() -> None:
    assert upload_key("a/b", "c") == "uploads/a%2Fb/c"


async def test_without_a_bucket_the_answer_says_what_to_set(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=replace(parts, bucket=None))

    problem = assert_problem(await service.ask("POST", "/uploads"), 501)

    assert "PENSTOCK_BUCKET" in problem["detail"]


async def test_an_upload_has_no_options(serve: Serve) -> None:
    service = await serve(operations)

    assert_problem(await service.ask("POST", "/uploads?size=1"), 400)


async def uploaded(service: Service, content: bytes, tenant: str = "default") -> str:
    """Put a file where a client would have uploaded it, and return the query that names it."""
    assert service.parts.bucket is not None
    await service.parts.bucket.write(upload_key(tenant, UPLOAD_ID), content, "text/csv")
    return f"&upload={UPLOAD_ID}"


async def test_a_small_upload_is_answered_with_its_results(serve: Serve) -> None:
    service = await serve(operations)
    query = await uploaded(service, b"name\na\nb\n")

    answer = await service.ask("POST", f"{ROWS}{query}", headers=CSV)

    assert (answer.status, answer.body["summary"]) == (200, {"total": 2, "succeeded": 2, "failed": 0})
    assert [one["result"] for one in answer.body["results"]] == ["a", "b"]


async def test_a_larger_upload_runs_in_the_background(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=2, max_operations=2)
    query = await uploaded(service, b"name\na\nb\nc\n")

    answer = await service.ask("POST", f"{ROWS}{query}&metadata.team=x", headers=CSV)

    assert answer.status == 202
    status = (await service.get(answer.body["statusUrl"])).body
    assert (status["total"], status["metadata"]) == (3, {"team": "x"})


async def test_whole_operations_are_read_from_an_upload(serve: Serve) -> None:
    service = await serve(operations)
    query = await uploaded(service, b'{"method": "POST", "path": "/run/a", "id": "mine"}\n')

    answer = await service.ask("POST", f"/batch?{query}", headers={"Content-Type": NDJSON})

    assert [(one["id"], one["result"]) for one in answer.body["results"]] == [("mine", "a")]


async def test_an_upload_is_read_in_pieces_of_any_size(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "PIECE_BYTES", 5)
    monkeypatch.setattr(uploads, "READ_BYTES", 3)
    service = await serve(operations)
    query = await uploaded(service, b"name\n" + b"".join(b"%d\n" % number for number in range(50)))

    answer = await service.ask("POST", f"{ROWS}{query}", headers=CSV)

    assert [one["result"] for one in answer.body["results"]] == [str(number) for number in range(50)]


async def test_errors_in_an_upload_name_their_lines(serve: Serve) -> None:
    service = await serve(operations)
    query = await uploaded(service, b"name\na\n\xff\n")

    problem = assert_problem(await service.ask("POST", f"{ROWS}{query}", headers=CSV), 422)

    assert [error["line"] for error in problem["errors"]] == [3]


@pytest.mark.parametrize("upload_id", ["", "x", f"../default/{'0' * 26}", "0" * 26])
async def test_an_upload_that_does_not_exist_is_not_found(serve: Serve, upload_id: str) -> None:
    service = await serve(operations)

    answer = await service.ask("POST", f"{ROWS}", params={"upload": upload_id}, headers=CSV)

    assert assert_problem(answer, 404)["type"] == "urn:penstock:problem:unknown-upload"


async def test_the_upload_of_another_tenant_is_not_found(serve: Serve) -> None:
    service = await serve(operations, tenant_header="X-Tenant")
    query = await uploaded(service, b"name\na\n", "acme")

    answers = [
        await service.ask("POST", f"{ROWS}{query}", headers={**CSV, "X-Tenant": tenant}) for tenant in ("acme", "other")
    ]

    assert [answer.status for answer in answers] == [200, 404]


async def test_an_upload_that_is_replaced_while_it_is_read_is_not_run(
    serve: Serve, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PIECE_BYTES", 5)

    def replace_it(call: str, moment: Moment) -> None:
        if (call, moment) == ("bucket.read", "after"):
            assert parts.bucket is not None
            parts.bucket.contents[upload_key("default", UPLOAD_ID)] = b"name\nz\n"

    service = await serve(operations, parts=parts, watch=replace_it)
    query = await uploaded(service, b"name\na\n")

    answer = await service.ask("POST", f"{ROWS}{query}", headers=CSV)

    assert assert_problem(answer, 412)["type"] == "urn:penstock:problem:upload-replaced"


async def test_the_same_key_with_another_content_of_the_upload_is_another_request(serve: Serve) -> None:
    service = await serve(operations)
    key = {**CSV, "Idempotency-Key": "one"}
    query = await uploaded(service, b"name\na\n")
    first = [await service.ask("POST", f"{ROWS}{query}", headers=key) for _ in range(2)]
    await uploaded(service, b"name\nb\n")

    other = await service.ask("POST", f"{ROWS}{query}", headers=key)

    assert [answer.body["results"][0]["result"] for answer in first] == ["a", "a"]
    assert first[1].headers["Idempotent-Replayed"] == "true"
    assert_problem(other, 422)


async def test_a_request_with_an_upload_has_no_body(serve: Serve) -> None:
    service = await serve(operations)
    query = await uploaded(service, b"name\na\n")

    problem = assert_problem(await service.ask("POST", f"{ROWS}{query}", headers=CSV, data=b"name\nb\n"), 400)

    assert "must have no body" in problem["detail"]


async def test_an_upload_may_not_be_larger_than_a_stream(serve: Serve) -> None:
    service = await serve(operations, max_stream_bytes=1_024)
    query = await uploaded(service, b"name\n" + b"a\n" * 600)

    problem = assert_problem(await service.ask("POST", f"{ROWS}{query}", headers=CSV), 413)

    assert problem["maxBytes"] == 1_024
