"""The page of one batch: what it shows in each state, and what its buttons do."""

import html
import json
import re
from dataclasses import replace

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations, Reject
from penstock.api_key import Scope
from penstock.batch import BatchState
from penstock.service.batches.results import Reading
from penstock.testing import FakeClock, MemoryParts
from tests.support.builders import NOW, build_batch
from tests.support.generators import are_closed, kept_generators
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import Serve
from tests.unit.service.console.conftest import Browser, text_of
from tests.unit.service.test_access import add_key

MARKUP = "<img src=x onerror=alert(1)>&\"'"


async def test_batch_is_shown_from_its_start_to_its_end(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a", "/break/b", metadata={"team": MARKUP})
    url = f"/console/batch/{batch_id}"
    queued = await browser.get(url)
    assert "queued 0 of 2 operations have finished (0 %)" in text_of(queued)
    assert "No operation has started yet." in text_of(queued)
    assert 'data-refresh="2"' in queued.content.decode()
    await plant.work_off()
    plant.clock.advance(2)
    ended = await browser.get(url)
    text = text_of(ended)
    assert "completed 2 of 2 operations have finished (100 %)" in text
    assert "Succeeded 1 Failed 1" in text
    assert f"team {MARKUP}" in text
    assert MARKUP not in ended.content.decode()
    assert "Retry 1 failed" in text


async def test_buttons_cancel_pause_resume_and_steer(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a")
    url = f"/console/batch/{batch_id}"
    page = await browser.follow(await browser.post(f"{url}/change", {"paused": "true"}))
    assert "The batch is paused." in page
    assert " Resume Cancel " in page
    assert "The batch goes on." in await browser.follow(await browser.post(f"{url}/change", {"paused": "false"}))
    changed = await browser.post(f"{url}/change", {"priority": "high"})
    assert "Priority high" in await browser.follow(changed)
    page = await browser.follow(await browser.post(f"{url}/cancel"))
    assert "The batch is cancelled." in page
    answer = await browser.post(f"{url}/change", {"priority": "high"})
    assert answer.status == 409


async def test_retry_says_how_many_run_again(plant: Plant, toys: Toys, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a", "/break/b", "/reject/c")
    await plant.work_off()
    toys.is_mended = True
    retried = await browser.post(f"/console/batch/{batch_id}/retry")
    assert "Failed operations that run again: 2." in await browser.follow(retried)
    await plant.work_off()
    plant.clock.advance(1)
    assert "Succeeded 2 Failed 1" in text_of(await browser.get(f"/console/batch/{batch_id}"))


async def test_a_cause_of_failures_has_a_button_that_retries_it(plant: Plant, toys: Toys, browser: Browser) -> None:
    batch_id = await plant.submit("/break/a", "/reject/b", "/break/c")
    await plant.work_off()
    url = f"/console/batch/{batch_id}"
    page = await browser.get(f"{url}/failures")
    assert "Retry these 2" in text_of(page)
    assert "Retry this one" in text_of(page)
    first, second = re.findall(r'name="choice" value="([^"]*)"', page.content.decode())
    assert json.loads(html.unescape(second)) == {"status": [409], "title": "Rejected"}
    toys.is_mended = True
    retried = await browser.post(f"{url}/retry", {"choice": html.unescape(first)})
    assert "Failed operations that run again: 2." in await browser.follow(retried)
    await plant.work_off()
    assert toys.times["1"] == 1
    assert (await browser.post(f"{url}/retry", {"choice": html.unescape(first)})).status == 409
    assert (await browser.post(f"{url}/retry", {"choice": "{"})).status == 400
    assert (await browser.post(f"{url}/retry", {"status": "409"})).status == 400


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        (BatchState.QUEUED, {"Pause", "Cancel"}),
        (BatchState.PROCESSING, {"Pause", "Cancel"}),
        (BatchState.CANCELLING, {"Cancel"}),
        (BatchState.COMPLETED, set()),
        (BatchState.EXPIRED, set()),
    ],
)
async def test_buttons_are_for_those_who_may_and_states_that_allow_them(
    serve: Serve, parts: MemoryParts, clock: FakeClock, state: BatchState, buttons: set[str]
) -> None:
    finished_at = None if state in {BatchState.QUEUED, BatchState.PROCESSING, BatchState.CANCELLING} else NOW
    batch = replace(build_batch(3), state=state, tenant="acme", finished_at=finished_at)
    await parts.store.create_batch(batch)
    service = await serve(Operations(), parts=parts, clock=clock, auth="keys")
    for scopes, expected in (((Scope.READ,), set()), ((Scope.READ, Scope.WRITE), buttons)):
        browser = Browser(service.client, {"penstock_key": await add_key(parts.store, *scopes)})
        page = (await browser.get(f"/console/batch/{batch.id}")).content.decode()
        assert {name for name in ("Pause", "Cancel", "Resume", "Retry") if f">{name}" in page} == expected


async def test_pages_of_a_batch_share_one_read(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a")
    assert "queued" in text_of(await browser.get(f"/console/batch/{batch_id}"))
    await plant.work_off()
    assert "queued" in text_of(await browser.get(f"/console/batch/{batch_id}"))
    plant.clock.advance(1)
    assert "completed" in text_of(await browser.get(f"/console/batch/{batch_id}"))


# --- Failures and outcomes


async def test_failures_are_grouped_with_some_of_their_operations(aiohttp_client: AiohttpClient) -> None:
    operations = Operations()

    @operations.post("/fail/{number}")
    async def fail(number: int) -> None:
        raise Reject(409 if number % 2 else 422, f"{MARKUP} {number}")

    plant = await build_plant(aiohttp_client, operations)
    browser = Browser(plant.service.client)
    batch_id = await plant.submit(*[f"/fail/{number}" for number in range(7)])
    url = f"/console/batch/{batch_id}"
    assert 'hx-trigger="refresh"' in (await browser.get(url)).content.decode().partition('id="failures"')[2][:200]
    assert "Failures by cause" not in text_of(await browser.get(f"{url}/failures"))
    await plant.work_off()
    plant.clock.advance(2)
    answer = await browser.get(f"{url}/failures")
    text = text_of(answer)
    assert "422 Rejected 4 operations" in text
    assert "409 Rejected 3 operations" in text
    assert text.index("422") < text.index("409")
    assert f"0 {MARKUP} 0" in text
    assert MARKUP not in answer.content.decode()
    assert f'href="{url}/outcomes?id=0"' in answer.content.decode()
    assert 'hx-trigger="load, refresh"' in (await browser.get(url)).content.decode()


async def test_outcomes_are_found_by_state_page_and_id(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit(*["/succeed/a"] * 40, "/reject/b")
    await plant.work_off()
    url = f"/console/batch/{batch_id}/outcomes"
    first = await browser.get(url)
    text = first.content.decode()
    assert text.count('<tr id="outcome-') == 25
    following = text.partition(f'href="{url}?')[2].partition('"')[0]
    second = (await browser.get(f"{url}?{following}")).content.decode()
    assert second.count('<tr id="outcome-') == 16
    failed = text_of(await browser.get(f"{url}?status=failed"))
    assert "40 409 Rejected Not this one." in failed
    found = await browser.get(f"{url}?id=%2030%20")
    assert found.content.decode().count('<tr id="outcome-') == 1
    assert 'id="outcome-30"' in found.content.decode()
    for unknown in ("41", "x", "-1", "9" * 30):
        assert "has an outcome yet" in text_of(await browser.get(f"{url}?id={unknown}"))


@pytest.mark.parametrize("query", ["", "?id=30"])
async def test_page_of_outcomes_reads_nothing_more(
    plant: Plant, browser: Browser, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    batch_id = await plant.submit(*["/succeed/a"] * 40)
    await plant.work_off()
    windows = kept_generators(monkeypatch, Reading, "windows")
    await browser.get(f"/console/batch/{batch_id}/outcomes{query}")
    assert are_closed(windows) == [True]


async def test_outcomes_say_whether_more_may_come_and_how_to_read_them_again(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    url = f"/console/batch/{batch_id}/outcomes?status=failed"
    content = (await browser.get(url)).content.decode()
    assert f'data-open hx-get="{url}"' in content
    await plant.work_off()
    content = (await browser.get(url)).content.decode()
    assert f'hx-get="{url}"' in content
    assert "data-open" not in content


async def test_outcome_is_found_by_the_id_that_a_client_gave(plant: Plant, browser: Browser) -> None:
    operations = [{"id": f"row <{n}>", "method": "POST", "path": f"/succeed/{n}"} for n in range(8)]
    answer = await plant.service.post(operations, {"Prefer": "respond-async"})
    batch_id = answer.body["batchId"]
    url = f"/console/batch/{batch_id}/outcomes?id=row%20%3C5%3E"
    assert "has an outcome yet" in text_of(await browser.get(url))
    await plant.work_off()
    page = await browser.get(url)
    assert 'row <5> 201 "5"' in text_of(page)
    assert b"row <5>" not in page.content


async def test_results_are_a_file(plant: Plant, browser: Browser) -> None:
    batch_id = await plant.submit("/succeed/a", "/reject/b")
    await plant.work_off()
    answer = await browser.get(f"/console/batch/{batch_id}/results?status=failed")
    assert [line["status"] for line in answer.lines] == [409]
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{batch_id}-failed.ndjson"'
    assert "Content-Disposition" not in (await browser.get("/console/batch/x/results")).headers


async def test_error_with_markup_is_text(aiohttp_client: AiohttpClient) -> None:
    operations = Operations()

    @operations.post("/fail")
    async def fail() -> None:
        raise Reject(409, MARKUP)

    plant = await build_plant(aiohttp_client, operations)
    batch_id = await plant.submit("/fail")
    await plant.work_off()
    answer = await Browser(plant.service.client).get(f"/console/batch/{batch_id}/outcomes")
    assert MARKUP in text_of(answer)
    assert b"<img src=x" not in answer.content


async def test_downloads_are_for_a_spreadsheet(plant: Plant, browser: Browser) -> None:
    headers = {"Content-Type": "text/csv", "Prefer": "respond-async"}
    query = {"method": "POST", "path": "/reject/{Zoë}-{x}"}
    answer = await plant.service.ask("POST", "/batch", params=query, data="Zoë;x\n1;=2\n".encode(), headers=headers)
    batch_id = answer.body["batchId"]
    await plant.work_off()
    page = (await browser.get(f"/console/batch/{batch_id}")).content.decode()
    url = f"/console/batch/{batch_id}"
    assert f'href="{url}/rejected?format=csv"' in page
    rejected = await browser.get(f"{url}/rejected?format=csv")
    assert rejected.headers["Content-Disposition"] == f'attachment; filename="{batch_id}-rejected.csv"'
    assert rejected.content.decode().startswith("\ufeffZoë;x;error_status;error_title;error_detail\r\n1;'=2;")
    results = await browser.get(f"{url}/results?format=csv&status=failed")
    assert results.headers["Content-Disposition"] == f'attachment; filename="{batch_id}-failed.csv"'
    assert results.content.decode().startswith("\ufeffid;status;title;detail\r\n2;")
    plain = await plant.service.get(f"/batch/{batch_id}/rejected?format=csv")
    assert plain.content == rejected.content.removeprefix(b"\xef\xbb\xbf")
