"""A client sends a file directly to the bucket, and then makes a batch of it."""

from typing import Any

import aiohttp
import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws


@pytest.mark.story("roles")
@on_any_aws
async def test_a_file_is_uploaded_with_a_form_and_run(install: Install) -> None:
    penstock = await install(LEAVE_SECONDS="0", BUCKET="uploads-of-a-test")
    await penstock.serve()
    url = f"http://127.0.0.1:{penstock.port}"

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/uploads") as answer:
            upload = await answer.json()
        form = aiohttp.FormData(upload["fields"])
        form.add_field("file", b"text\nfirst\nsecond\n", filename="texts.csv")
        async with session.post(upload["url"], data=form) as answer:
            assert answer.status == 204
        query = {"method": "POST", "path": "/echoes", "upload": upload["uploadId"]}
        async with session.post(f"{url}/batch", params=query, headers={"Content-Type": "text/csv"}) as answer:
            batch = await answer.json()
        deleted = await upload_and_delete_as_openai(session, f"{url}/v1/files")

    assert batch["summary"] == {"total": 2, "succeeded": 2, "failed": 0}, batch
    assert [one["result"] for one in batch["results"]] == ["first", "second"]
    assert deleted["deleted"]


async def upload_and_delete_as_openai(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", b'{"custom_id":"1","method":"POST","url":"/echoes","body":{}}', filename="input.jsonl")
    async with session.post(url, data=form) as answer:
        file = await answer.json()
    async with session.delete(f"{url}/{file['id']}") as answer:
        deleted: dict[str, Any] = await answer.json()
    return deleted
