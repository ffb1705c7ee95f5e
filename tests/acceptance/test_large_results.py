"""Results that are too large for the table are read back whole, and an export has them, too."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from penstock.client import AsyncClient
from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation, Outcome
from tests.support.waiting import eventually

MB = 1_000_000
SIZES = [2 * MB, 10, 2 * MB, 6 * MB]
WAIT: Operation = {"method": "POST", "path": "/waits"}


def copy(size: int) -> Operation:
    return {"method": "POST", "path": "/copies", "body": {"size": size}}


def told(outcome: Outcome) -> tuple[int, int]:
    return outcome["status"], len(outcome["result"])


@pytest.mark.story("roles")
@on_any_aws
async def test_large_results_are_read_and_exported(install: Install, tmp_path: Path) -> None:
    penstock = await install(LEAVE_SECONDS="0", BUCKET="results-of-a-test", SYNC_SECONDS="1")
    await asyncio.gather(penstock.serve(), penstock.consume())
    async with AsyncClient(penstock.api.url) as client:
        batch = await client.submit(map(copy, SIZES))
        status = await batch.wait()
        assert (status.succeeded, status.failed) == (3, 1)
        await batch.save_results(tmp_path / "results.ndjson")
        await batch.save_results(tmp_path / "results.csv", kind="csv")
        [file] = await batch.save_export(tmp_path / "export", compression="gzip")

    content = (tmp_path / "results.ndjson").read_bytes()
    outcomes = [json.loads(line) for line in content.splitlines()]
    assert [told(outcome) for outcome in outcomes[:3]] == [(200, 2 * MB), (200, 10), (200, 2 * MB)]
    assert outcomes[3]["error"]["detail"].endswith(
        "its result has 6,000,002 bytes as JSON. The limit is 5,242,880 bytes."
    )
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[1:4] == [f"{outcome['id']},200,,,{outcome['result']}" for outcome in outcomes[:3]]
    assert outcomes[3]["error"]["detail"] in rows[4]
    assert gzip.decompress(file.read_bytes()) == content

    answer = await penstock.api.post([copy(MB), WAIT])
    assert answer.status == 202  # the front end has stored the first result, and has handed the rest over
    [first] = await eventually(lambda: penstock.api.results(answer.body["batchId"]))
    assert told(first) == (200, MB)
    penstock.journal.open_gate()
    assert (await penstock.api.ended(answer.body["batchId"])).succeeded == 2
