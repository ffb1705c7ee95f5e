"""An existing API becomes a bulk API by one variable: `PENSTOCK_UPSTREAM=... penstock up`."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.api import Api, Operation, open_api
from tests.support.aws import scrubbed_environment
from tests.support.programs import free_port, programs
from tests.support.upstream import ToyUpstream, toy_upstream

# Of each kind: how many operations there are, what each comes to, and how many requests it takes.
KINDS = {
    "create": (200, 201, 1),
    "missing": (20, 404, 1),
    "taken": (20, 409, 1),
    "broken": (20, 500, 2),
    "busy-once": (20, 200, 2),
    "moved": (8, 502, 1),
    "garbage": (8, 502, 1),
    "slow": (4, 504, 2),
}
SUCCEEDING = {"create", "busy-once"}


@pytest.fixture
async def upstream() -> AsyncIterator[ToyUpstream]:
    async with toy_upstream() as toy:
        yield toy


@pytest.fixture
async def api(upstream: ToyUpstream, tmp_path: Path) -> AsyncIterator[Api]:
    """Run `penstock up` in front of the API, without a line of code."""
    port = free_port()
    environment = {
        **scrubbed_environment(),
        "PENSTOCK_UPSTREAM": f"{upstream.url}/v1",
        "PENSTOCK_UPSTREAM_AUTHORIZATION": "Bearer ours",
        "PENSTOCK_UPSTREAM_TIMEOUT_SECONDS": "0.5",
        "PENSTOCK_UPSTREAM_MAX_ATTEMPTS": "2",
        "PENSTOCK_BACKOFF_SECONDS": "0.1",
    }
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(programs(environment, tmp_path))
        program = await running.penstock("up", "--port", str(port))
        await program.says(f"forwards everything to {upstream.url}/v1", units=40)
        yield await stack.enter_async_context(open_api(port))
        program.terminate()
        assert await program.ended() == 0
        assert "Traceback" not in program.output()
        assert "Unclosed" not in program.output()


def operations() -> list[Operation]:
    return [
        {"id": f"{kind}-{number}", "method": "POST", "path": f"/{kind}/{number}?n={number}", "body": {"n": number}}
        for kind, (count, _, _) in KINDS.items()
        for number in range(count)
    ]


async def test_operations_through_an_existing_api_that_knows_nothing_of_it(api: Api, upstream: ToyUpstream) -> None:
    await check_small_batches(api)
    upstream.requests.clear()

    batch_id = await api.submit(operations())
    status = await api.ended(batch_id)
    outcomes = {outcome["id"]: outcome for outcome in await api.results(batch_id)}

    assert (status.status, status.total, status.completed) == ("completed", 300, 300)
    assert status.succeeded == sum(KINDS[kind][0] for kind in SUCCEEDING)
    assert {
        kind: Counter(outcome["status"] for outcome_id, outcome in outcomes.items() if outcome_id.startswith(kind))
        for kind in KINDS
    } == {kind: {expected: count} for kind, (count, expected, _) in KINDS.items()}
    assert outcomes["create-7"]["result"] == {"made": {"n": 7}}
    assert outcomes["missing-7"]["error"]["title"] == "No such thing"
    assert outcomes["moved-7"]["error"]["title"] == "Redirected"
    check_requests(upstream, batch_id)


async def check_small_batches(api: Api) -> None:
    """Check that a small batch is answered synchronously, and that one with an invalid path is rejected."""
    small = await api.post([{"method": "GET", "path": "/anything?x=1"}, {"method": "DELETE", "path": "/empty/1"}])
    refused = await api.post([{"method": "GET", "path": "/anything"}, {"method": "GET", "path": "//evil.example/x"}])

    assert small.body["results"] == [
        {"id": "0", "status": 200, "result": {"asked": "/v1/anything?x=1"}},
        {"id": "1", "status": 204, "result": None},
    ]
    assert (refused.status, [error["pointer"] for error in refused.body["errors"]]) == (422, ["/operations/1/path"])


def check_requests(upstream: ToyUpstream, batch_id: str) -> None:
    """Check that each request belongs to an operation, and has the same key at each attempt."""
    asked = Counter((noted.target, noted.headers["Idempotency-Key"]) for noted in upstream.requests)
    assert asked == {
        (f"/v1/{kind}/{number}?n={number}", f'"{batch_id}/{kind}-{number}"'): requests
        for kind, (count, _, requests) in KINDS.items()
        for number in range(count)
    }
    assert {noted.headers["Authorization"] for noted in upstream.requests} == {"Bearer ours"}
