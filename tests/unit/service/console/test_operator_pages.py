"""The pages for operators: dead letters, handlers, queues, limits and keys."""

import re

import pytest

from penstock import Limit, Operations
from penstock.api_key import Scope
from penstock.metrics.fleet import WINDOW_SECONDS, FleetFigures
from penstock.metrics.meter import Meter
from penstock.queue import Message
from penstock.testing import FakeClock, MemoryParts
from tests.support.plant import Plant
from tests.support.service import Serve
from tests.unit.service.console.conftest import Browser, text_of
from tests.unit.service.test_access import add_key


async def test_dead_letters_are_shown_by_cause_and_run_again(plant: Plant, operator: Browser) -> None:
    assert "No dead letter was found." in text_of(await operator.get("/console/dead-letters"))
    first = await plant.submit("/break/a", "/break/b", "/reject/c")
    second = await plant.submit("/break/d")
    await plant.work_off()
    await plant.parts.dead_letters.send([Message("not ours")])
    page = await operator.get("/console/dead-letters")
    text = text_of(page)
    assert "letters in the queue." in text
    assert "3 operations POST /break/a · operation 0 of" in text
    assert "Not readable" in text
    assert text.count("Run these again") == text.count("By batch") * 2 == 2
    assert page.content.decode().count("hx-confirm") == 3  # for all letters, and for each batch
    for path, fields in (("", {"batchId": second}), (f"?batch={second}", {})):
        assert (await operator.post(f"/console/dead-letters/redrive{path}", fields)).status == 400
    again = await operator.post("/console/dead-letters/redrive", {"batch": second})
    assert "moved back to the queue: 1." in await operator.follow(again)
    assert f"/console/batch/{second}" not in (await operator.get("/console/dead-letters")).content.decode()
    assert "moved back to the queue: 2." in await operator.follow(await operator.post("/console/dead-letters/redrive"))
    assert first in {message.body and first for message in plant.messages}


async def test_handlers_and_queues(plant: Plant, operator: Browser) -> None:
    text = text_of(await operator.get("/console/handlers"))
    assert "No attempt was reported." in text
    assert "The application has no limit." in text
    await plant.submit("/succeed/a")
    for process in ("first", "second"):
        meter = Meter()
        meter.succeeded("POST /succeed/{name}", 0.1)
        meter.failed("POST /succeed/{name}", 0.1)
        await FleetFigures(plant.parts.store, process, plant.clock).publish(meter.take(), 1)
    plant.clock.advance(5)
    text = text_of(await operator.get("/console/handlers"))
    assert "normal 1 chunk" in text
    paused = await operator.follow(await operator.post("/console/queues/low/pause"))
    assert "The queue is paused for all batches." in paused
    assert "low paused 0 chunks Resume" in paused
    assert "low 0 chunks Pause" in await operator.follow(await operator.post("/console/queues/low/resume"))
    assert (await operator.post("/console/queues/nothing/pause")).status == 404
    assert "POST /succeed/{name} 4 2 2 0 95.3 ms 95.3 ms 95.3 ms" in text
    plant.clock.advance(WINDOW_SECONDS)
    assert "No attempt was reported." in text_of(await operator.get("/console/handlers"))


async def test_limits(serve: Serve) -> None:
    service = await serve(Operations(limits={"stripe": Limit(rate=25, burst=5)}))
    text = text_of(await Browser(service.operators).get("/console/handlers"))
    assert "stripe 25 /s 25 /s - - - 0" in text


@pytest.fixture
async def keys(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Browser:
    service = await serve(Operations(), parts=parts, clock=clock, auth="keys")
    return Browser(service.operators, {"penstock_key": await add_key(parts.store, *Scope, tenant="operators")})


def key_in(page: str) -> str:
    [key] = re.findall(r"pk_[a-z]+_[0-9A-Za-z]{50}", page)
    return str(key)


async def test_key_is_made_shown_once_replaced_and_revoked(keys: Browser, parts: MemoryParts) -> None:
    form = [("tenant", "acme"), ("name", "<b>"), ("scope", "read"), ("scope", "write"), ("days", "30"), ("limit", "")]
    made = await keys.post("/console/keys", form)
    assert made.status == 200
    text = key_in(made.content.decode())
    page = await keys.get("/console/keys")
    assert text not in page.content.decode()
    assert "<b>" not in page.content.decode()
    assert "write, read" in text_of(page)
    [key] = [one for one in await parts.store.list_api_keys() if one.tenant == "acme"]
    assert key.scopes == {Scope.READ, Scope.WRITE}
    assert (key.limit, key.expires_at) == (None, key.created_at + 30 * 86_400)

    replaced = await keys.post(f"/console/keys/{key.id}/rotate")
    assert key_in(replaced.content.decode()) != text
    assert f"replaced by {await _replacement(parts, key.id)}" in text_of(replaced)
    assert (await keys.post(f"/console/keys/{key.id}/rotate")).status == 409
    assert "The key is revoked." in await keys.follow(await keys.post(f"/console/keys/{key.id}/revoke"))
    assert "revoked replaced by" in text_of(await keys.get("/console/keys"))


async def _replacement(parts: MemoryParts, key_id: str) -> str | None:
    key = await parts.store.read_api_key(key_id)
    assert key is not None
    return key.replaced_by


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tenant": "a b"}, "tenant Write 1 to 128 letters, digits or signs"),
        ({"scope": "everything"}, "scopes.0 Input should be"),
        ({"days": "soon"}, "expiresAt Write the time as"),
        ({"limit": "fast"}, "limit"),
        ({"maxOpen": "many"}, "maxOpen Input should be a valid integer"),
        ({"scope": "operate", "limit": "1/60"}, "A key with the scope operate has no limits."),
    ],
    ids=str,
)
async def test_form_with_an_error_makes_no_key(
    keys: Browser, parts: MemoryParts, changes: dict[str, str], words: str
) -> None:
    answer = await keys.post("/console/keys", {"tenant": "acme", "scope": "read", **changes})
    assert answer.status == 422
    assert words in text_of(answer)
    assert len(await parts.store.list_api_keys()) == 1
