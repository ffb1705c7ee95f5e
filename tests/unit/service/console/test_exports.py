"""The button that exports a batch, and the page with the files."""

import asyncio
import re
from dataclasses import replace

import pytest

from penstock import Operations
from penstock.batch import BatchState
from penstock.testing import FakeClock, MemoryBucket, MemoryParts
from tests.support.builders import NOW, build_batch
from tests.support.plant import Plant
from tests.support.service import Serve
from tests.unit.service.console.conftest import Browser, text_of


async def ended(plant: Plant) -> str:
    batch_id = await plant.submit("/succeed/a", "/break/b")
    await plant.work_off()
    return f"/console/batch/{batch_id}"


async def test_button_leads_to_the_files_with_links(plant: Plant, browser: Browser) -> None:
    url = await ended(plant)
    assert "All outcomes, as files CSV NDJSON Compressed no gzip Export" in text_of(await browser.get(url))
    made = await browser.post(f"{url}/export", {"format": "ndjson", "compression": "gzip"})
    page = await browser.get(made.headers["Location"])
    text = text_of(page)
    assert "Export as NDJSON, compressed" in text
    assert "completed 2 of 2 rows are in 1 file" in text
    assert "part-00001.ndjson.gz 2" in text
    links = re.findall(r'<a href="(memory:[^"]+)" download>', page.content.decode())
    assert [link.partition("?")[0].rpartition("/")[2] for link in links] == ["part-00001.ndjson.gz", "manifest.json"]


async def test_page_refreshes_itself_while_an_export_runs(
    plant: Plant, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.service.batches.exports.QUICK_SECONDS", 0)
    may_write, write = asyncio.Event(), MemoryBucket.write

    async def wait_and_write(self: MemoryBucket, key: str, content: bytes, content_type: str) -> None:
        await may_write.wait()
        await write(self, key, content, content_type)

    monkeypatch.setattr(MemoryBucket, "write", wait_and_write)
    made = await browser.post(f"{await ended(plant)}/export", {"format": "csv", "compression": ""})
    page = await browser.get(made.headers["Location"])
    assert "running 0 of 2 rows are in 0 files" in text_of(page)
    assert 'data-refresh="2"' in page.content.decode()

    may_write.set()
    for _ in range(1_000):
        page = await browser.get(made.headers["Location"])
        if "part-00001.csv" in text_of(page):
            break
    assert 'data-refresh="1800"' in page.content.decode()


async def test_button_is_not_there_while_the_batch_runs(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a")
    assert "Export" not in text_of(await browser.get(f"/console/batch/{batch_id}"))


async def test_button_is_not_there_without_a_bucket(serve: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    batch = replace(build_batch(3), state=BatchState.COMPLETED, finished_at=NOW)
    await parts.store.create_batch(batch)
    for bucket in (parts.bucket, None):
        service = await serve(Operations(), parts=replace(parts, bucket=bucket), clock=clock)
        page = await Browser(service.client).get(f"/console/batch/{batch.id}")
        assert (" Export " in text_of(page)) is (bucket is not None)


async def test_unknown_form_is_rejected(plant: Plant, browser: Browser) -> None:
    answer = await browser.post(f"{await ended(plant)}/export", {"format": "xml"})
    assert answer.status == 400
    assert "Invalid format" in text_of(answer)
