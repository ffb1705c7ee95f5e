"""Those who watch cost a front end little: 500 listeners and 20 open pages of the console.

Run it with `-s` to see the figures. ARCHITECTURE.md has those of a quiet machine.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import pytest

from tests.bounds.front_end import WATCHED
from tests.bounds.test_bounds import FrontEnd, running_front_end
from tests.support.service import NDJSON

pytestmark = [pytest.mark.full, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MOST_MIB = 64
MOST_TIMES_SLOWER = 2  # on a busy machine
LISTENERS = 500
PAGES = {"/console": 4, f"/console/batch/{WATCHED}": 2}  # seconds until an open page refreshes itself
PAGES_OF_EACH = 10
BATCHES = 7
LINES = b'{"method":"POST","path":"/any","body":1}\n' * 10_000


async def test_watchers_take_little_memory_and_do_not_slow_down_the_acceptance_of_a_batch(tmp_path: Path) -> None:
    async with running_front_end(tmp_path) as alone, running_front_end(tmp_path) as watched:
        await accept(alone)
        await accept(watched)
        async with watched.session.post(f"{watched.url}/probe"):  # from here on, memory is that above idle
            pass
        async with watching(watched):
            costs = [(await accept(alone), await accept(watched)) for _ in range(BATCHES)]
            async with watched.session.get(f"{watched.url}/probe") as answer:
                mib = (await answer.json())["mib"]
    (cpu_alone, seconds_alone), (cpu, seconds) = (
        (statistics.median(cpu for cpu, _ in of_one), statistics.median(seconds for _, seconds in of_one))
        for of_one in zip(*costs, strict=True)
    )
    sys.stdout.write(
        f"{mib:.0f} MiB above idle. 10,000 operations are accepted in {1_000 * seconds_alone:.0f} ms "
        f"({1_000 * cpu_alone:.0f} ms of CPU) alone, and in {1_000 * seconds:.0f} ms ({1_000 * cpu:.0f} ms) watched.\n"
    )
    assert mib <= MOST_MIB
    assert cpu <= MOST_TIMES_SLOWER * cpu_alone


async def accept(front_end: FrontEnd) -> tuple[float, float]:
    """Submit a batch. Return the CPU time that the front end has used until it was accepted, and the time."""
    cpu, start = await cpu_seconds(front_end), time.perf_counter()
    async with front_end.session.post(
        f"{front_end.url}/batch", data=BytesIO(LINES), headers={"Content-Type": NDJSON}
    ) as answer:
        assert answer.status == 202
        await answer.read()
    seconds = time.perf_counter() - start
    return await cpu_seconds(front_end) - cpu, seconds


async def cpu_seconds(front_end: FrontEnd) -> float:
    async with front_end.session.get(f"{front_end.url}/probe") as answer:
        return float((await answer.json())["cpu_seconds"])


@asynccontextmanager
async def watching(front_end: FrontEnd) -> AsyncIterator[None]:
    """Keep the streams and the pages open. Each of them has got something first."""
    is_read = [asyncio.Event() for _ in range(LISTENERS + PAGES_OF_EACH * len(PAGES))]
    watchers = [listen(front_end, one) for one in is_read[:LISTENERS]]
    paths = [path for path in PAGES for _ in range(PAGES_OF_EACH)]
    watchers += [look(front_end, path, one) for path, one in zip(paths, is_read[LISTENERS:], strict=True)]
    tasks = [asyncio.create_task(one) for one in watchers]
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(one.wait() for one in is_read))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def listen(front_end: FrontEnd, is_read: asyncio.Event) -> None:
    async with front_end.session.get(f"{front_end.url}/batch/{WATCHED}/events") as answer:
        async for _ in answer.content.iter_any():
            is_read.set()


async def look(front_end: FrontEnd, path: str, is_read: asyncio.Event) -> None:
    while True:
        async with front_end.session.get(front_end.url + path, headers={"HX-Request": "true"}) as answer:
            assert answer.status == 200
            await answer.read()
        is_read.set()
        await asyncio.sleep(PAGES[path])
