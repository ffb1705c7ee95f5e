"""`python -m bench.heaps`: compare the heap of a front end and a consumer after some batches and after many.

Both run in this process, on the embedded AWS in another one. It prints each type and each container of which there are
more after many batches. What grows with the number of batches is a leak. A consumer remembers up to 1,000 batches.
"""

import argparse
import asyncio
import gc
import os
import sys
from collections import Counter, deque
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from bench.servers import EMBEDDED, start_servers
from penstock import Operations
from penstock.aws.backend import open_backend
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.infra.provision import provision
from penstock.service.app import create_app
from penstock.settings import Settings
from penstock.telemetry import configure_logging

AT_ONCE = 20
SETTINGS: dict[str, Any] = {"name": "heaps", "access_log": False, "tenant_header": "X-Tenant", "log_level": "error"}
FEWEST = 50  # more objects of a type than that are a leak, if there are hundreds of batches more

operations: Operations[Any] = Operations()


@operations.post("/items/{name}")
async def make_item(name: str) -> dict[str, str]:
    return {"name": name}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.heaps", description=__doc__)
    parser.add_argument("--few", type=int, default=2_000, help="batches before the first comparison")
    parser.add_argument("--many", type=int, default=10_000, help="batches before the second comparison")
    parser.add_argument("--background", action="store_true", help="let the consumer run the batches")
    arguments = parser.parse_args()
    configure_logging(Settings(**SETTINGS), "bench")
    with start_servers(EMBEDDED) as servers:
        os.environ.update(servers.environment)
        provision(Settings(**SETTINGS))
        asyncio.run(_compare(arguments.few, arguments.many, is_small=not arguments.background))


async def _compare(few: int, many: int, *, is_small: bool) -> None:
    settings, clock = Settings(**SETTINGS), SystemClock()
    async with open_backend(settings, None) as backend:
        consumer = Consumer(backend, operations, settings, clock)
        consuming = asyncio.create_task(consumer.run())
        server = TestServer(create_app(settings, operations, backend, clock))
        await server.start_server()
        async with aiohttp.ClientSession(server.make_url("/")) as http:
            await _submit(http, range(few), is_small=is_small)
            before = _census()
            await _submit(http, range(few, many), is_small=is_small)
            after = _census()
        for name, count in (after - before).most_common(40):
            if count > FEWEST:
                sys.stdout.write(f"{count:>8,} more: {name}\n")
        consumer.stop()
        await consuming
        await server.close()


async def _submit(http: aiohttp.ClientSession, numbers: range, *, is_small: bool) -> None:
    left = iter(numbers)

    async def submit_some() -> None:
        for number in left:
            await _submit_one(http, number, is_small=is_small)

    await asyncio.gather(*(submit_some() for _ in range(AT_ONCE)))


async def _submit_one(http: aiohttp.ClientSession, number: int, *, is_small: bool) -> None:
    body = {"operations": [{"method": "POST", "path": f"/items/{number}-{place}"} for place in range(2)]}
    headers = {"X-Tenant": f"tenant-{number}", "Idempotency-Key": f'"{number}"'}
    prefer = {} if is_small else {"Prefer": "respond-async"}
    async with http.post("/batch", json=body, headers={**headers, **prefer}) as answer:
        content = await answer.json(content_type=None)
    if answer.status not in {200, 202}:
        raise RuntimeError(f"The front end answered {answer.status}: {content}")
    while not is_small:
        async with http.get(f"/batch/{content['batchId']}/status", headers=headers) as answer:
            status = await answer.json(content_type=None)
        if status["status"] in {"completed", "failed"}:
            return
        await asyncio.sleep(0.05)


def _census() -> Counter[str]:
    """Count the objects of each type, and the items of each large container of ours."""
    gc.collect()
    census: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        census[f"{kind.__module__}.{kind.__qualname__}"] += 1
        if isinstance(one, dict | set | list | deque) and not isinstance(one, Counter) and len(one) > 200:
            census[f"items of a {kind.__qualname__}, such as {str(next(iter(one)))[:60]}"] += len(one)
    return census


if __name__ == "__main__":
    main()
