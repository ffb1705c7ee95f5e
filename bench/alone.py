"""Floor (a): one process that parses, validates, runs the same handler under a semaphore and builds the response.

It has no queue and no records, so everything is lost if it dies. Its input is `HANDLER FILE COUNT`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import to_json

from bench.application import HANDLERS, Order
from bench.bodies import JSON_OPERATIONS, json_body
from bench.commands import commands, run, say

CONCURRENCY = 10  # the default of a consumer
LINES_AT_ONCE = 10_000


class Operation(BaseModel):
    id: str | None = None
    method: Literal["POST"]
    path: str
    body: Order


class Request(BaseModel):
    operations: list[Operation]


def validated(file: Path, count: int) -> Iterator[list[Operation]]:
    """Read the operations as a client would send them: few as one JSON document, many as a stream of lines."""
    if count <= JSON_OPERATIONS:
        yield Request.model_validate_json(json_body(file)).operations
        return
    with file.open("rb") as lines:
        while operations := [Operation.model_validate_json(line) for line in islice(lines, LINES_AT_ONCE)]:
            yield operations


async def run_handlers(operations: list[Operation], handler: Callable[[Order], Awaitable[Any]]) -> bytes:
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def perform(index: int, operation: Operation) -> dict[str, Any]:
        async with semaphore:
            return {"id": operation.id or str(index), "status": 200, "result": await handler(operation.body)}

    results = await asyncio.gather(*(perform(index, operation) for index, operation in enumerate(operations)))
    return to_json({"summary": {"total": len(results)}, "results": results})


async def main_loop() -> None:
    say(ready=True)
    async for name, file, count in commands():
        began, cpu, validating = time.perf_counter(), time.process_time(), 0.0
        slices = validated(Path(file), int(count))
        while True:
            slice_began = time.perf_counter()
            operations = next(slices, None)
            validating += time.perf_counter() - slice_began
            if operations is None:
                break
            await run_handlers(operations, HANDLERS[name])
        say(
            seconds=time.perf_counter() - began,
            first_seconds=validating,
            cpu_seconds=time.process_time() - cpu,
        )


def main() -> None:
    run(main_loop())
