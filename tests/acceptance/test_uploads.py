"""A client sends a file directly to the bucket, and then makes a batch of it. A consumer plans a large one."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.waiting import eventually

NDJSON = "application/x-ndjson"


@pytest.mark.story("roles")
@on_any_aws
async def test_a_file_is_uploaded_with_a_form_and_run(install: Install) -> None:
    penstock = await install(LEAVE_SECONDS="0", BUCKET="uploads-of-a-test")
    await penstock.serve()

    query = {"method": "POST", "path": "/echoes", "upload": await upload(penstock, b"text\nfirst\nsecond\n")}
    batch = await submit(penstock, query, "text/csv")
    deleted = await upload_and_delete_as_openai(f"{penstock.api.url}/v1/files")

    assert batch["summary"] == {"total": 2, "succeeded": 2, "failed": 0}, batch
    assert [one["result"] for one in batch["results"]] == ["first", "second"]
    assert deleted["deleted"]


@pytest.mark.story("roles")
@on_any_aws
async def test_another_consumer_plans_the_rest_of_a_large_file_if_the_planner_is_killed(install: Install) -> None:
    """The planner is killed after the first of three groups. So nothing has run, and nothing may run twice."""
    penstock = await install(
        VISIBILITY_SECONDS="2", CHUNK_OPERATIONS="10", BACKGROUND_UPLOAD_BYTES="10000", BUCKET="large-uploads"
    )
    _, doomed = await asyncio.gather(penstock.serve(), penstock.consume())
    lines = [{"id": f"op-{number}", "method": "POST", "path": "/notes"} for number in range(1_920)]

    batch_id = (await submit(penstock, {"upload": await upload(penstock, to_lines(lines))}))["batchId"]
    await eventually(lambda: some_of_it_is_read(penstock, batch_id), poll_seconds=0)
    doomed.kill()
    await doomed.ended()
    assert (await penstock.api.status(batch_id)).status == "validating"
    await penstock.consume()
    status = await penstock.api.ended(batch_id)

    assert (status.status, status.total, status.succeeded) == ("completed", len(lines), len(lines))
    assert sorted(penstock.journal.runs().values()) == [1] * len(lines)
    results = await penstock.api.results(batch_id)
    assert [result["id"] for result in results] == [line["id"] for line in lines]


@on_any_aws
async def test_the_errors_of_a_large_file_are_told_by_line_and_nothing_runs(install: Install) -> None:
    penstock = await install(BACKGROUND_UPLOAD_BYTES="100", BUCKET="invalid-uploads")
    await asyncio.gather(penstock.serve(), penstock.consume())
    lines = to_lines([{"method": "POST", "path": "/notes"}] * 60).splitlines(keepends=True)
    lines[20:20] = [b"\n", b"no JSON\n"]
    lines[50] = b'{"method":"POST","path":"/nowhere"}\n'

    batch_id = (await submit(penstock, {"upload": await upload(penstock, b"".join(lines))}))["batchId"]
    await penstock.api.ended(batch_id)
    status = (await penstock.api.get(f"/batch/{batch_id}/status")).body

    assert (status["status"], status["total"], status["errorCount"]) == ("failed", 0, 2)
    assert status["reason"] == "The file has 2 errors; nothing was run."
    assert [(error["line"], error["pointer"]) for error in status["errors"]] == [
        (22, "/operations/20"),
        (51, "/operations/49/path"),
    ]
    assert penstock.journal.entries() == []


async def upload(penstock: Installation, content: bytes) -> str:
    """Send a file with the form of a new upload, and return the id of the upload."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{penstock.api.url}/uploads") as answer:
            made = await answer.json()
        form = aiohttp.FormData(made["fields"])
        form.add_field("file", content, filename="operations")
        async with session.post(made["url"], data=form) as answer:
            assert answer.status == 204, await answer.text()
    upload_id: str = made["uploadId"]
    return upload_id


async def upload_and_delete_as_openai(url: str) -> dict[str, Any]:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", b'{"custom_id":"1","method":"POST","url":"/echoes","body":{}}', filename="input.jsonl")
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=form) as answer:
            file = await answer.json()
        async with session.delete(f"{url}/{file['id']}") as answer:
            deleted: dict[str, Any] = await answer.json()
    return deleted


async def submit(penstock: Installation, query: dict[str, str], content_type: str = NDJSON) -> dict[str, Any]:
    headers = {"Content-Type": content_type}
    url = f"{penstock.api.url}/batch"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, params=query) as answer:
        body: dict[str, Any] = await answer.json()
    assert answer.status in {200, 202}, body
    return body


async def some_of_it_is_read(penstock: Installation, batch_id: str) -> bool:
    status = (await penstock.api.get(f"/batch/{batch_id}/status")).body
    return bool(status["status"] == "validating" and status["validation"]["operationsRead"])


def to_lines(operations: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)
