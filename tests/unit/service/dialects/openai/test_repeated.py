"""A library repeats a request for a batch at another front end, while the first one is still at work."""

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.testing import FakeClock
from tests.support.builders import NOW
from tests.support.faults import Moment
from tests.support.plant import Plant, build_plant
from tests.unit.service.dialects.openai.conftest import EMBEDDINGS, line, operations, uploaded

REPEATED = {"x-stainless-retry-count": "1"}
LARGE = 0  # the largest file in bytes that a front end reads


class Pause:
    """Lets the front end wait at a moment of its calls: before or after each of them is one."""

    def __init__(self) -> None:
        self.skipped = 0
        self.name = ""
        self.reached = asyncio.Event()
        self.over = asyncio.Event()

    def wait_at(self, moment: int) -> None:
        self.skipped = moment
        self.reached.clear()
        self.over.clear()

    def __call__(self, call: str, moment: Moment) -> Awaitable[None] | None:
        self.skipped -= 1
        if self.skipped != -1:
            return None
        self.name = f"{moment} {call}"
        self.reached.set()
        return self._wait()

    async def _wait(self) -> None:
        await self.over.wait()


async def create(plant: Plant, file_id: str, headers: dict[str, str]) -> Any:
    body = {"input_file_id": file_id, "endpoint": EMBEDDINGS, "completion_window": "24h"}
    return await plant.service.ask("POST", "/v1/batches", json=body, headers=headers)


@pytest.mark.parametrize(("most_bytes_here", "written"), [(LARGE, "create_batch"), (1_000, "accept_new")])
async def test_only_one_batch_runs_wherever_the_first_front_end_waits(
    aiohttp_client: AiohttpClient, most_bytes_here: int, written: str
) -> None:
    pause = Pause()
    pause.wait_at(-2)  # never
    slow = await build_plant(aiohttp_client, operations, watch=pause, background_upload_bytes=most_bytes_here)
    quick = await build_plant(
        aiohttp_client, operations, parts=slow.parts, clock=slow.clock, background_upload_bytes=most_bytes_here
    )
    known: set[str] = set()
    names = []
    for moment in itertools.count():
        file_id = await uploaded(quick.service, line())
        pause.wait_at(moment)
        first, reached = asyncio.ensure_future(create(slow, file_id, {})), asyncio.ensure_future(pause.reached.wait())
        await asyncio.wait((first, reached), return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            reached.cancel()
            break
        names.append(pause.name)
        repeated = await create(quick, file_id, REPEATED)
        pause.over.set()
        await first
        await quick.work_off()
        listed = (await quick.service.get("/v1/batches?limit=100")).body["data"]
        made = [one for one in listed if one["id"] not in known]
        assert [(one["id"], one["status"]) for one in made] == [(repeated.body["id"], "completed")], pause.name
        assert first.result().status >= 409 or first.result().body["id"] == repeated.body["id"], pause.name
        known.add(repeated.body["id"])
    assert {"before store.write_entry", f"before store.{written}", f"after store.{written}"} < set(names)


async def test_first_request_that_gave_way_gets_the_batch_when_it_is_sent_again(aiohttp_client: AiohttpClient) -> None:
    """Two programs send the same file. One of them sends its request again while the other one's is under way."""
    pause = Pause()
    pause.wait_at(-2)  # never
    slow = await build_plant(aiohttp_client, operations, watch=pause)
    behind = FakeClock(NOW - 5)
    quick = await build_plant(aiohttp_client, operations, parts=slow.parts, clock=behind)
    file_id = await uploaded(quick.service, line())
    pause.wait_at(4)
    first = asyncio.ensure_future(create(slow, file_id, {}))
    await pause.reached.wait()
    assert pause.name == "before store.write_entry"
    repeated = await create(quick, file_id, REPEATED)
    pause.over.set()
    answer = await first
    assert (answer.status, answer.headers["x-should-retry"]) == (409, "true")
    assert (await create(slow, file_id, REPEATED)).body["id"] == repeated.body["id"]
    # It is a repetition of no request that follows.
    slow.clock.advance(60)
    assert (await create(slow, file_id, {})).body["id"] != repeated.body["id"]
