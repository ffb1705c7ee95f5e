"""Holds the consumer to a rule: whatever handlers return, it takes at most 64 MiB above idle."""

import sys
from pathlib import Path

import pytest

from tests.acceptance.installation import installation
from tests.support.aws import Aws

pytestmark = [pytest.mark.full, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MOST_MIB = 64
OPERATIONS = 30  # for each kind of handler: together their results are twice the limit
KINDS = ("/loop", "/thread", "/process", "/bulk")


@pytest.mark.parametrize("aws", ["embedded"], indirect=True)
async def test_large_results_take_little_memory(aws: Aws, tmp_path: Path) -> None:
    settings = {"APP": "tests.bounds.large_results:operations", "CONCURRENCY": "50", "MIN_CHUNKS": "2"}
    async with installation(aws, tmp_path, **settings) as one:
        await one.serve()
        consumer = await one.consume()
        process = Path(f"/proc/{consumer.process.pid}")
        (process / "clear_refs").write_text("5")
        idle = status_mib(process, "VmRSS")
        operations = [{"method": "POST", "path": kind} for _ in range(OPERATIONS) for kind in KINDS]
        status = await one.api.ended(await one.api.submit(operations), units=120)
        assert status.succeeded == len(operations)
        assert status_mib(process, "VmHWM") - idle < MOST_MIB


def status_mib(process: Path, name: str) -> float:
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
