"""Holds the consumer to a rule: whatever handlers or an upstream return, it takes at most 64 MiB above idle."""

import random
import sys
from array import array
from pathlib import Path

import pytest
from aiohttp import web

from tests.acceptance.installation import installation
from tests.bounds.large_results import RESULT_BYTES
from tests.support.aws import Aws
from tests.support.upstream import toy_upstream

pytestmark = [pytest.mark.full, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MOST_MIB = 64
OPERATIONS = 30  # for each kind: together their results are almost three times the limit
KINDS = ("/loop", "/thread", "/process", "/bulk", "/upstream-text", "/upstream-numbers")


@pytest.mark.parametrize("aws", ["embedded"], indirect=True)
async def test_large_results_take_little_memory(aws: Aws, tmp_path: Path) -> None:
    settings = {"APP": "tests.bounds.large_results:operations", "CONCURRENCY": "50", "MIN_CHUNKS": "2"}
    async with toy_upstream() as upstream, installation(aws, tmp_path, **settings) as one:
        upstream.answers["upstream-text"] = lambda _: web.Response(text=random.randbytes(RESULT_BYTES // 2).hex())
        upstream.answers["upstream-numbers"] = lambda _: web.json_response(many_numbers())
        await one.serve(TEST_UPSTREAM=upstream.url)
        consumer = await one.consume(TEST_UPSTREAM=upstream.url)
        process = Path(f"/proc/{consumer.process.pid}")
        (process / "clear_refs").write_text("5")
        idle = status_mib(process, "VmRSS")
        operations = [{"method": "POST", "path": kind} for _ in range(OPERATIONS) for kind in KINDS]
        status = await one.api.ended(await one.api.submit(operations), units=120)
        assert status.succeeded == len(operations)
        assert status_mib(process, "VmHWM") - idle < MOST_MIB


def many_numbers() -> list[int]:
    """Return numbers that take a megabyte as JSON, and three times as much as Python objects."""
    return array("I", random.randbytes(RESULT_BYTES // 12 * 4)).tolist()


def status_mib(process: Path, name: str) -> float:
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
