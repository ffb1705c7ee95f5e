"""Measure how long reads take: the status of a large and of a small batch, and a page of their results."""

import time
from statistics import median

from pydantic import BaseModel

from bench.installation import Watcher

REPEATS = 20
PAGE = 100
LONGEST_PAGE = 10_000


class Reads(BaseModel):
    """The medians. The page is the first one of the small batch, and one from the middle of the large batch."""

    server: str
    size: int
    small_size: int
    status_seconds: float
    small_status_seconds: float
    page_seconds: float
    small_page_seconds: float


async def measure_reads(watcher: Watcher, server: str, batch_ids: dict[int, str]) -> Reads:
    small, large = min(batch_ids), max(batch_ids)
    cursor = await _middle(watcher, batch_ids[large], large)
    times = await _take_turns(
        watcher,
        f"/batch/{batch_ids[large]}/status",
        f"/batch/{batch_ids[small]}/status",
        f"/batch/{batch_ids[large]}/results?limit={PAGE}{cursor}",
        f"/batch/{batch_ids[small]}/results?limit={PAGE}",
    )
    status, small_status, page, small_page = times
    return Reads(
        server=server,
        size=large,
        small_size=small,
        status_seconds=status,
        small_status_seconds=small_status,
        page_seconds=page,
        small_page_seconds=small_page,
    )


async def _middle(watcher: Watcher, batch_id: str, size: int) -> str:
    """Page to the middle and return its cursor, since only an earlier response has a cursor."""
    cursor = ""
    for _ in range(max(1, size // 2 // LONGEST_PAGE)):
        url = f"/batch/{batch_id}/results?limit={min(LONGEST_PAGE, size // 2)}{cursor}"
        async with watcher.http.get(url, headers={"Accept": "application/json"}) as answer:
            cursor = f"&cursor={(await answer.json())['nextCursor']}"
    return cursor


async def _take_turns(watcher: Watcher, *urls: str) -> list[float]:
    times: dict[str, list[float]] = {url: [] for url in urls}
    for _ in range(REPEATS):
        for url in urls:
            began = time.perf_counter()
            async with watcher.http.get(url) as answer:
                await answer.read()
                answer.raise_for_status()
            times[url].append(time.perf_counter() - began)
    return [median(taken) for taken in times.values()]
