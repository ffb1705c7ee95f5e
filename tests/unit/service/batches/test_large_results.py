"""Large results: a batch has them in its bucket, and its results tell them in every format."""

import json
from dataclasses import replace
from typing import Any

import pytest

from penstock import Operations
from penstock.large_results import LARGE_BYTES, MOST_BYTES_WITHOUT_BUCKET, MOST_RESULT_BYTES
from penstock.testing import MemoryBucket, TestBulk

LARGE = "x" * LARGE_BYTES

operations: Operations[Any] = Operations()


@operations.post("/text/{length}")
async def text(length: int) -> dict[str, str]:
    return {"text": "x" * length}


def post(*lengths: int) -> list[dict[str, str]]:
    return [{"method": "POST", "path": f"/text/{length}"} for length in lengths]


async def submit(bulk: TestBulk, *lengths: int) -> str:
    batch_id: str = (await bulk.submit(post(*lengths))).body["batchId"]
    await bulk.run_until_idle()
    return batch_id


async def results(bulk: TestBulk, batch_id: str, kind: str) -> bytes:
    return (await bulk.request("GET", f"/batch/{batch_id}/results?format={kind}")).content


def bucket_of(bulk: TestBulk) -> MemoryBucket:
    bucket = bulk._parts.bucket
    assert bucket is not None
    return bucket


async def test_large_results_are_read_from_the_bucket_in_every_format() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await submit(bulk, 1, LARGE_BYTES, 2)
        ndjson = [json.loads(line) for line in (await results(bulk, batch_id, "ndjson")).splitlines()]
        page = json.loads(await results(bulk, batch_id, "json"))["results"]
        csv = (await results(bulk, batch_id, "csv")).decode().splitlines()

        assert [line["result"]["text"] for line in ndjson] == ["x", LARGE, "xx"]
        assert page == ndjson
        assert csv[2] == f"1,200,,,{LARGE}"
        assert len(bucket_of(bulk).contents) == 1


async def test_a_result_that_is_gone_is_told_and_does_not_hide_the_others() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await submit(bulk, 1, LARGE_BYTES)
        bucket_of(bulk).contents.clear()
        first, gone = [json.loads(line) for line in (await results(bulk, batch_id, "ndjson")).splitlines()]

        assert first["result"] == {"text": "x"}
        assert gone["result"] is None
        assert "was deleted from the bucket" in gone["resultMissing"]
        assert gone["resultMissing"] in (await results(bulk, batch_id, "csv")).decode()


@pytest.mark.parametrize("in_background", [True, False])
@pytest.mark.parametrize(
    ("most", "has_bucket", "advice"),
    [
        (MOST_RESULT_BYTES, True, "The limit is 5,242,880 bytes."),
        (
            MOST_BYTES_WITHOUT_BUCKET,
            False,
            "The limit is 1,048,576 bytes. With a bucket (PENSTOCK_BUCKET) it is 5,242,880 bytes.",
        ),
    ],
)
async def test_a_result_above_the_limit_fails(most: int, has_bucket: bool, advice: str, in_background: bool) -> None:
    framing = len('{"text":""}')
    bulk = TestBulk(operations)
    if not has_bucket:
        bulk._parts = replace(bulk._parts, bucket=None)
    async with bulk:
        prefer = {"Prefer": "respond-async" if in_background else "wait=10"}
        answer = await bulk.post(post(most - framing, most - framing + 1), headers=prefer)
    good, bad = answer.outcomes
    assert good.succeeded
    assert bad.error == {
        "title": "Result too large",
        "detail": f"The operation was performed, but its result has {most + 1:,} bytes as JSON. {advice}",
    }
