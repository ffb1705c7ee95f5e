"""Exports: all outcomes of a final batch as files in the bucket, made by whichever front end is asked."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiohttp import web

from penstock import Operations, Reject, zstd
from penstock.errors import Unavailable
from penstock.export import LEASE_SECONDS, MOST_PARTS, MOST_TRIES, Export, ExportPart, encode_export
from penstock.service.batches import export_files, export_run, export_urls, families
from penstock.service.batches.export_run import EXPORTING, ExportRun, Exports
from penstock.service.batches.results import Reading
from penstock.service.keys import TURNS
from penstock.testing import MemoryBucket, TestBulk
from penstock.testing.http import Answer
from tests.support.generators import are_closed, kept_generators
from tests.support.waiting import UNIT_SECONDS, settle

operations: Operations[Any] = Operations()


@operations.post("/numbers/{number}")
async def number(number: int) -> dict[str, Any]:
    if number % 3 == 2:
        raise Reject(409, "Every third.")
    return {"n": number, "text": "x" * 50}


def bucket_of(bulk: TestBulk) -> MemoryBucket:
    bucket = bulk._parts.bucket
    assert bucket is not None
    return bucket


async def run_batch(bulk: TestBulk, count: int) -> str:
    answer = await bulk.post([{"method": "POST", "path": f"/numbers/{one}"} for one in range(count)])
    batch_id: str = answer.body["batchId"]
    return batch_id


async def export(bulk: TestBulk, batch_id: str, query: str = "") -> dict[str, Any]:
    """Ask for an export until it is there."""
    answer = await bulk.request("POST", f"/batch/{batch_id}/export{query}")
    assert answer.status in {200, 202}, answer.content
    return await settled(bulk, answer)


async def settled(bulk: TestBulk, answer: Answer) -> dict[str, Any]:
    """Return the export when it no longer runs. Other threads compress its files, so that takes some time."""
    body: dict[str, Any] = answer.body
    async with asyncio.timeout(60 * UNIT_SECONDS):
        while body["status"] == "running":
            await asyncio.sleep(0.001)
            body = (await bulk.request("GET", body["url"])).body
    return body


def contents(bulk: TestBulk, made: dict[str, Any]) -> list[bytes]:
    files = bucket_of(bulk).contents
    keys = [part["url"].removeprefix("memory:").partition("?")[0] for part in made["parts"]]
    for key, part in zip(keys, made["parts"], strict=True):
        assert (len(files[key]), hashlib.sha256(files[key]).hexdigest()) == (part["bytes"], part["sha256"])
    return [files[key] for key in keys]


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with an export as soon as it has begun."""
    monkeypatch.setattr("penstock.service.batches.exports.QUICK_SECONDS", 0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part have about ten rows, and a window three."""
    monkeypatch.setattr(export_files, "PART_BYTES", 1_000)
    monkeypatch.setattr(export_files, "WINDOW_OUTCOMES", 3)
    monkeypatch.setattr(families, "WINDOW_OUTCOMES", 3)
    monkeypatch.setattr("penstock.service.batches.results.WINDOW_OUTCOMES", 3)


async def test_an_export_has_what_the_results_have() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 20)
        made = await export(bulk, batch_id)
        results = (await bulk.request("GET", f"/batch/{batch_id}/results?format=ndjson")).content

        assert contents(bulk, made) == [results]
        assert (made["status"], made["rows"], made["total"], made["bytes"]) == ("completed", 20, 20, len(results))
        assert made["parts"][0]["name"] == "part-00001.ndjson"


@pytest.mark.usefixtures("small_parts")
async def test_a_large_export_has_several_parts_and_a_manifest() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 50)
        made = await export(bulk, batch_id)
        results = (await bulk.request("GET", f"/batch/{batch_id}/results?format=ndjson")).content

        assert b"".join(contents(bulk, made)) == results
        assert len(made["parts"]) > 3
        assert max(part["bytes"] for part in made["parts"]) <= 1_000
        assert sum(part["rows"] for part in made["parts"]) == 50
        manifest_key = made["manifestUrl"].removeprefix("memory:").partition("?")[0]
        manifest = json.loads(bucket_of(bulk).contents[manifest_key])
        assert [part["sha256"] for part in manifest["parts"]] == [part["sha256"] for part in made["parts"]]
        assert not any("url" in part for part in manifest["parts"])


@pytest.mark.usefixtures("small_parts")
async def test_csv_has_the_same_columns_in_each_part() -> None:
    async with TestBulk(operations) as bulk:
        made = await export(bulk, await run_batch(bulk, 50), "?format=csv")
        parts = [part.decode().splitlines() for part in contents(bulk, made)]

    assert len(parts) > 1
    assert {part[0] for part in parts} == {"id,status,title,detail,n,text,more"}
    assert sum(len(part) - 1 for part in parts) == 50


async def test_csv_in_one_part_is_the_csv_of_the_results() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 5)
        made = await export(bulk, batch_id, "?format=csv")
        assert contents(bulk, made) == [(await bulk.request("GET", f"/batch/{batch_id}/results?format=csv")).content]


async def test_a_small_export_is_answered_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.service.batches.exports.QUICK_SECONDS", 60)
    async with TestBulk(operations) as bulk:
        answer = await bulk.request("POST", f"/batch/{await run_batch(bulk, 3)}/export")
    assert (answer.status, answer.body["status"], answer.body["rows"]) == (200, "completed", 3)


async def test_an_export_may_be_compressed_and_have_the_failures_only() -> None:
    async with TestBulk(operations) as bulk:
        made = await export(bulk, await run_batch(bulk, 9), "?compression=gzip&status=failed")
        [part] = contents(bulk, made)

    assert [json.loads(line)["id"] for line in gzip.decompress(part).splitlines()] == ["2", "5", "8"]
    assert (made["total"], made["outcomes"], made["parts"][0]["name"]) == (3, "failed", "part-00001.ndjson.gz")


async def test_the_same_request_finds_the_export_that_is_there() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 3)
        made = await export(bulk, batch_id)
        files = dict(bucket_of(bulk).contents)

        again = await bulk.request("POST", f"/batch/{batch_id}/export")
        assert (again.status, again.body["exportId"]) == (200, made["exportId"])
        assert bucket_of(bulk).contents == files
        assert (await export(bulk, batch_id, "?format=csv"))["exportId"] != made["exportId"]


async def test_files_that_were_deleted_are_made_again() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 3)
        made = await export(bulk, batch_id)
        bucket_of(bulk).contents.clear()
        again = await export(bulk, batch_id)

        assert again["exportId"] == made["exportId"]
        assert len(contents(bulk, again)) == again["rows"] // 3 == 1


@pytest.mark.usefixtures("small_parts")
async def test_an_export_with_too_many_files_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.export.MOST_PARTS", 3)
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 50)
        made = await export(bulk, batch_id)
        assert (made["status"], len(made["parts"])) == ("failed", 3)
        assert "more than 3 files" in made["error"]["detail"]
        assert (await export(bulk, batch_id, "?status=failed"))["status"] == "completed"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("query", ["", "?format=csv"])
async def test_an_export_that_ends_early_reads_nothing_more(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setattr("penstock.export.MOST_PARTS", 1)
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 50)
        lines = kept_generators(monkeypatch, ExportRun, "_lines")
        windows = kept_generators(monkeypatch, Reading, "windows")
        assert (await export(bulk, batch_id, query))["status"] == "failed"
        run = bulk._apps[0][EXPORTING]._task
        if run is not None:  # it ends a moment after its status
            await run
        assert are_closed([*lines, *windows]) == [True, True]


def test_an_export_with_the_most_files_fits_into_an_item() -> None:
    export = Export("0" * 26, "a tenant " * 20, "0" * 20, "ndjson", None, "gzip", 10**7, 0.0, 0.0, lease=12_345)
    for number in range(MOST_PARTS):
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        part = ExportPart(export.next_key(), 10_000 - number, 127_654_321 - number, sha256)
        export = msgspec.structs.replace(export, parts=(*export.parts, part), cursor="12345678.12345678")
    assert export.is_full
    assert len(zstd.compress(encode_export(export))) < 250_000


async def test_a_batch_that_runs_cannot_be_exported() -> None:
    async with TestBulk(operations) as bulk:
        answer = await bulk.submit([{"method": "POST", "path": "/numbers/1"}])
        refused = await bulk.request("POST", f"/batch/{answer.body['batchId']}/export")
    assert refused.status == 409
    assert "only a final batch can be exported" in refused.body["detail"]


@pytest.mark.parametrize(
    ("query", "word"), [("?format=xml", "format"), ("?compression=zip", "compression"), ("?limit=1", "limit")]
)
async def test_an_invalid_option_is_named(query: str, word: str) -> None:
    async with TestBulk(operations) as bulk:
        refused = await bulk.request("POST", f"/batch/{await run_batch(bulk, 1)}/export{query}")
    assert refused.status == 400
    assert word in refused.body["detail"]


async def test_an_unknown_export_is_not_found() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 1)
        for export_id in ("0" * 20, "x"):
            assert (await bulk.request("GET", f"/batch/{batch_id}/exports/{export_id}")).status == 404


async def test_without_a_bucket_the_answer_says_what_to_set() -> None:
    bulk = TestBulk(operations)
    bulk._parts = replace(bulk._parts, bucket=None)
    async with bulk:
        refused = await bulk.request("POST", f"/batch/{await run_batch(bulk, 1)}/export")
    assert refused.status == 501
    assert refused.body["detail"].startswith("There is no bucket for exports here. Read GET /batch/{id}/results.")
    assert "PENSTOCK_BUCKET" in refused.body["detail"]


class DyingBucket(MemoryBucket):
    """Stops answering after some files, until it is repaired."""

    def __init__(self, files: int, error: type[Exception] = Unavailable) -> None:
        super().__init__()
        self.left: int | None = files
        self._error = error

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        if self.left == 0:
            raise self._error("down")
        self.left = None if self.left is None else self.left - 1
        await super().write(key, content, content_type)


@pytest.mark.usefixtures("small_parts")
async def test_an_interrupted_export_goes_on_after_its_last_part() -> None:
    bulk, bucket = TestBulk(operations), DyingBucket(2)
    bulk._parts = replace(bulk._parts, bucket=bucket)
    async with bulk:
        batch_id = await run_batch(bulk, 50)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        for _ in range(20):
            await asyncio.sleep(0)
            answer = await bulk.request("GET", answer.body["url"])
        assert answer.body["status"] == "running"
        first = [part["sha256"] for part in answer.body["parts"]]
        assert len(first) == 2
        assert not any("url" in part for part in answer.body["parts"])

        bucket.left = None
        made = await settled(bulk, answer)
        assert [part["sha256"] for part in made["parts"]][:2] == first
        results = (await bulk.request("GET", f"/batch/{batch_id}/results?format=ndjson")).content
        assert b"".join(contents(bulk, made)) == results


class SlowBucket(MemoryBucket):
    """Lets the third file wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        if len(self.contents) == 2 and not self.waits.is_set():
            self.waits.set()
            await self.may_go_on.wait()
        await super().write(key, content, content_type)


@pytest.mark.usefixtures("small_parts")
async def test_a_front_end_that_has_lost_its_lease_adds_nothing() -> None:
    bulk, bucket = TestBulk(operations), SlowBucket()
    bulk._parts = replace(bulk._parts, bucket=bucket)
    async with bulk:
        batch_id = await run_batch(bulk, 50)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        await bucket.waits.wait()
        batch = await bulk._parts.store.read_batch(batch_id)
        assert batch is not None
        export_id, exports = answer.body["exportId"], bulk._parts.store._exports

        other = Exports(bulk._apps[0])
        assert (await other.go_on(batch, exports[batch_id, export_id])).lease == 1
        bulk.clock.advance(LEASE_SECONDS)
        assert (await other.go_on(batch, exports[batch_id, export_id])).lease == 2
        bucket.may_go_on.set()
        made = await settled(bulk, answer)

        results = (await bulk.request("GET", f"/batch/{batch_id}/results?format=ndjson")).content
        assert b"".join(contents(bulk, made)) == results
        leases = [part.key.split("/")[-2] for part in exports[batch_id, export_id].parts]
        assert leases == ["1", "1", *["2"] * (len(leases) - 2)]
        assert any("/1/part-00003" in key for key in bucket.contents)  # of the first front end, and nobody refers to it


async def test_a_long_scan_for_a_few_rows_keeps_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "BEAT_SECONDS", 0)
    join, may_find = export_files.lines_of, asyncio.Event()

    async def scan(windows: AsyncIterator[tuple[int, families.Window]]) -> AsyncIterator[export_files.Lines]:
        await may_find.wait()
        async for lines in join(windows):
            yield lines

    monkeypatch.setattr(export_run, "lines_of", scan)
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 9)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export?status=failed")
        batch, exports = await bulk._parts.store.read_batch(batch_id), bulk._parts.store._exports
        key, other = (batch_id, answer.body["exportId"]), Exports(bulk._apps[0])
        assert batch is not None
        for _ in range(3):
            bulk.clock.advance(LEASE_SECONDS / 2 + 1)
            await settle()
            assert (await other.go_on(batch, exports[key])).lease == 1
        may_find.set()
        assert (await settled(bulk, answer))["rows"] == 3
        assert exports[key].lease == 1


async def test_an_export_that_always_breaks_fails_and_may_be_asked_for_again() -> None:
    bulk, bucket = TestBulk(operations), DyingBucket(0, ZeroDivisionError)
    bulk._parts = replace(bulk._parts, bucket=bucket)
    async with bulk:
        batch_id = await run_batch(bulk, 3)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        for _ in range(MOST_TRIES):
            for _ in range(50):
                await asyncio.sleep(0)
            bulk.clock.advance(LEASE_SECONDS)
            answer = await bulk.request("GET", answer.body["url"])
        assert answer.body["status"] == "failed"
        assert "Ask for it again" in answer.body["error"]["detail"]

        bucket.left = None
        assert (await export(bulk, batch_id))["status"] == "completed"


async def test_a_front_end_that_stops_leaves_its_export() -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 3)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        await bulk._apps[0][EXPORTING].close()
        left = bulk._parts.store._exports[batch_id, answer.body["exportId"]]
        assert left.may_be_claimed(bulk.clock.now())
        again = await bulk.request("GET", answer.body["url"])
        assert (again.body["status"], left.rows) == ("running", 0)


async def test_a_front_end_that_stops_while_it_claims_an_export_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestBulk(operations) as bulk:
        batch_id = await run_batch(bulk, 3)
        exporting, real = bulk._apps[0][EXPORTING], export_run.write

        async def write(app: web.Application, export: Export, seen: Export | None) -> Export | None:
            written = await real(app, export, seen)
            await exporting.close()
            return written

        monkeypatch.setattr(export_run, "write", write)
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        left = bulk._parts.store._exports[batch_id, answer.body["exportId"]]
        assert (left.lease, left.rows, left.may_be_claimed(bulk.clock.now())) == (1, 0, True)


async def test_an_export_that_begins_when_another_one_ends_keeps_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestBulk(operations) as bulk:
        exporting, store = bulk._apps[0][EXPORTING], bulk._parts.store
        exporting._is_busy = True
        for _ in range(2):
            await bulk.request("POST", f"/batch/{await run_batch(bulk, 3)}/export")
        exporting._is_busy = False
        batches = [await store.read_batch(batch_id) for batch_id, _ in store._exports]
        (first, first_export), (second, second_export) = zip(batches, list(store._exports.values()), strict=True)
        assert first is not None
        assert second is not None

        async def go_on_next() -> None:
            for _ in range(1_000):
                if not exporting._is_busy:
                    break
                await asyncio.sleep(0)
            await exporting.go_on(second, second_export)

        write, places = export_run.write, list[bool]()

        async def slowly(app: web.Application, export: Export, seen: Export | None) -> Export | None:
            for _ in range(3):
                await asyncio.sleep(0)
                places.append(exporting._is_busy)
            return await write(app, export, seen)

        monkeypatch.setattr(export_run, "write", slowly)
        await asyncio.gather(exporting.go_on(first, first_export, 60), go_on_next())
        assert all(places)


class Reasons:
    """An application whose only operation fails, each time for the reason that the test has set."""

    def __init__(self) -> None:
        self.reason = "first"
        self.operations: Operations[Any] = Operations()

        @self.operations.post("/x")
        async def fail() -> None:
            raise Reject(409, self.reason)


async def retry(bulk: TestBulk, batch_id: str) -> None:
    bulk.clock.advance(1)
    await bulk.request("POST", f"/batch/{batch_id}/retry")
    await bulk.run_until_idle()


async def test_a_retry_that_fails_for_another_reason_has_another_export() -> None:
    app = Reasons()
    async with TestBulk(app.operations) as bulk:
        batch_id = (await bulk.submit([{"method": "POST", "path": "/x"}])).body["batchId"]
        await bulk.run_until_idle()
        before = await export(bulk, batch_id)
        app.reason = "second"
        await retry(bulk, batch_id)
        [file] = contents(bulk, await export(bulk, batch_id))

        assert b"second" in file
        assert b"first" in contents(bulk, before)[0]


async def test_an_export_of_before_and_after_a_retry_fails() -> None:
    app, bucket = Reasons(), DyingBucket(0)
    bulk = TestBulk(app.operations)
    bulk._parts = replace(bulk._parts, bucket=bucket)
    async with bulk:
        batch_id = (await bulk.submit([{"method": "POST", "path": "/x"}])).body["batchId"]
        await bulk.run_until_idle()
        answer = await bulk.request("POST", f"/batch/{batch_id}/export")
        await retry(bulk, batch_id)
        bucket.left = None
        made = await settled(bulk, answer)

        assert made["status"] == "failed"
        assert "was retried while it was exported" in made["error"]["detail"]
        assert (await export(bulk, batch_id))["status"] == "completed"


@pytest.mark.usefixtures("small_parts")
async def test_the_urls_of_many_files_are_signed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_urls, "SIGNED_IN_TURN", 2)
    async with TestBulk(operations) as bulk:
        made = await export(bulk, await run_batch(bulk, 50))
        taken, turns = list[None](), bulk._apps[0][TURNS]
        take = turns.next

        async def note() -> None:
            taken.append(None)
            await take()

        monkeypatch.setattr(turns, "next", note)
        kept = (await bulk.request("GET", made["url"])).body
        assert (kept, len(taken)) == (made, 0)
        bulk.clock.advance(export_urls.KEPT_SECONDS)
        new = (await bulk.request("GET", made["url"])).body
        assert len(taken) == -(-(1 + len(made["parts"])) // 2) > 1
        assert new["urlsExpireAt"] > kept["urlsExpireAt"]
