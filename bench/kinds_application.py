"""Handlers of every kind for the same two pieces of work: to wait for 5 ms, and to compute for about 5 ms."""

import asyncio
import time

from pydantic import BaseModel

from penstock import Operations

WAIT_SECONDS = 0.005
ROW_SECONDS = 0.00005  # the additional time for each row of a bulk statement
ROUNDS = 60_000

operations = Operations()


class Item(BaseModel):
    n: int


def compute(item: Item) -> int:
    """Compute in pure Python, so that a thread blocks the other threads of its process."""
    return sum(number * number for number in range(item.n, item.n + ROUNDS))


@operations.post("/wait/loop")
async def wait_on_loop(item: Item) -> int:
    await asyncio.sleep(WAIT_SECONDS)
    return item.n


@operations.post("/wait/thread")
def wait_in_thread(item: Item) -> int:
    time.sleep(WAIT_SECONDS)
    return item.n


@operations.post("/wait/process", cpu_bound=True)
def wait_in_process(item: Item) -> int:
    time.sleep(WAIT_SECONDS)
    return item.n


@operations.post("/wait/bulk", bulk=True)
async def wait_for_all(items: list[Item]) -> list[int]:
    await asyncio.sleep(WAIT_SECONDS + ROW_SECONDS * len(items))
    return [item.n for item in items]


@operations.post("/compute/loop")
async def compute_on_loop(item: Item) -> int:
    return compute(item)


@operations.post("/compute/thread")
def compute_in_thread(item: Item) -> int:
    return compute(item)


@operations.post("/compute/process", cpu_bound=True)
def compute_in_process(item: Item) -> int:
    return compute(item)


@operations.post("/compute/bulk", bulk=True)
def compute_all(items: list[Item]) -> list[int]:
    return [compute(item) for item in items]
