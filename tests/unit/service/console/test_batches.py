"""The list of batches: its rows stay where they are, new batches are announced, and filters and pages work."""

import re
from typing import Any

from penstock import Operations
from penstock.api_key import Scope
from penstock.service.console.batches import SHOWN
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.plant import Plant
from tests.support.service import Serve
from tests.unit.service.console.conftest import Browser, text_of
from tests.unit.service.test_access import add_key


def rows(answer: Answer) -> list[str]:
    return re.findall(r'<tr id="row-(\w+)"', answer.content.decode())


def link(answer: Answer, name: str) -> str:
    [url] = re.findall(rf'href="([^"]+)"[^>]*>{name}', answer.content.decode())
    return str(url).replace("&amp;", "&")


def refresh(answer: Answer) -> str:
    [url] = re.findall(r'<div id="live" hx-get="([^"]+)"', answer.content.decode())
    return str(url).replace("&amp;", "&")


async def submit(plant: Plant, *paths: str, **members: Any) -> str:
    """Submit a batch a moment later, so that the order of the list is known and nothing is shared."""
    plant.clock.advance(3)
    return await plant.submit(*paths, **members)


async def test_list_that_is_empty_says_what_to_do(browser: Browser) -> None:
    assert "There is no batch yet. Send a file , or post one to /batch ." in text_of(await browser.get("/console"))
    assert "No batch matches these filters." in text_of(await browser.get("/console?status=failed"))


async def test_rows_stay_and_new_batches_are_announced(plant: Plant, browser: Browser) -> None:
    old = [await submit(plant, "/succeed/a") for _ in range(2)][::-1]
    page = await browser.get("/console")
    assert rows(page) == old
    assert "new batch" not in text_of(page)
    new = await submit(plant, "/break/b")
    await plant.work_off()
    plant.clock.advance(3)
    page = await browser.get(refresh(page))
    assert rows(page) == old
    assert "1 new batch: show" in text_of(page)
    assert "completed" in text_of(page)
    newest = await browser.get(link(page, "1 new batch"))
    assert rows(newest) == [new, *old]
    assert "failed" in text_of(newest)
    await submit(plant, "/succeed/a")
    await submit(plant, "/succeed/a")
    plant.clock.advance(3)
    assert "2 new batches: show" in text_of(await browser.get(refresh(newest)))


async def test_filters(plant: Plant, browser: Browser) -> None:
    sales = await submit(plant, "/succeed/a", metadata={"team": "<sales>"}, priority="high")
    other = await submit(plant, "/reject/b")
    for query, found in (
        ("status=queued", [other, sales]),
        ("status=nothing", [other, sales]),
        ("priority=high", [sales]),
        ("label=team%3D%3Csales%3E", [sales]),
        ("label=team%3Dothers", []),
        ("status=failed", []),
    ):
        page = await browser.get(f"/console?{query}")
        assert rows(page) == found, query
        assert b"<sales>" not in page.content
    assert "team: <sales>" in text_of(await browser.get("/console"))
    for batch_id, path in ((f" {sales} ", f"/console/batch/{sales}"), ("//evil", "/console/batch/-")):
        answer = await browser.get(f"/console?id={batch_id}")
        assert (answer.status, answer.headers["Location"]) == (303, path)


async def test_older_batches_are_on_further_pages(plant: Plant, browser: Browser) -> None:
    ids = [await plant.submit("/succeed/a") for _ in range(SHOWN + 2)]
    plant.clock.advance(3)
    first = await browser.get("/console?priority=normal")
    older = await browser.get(link(first, "Older"))
    assert sorted(rows(first) + rows(older)) == sorted(ids)
    assert len(rows(first)) == SHOWN
    assert rows(await browser.get(refresh(older))) == rows(older)
    assert link(older, "Newest") == "/console?priority=normal"


async def test_tenant_sees_its_batches_and_operators_see_all(
    serve: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    operations = Operations()

    @operations.post("/run")
    async def run() -> None: ...

    service = await serve(operations, parts=parts, clock=clock, auth="keys")
    ids = {}
    for tenant in ("acme", "other"):
        key = await add_key(parts.store, Scope.WRITE, tenant=tenant)
        headers = {"Authorization": f"Bearer {key}", "Prefer": "respond-async"}
        ids[tenant] = (await service.post([{"method": "POST", "path": "/run"}], headers)).body["batchId"]

    async def seen(*scopes: Scope, query: str = "") -> set[str]:
        browser = Browser(service.client, {"penstock_key": await add_key(parts.store, *scopes)})
        return set(rows(await browser.get(f"/console{query}")))

    assert await seen(Scope.READ) == {ids["acme"]}
    assert await seen(Scope.READ, query="?tenant=other") == {ids["acme"]}
    assert await seen(Scope.READ, Scope.OPERATE) == {ids["acme"], ids["other"]}
    assert await seen(Scope.READ, Scope.OPERATE, query="?tenant=other") == {ids["other"]}


async def test_url_that_makes_no_sense_is_no_error(browser: Browser) -> None:
    for query in ("upto=x", "before=x", "before=1.x&upto=9.y", "tenant=%00", "label=%3D", "id="):
        assert (await browser.get(f"/console?{query}")).status == 200
