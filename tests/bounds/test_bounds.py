"""Sends requests to a real front end, and measures what each of them costs."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest

from tests.bounds.cases import FILES, MORE, WORST, Case, document, operation, random_cases
from tests.bounds.front_end import LARGE_RESULTS, MIB
from tests.support.aws import scrubbed_environment
from tests.support.programs import free_port, programs, until_ready
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MOST_MIB = 64
MOST_VALID_MIB = 96  # for one valid operation of 10 MiB
MOST_CPU_SECONDS = 2
MOST_TURN_SECONDS = 0.2
NOISE = 2  # on a busy machine the same work takes up to twice the CPU time, because others use the caches of the core

RANDOM_CASES = 100
AT_ONCE = 60
HEAVY = {"unknown members of a body", "a long string", "a page of large results"}
MOST_MIB_AT_ONCE = 512  # PENSTOCK_REQUEST_MEMORY_BYTES
STREAMS = 100
STREAMS_WITH_OUTCOMES = 60
POSITIONS = 60  # in the batch
STREAMS_MEMORY_MIB = 64


@dataclass(frozen=True, slots=True)
class Cost:
    mib: float
    cpu_seconds: float
    turn_seconds: float
    is_success: bool  # all operations were valid, so it may take CPU time in proportion

    def is_within(self, most_mib: float) -> bool:
        return (
            self.mib <= most_mib
            and (self.is_success or self.cpu_seconds <= MOST_CPU_SECONDS * NOISE)
            and self.turn_seconds <= MOST_TURN_SECONDS * NOISE
        )

    def __str__(self) -> str:
        return f"{self.mib:.0f} MiB, {self.cpu_seconds:.2f} s of CPU, {self.turn_seconds * 1_000:.0f} ms in a turn"


@dataclass(frozen=True, slots=True)
class FrontEnd:
    session: aiohttp.ClientSession
    url: str

    async def cost_of(self, case: Case, times: int = 1) -> Cost:
        """Measure a request, or the same request many times at once."""
        content = case.content()
        async with self.session.post(f"{self.url}/probe") as answer:
            assert answer.status == 200
        statuses = set(await asyncio.gather(*(self.send(case, content) for _ in range(times))))
        assert not statuses & {404, 500}
        assert times > 1 or 503 not in statuses
        async with self.session.get(f"{self.url}/probe") as answer:
            return Cost(**await answer.json(), is_success=max(statuses) < 300)

    async def send(self, case: Case, content: bytes) -> int:
        data = BytesIO(content) if content else None
        url = self.url + case.url
        async with self.session.request(case.method, url, data=data, headers=case.headers) as answer:
            async for _ in answer.content.iter_any():
                pass
            return answer.status

    async def too_costly(self, cases: Iterable[Case]) -> list[str]:
        costs = [(case, await self.cost_of(case)) for case in cases]
        return [
            f"{case.name}: {cost}"
            for case, cost in costs
            if not cost.is_within(MOST_VALID_MIB if case.is_valid else MOST_MIB)
        ]


@pytest.fixture
async def front_end(tmp_path: Path) -> AsyncIterator[FrontEnd]:
    async with running_front_end(tmp_path) as front_end:
        yield front_end


@asynccontextmanager
async def running_front_end(folder: Path, **settings: str) -> AsyncIterator[FrontEnd]:
    port = free_port()
    async with (
        programs({**scrubbed_environment(), **settings}, folder) as running,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600), connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        program = await running.start("tests.bounds.front_end", str(port))
        await until_ready(port, program)
        front_end = FrontEnd(session, f"http://127.0.0.1:{port}")
        await front_end.cost_of(Case("a valid batch", lambda: document(operation(b"numbers", b"[1]"))))
        yield front_end
        sys.stdout.write(program.output())


async def test_no_request_costs_much(front_end: FrontEnd) -> None:
    assert await front_end.too_costly(WORST) == []


@pytest.mark.full
async def test_no_request_of_many_kinds_costs_much(front_end: FrontEnd) -> None:
    assert await front_end.too_costly(MORE) == []


@pytest.mark.full
async def test_no_file_costs_much(front_end: FrontEnd) -> None:
    found = await front_end.too_costly(FILES)
    assert found == [], "\n".join(found)


@pytest.mark.full
@pytest.mark.parametrize("case", [case for case in WORST if case.name in HEAVY], ids=lambda case: case.name)
async def test_requests_at_once_share_memory_and_take_turns(front_end: FrontEnd, case: Case) -> None:
    cost = await front_end.cost_of(case, AT_ONCE)
    assert cost.mib <= MOST_MIB_AT_ONCE, cost
    assert cost.turn_seconds <= MOST_TURN_SECONDS * NOISE, cost


@pytest.mark.full
async def test_no_random_request_costs_much(front_end: FrontEnd) -> None:
    assert await front_end.too_costly(random_cases(1, RANDOM_CASES)) == []


@pytest.mark.full
async def test_streams_of_large_outcomes_share_memory(tmp_path: Path) -> None:
    """Clients that do not read hold an outcome of 900 KB each. More of them wait than there is memory for."""
    memory = str(STREAMS_MEMORY_MIB * MIB)
    async with running_front_end(tmp_path, PENSTOCK_REQUEST_MEMORY_BYTES=memory) as front_end:
        async with front_end.session.post(f"{front_end.url}/probe") as answer:
            assert answer.status == 200
        got_outcomes: list[int] = []
        clients = [asyncio.create_task(read_first_outcome(front_end, n, got_outcomes)) for n in range(STREAMS)]
        await eventually(lambda: is_true(len(got_outcomes) >= STREAMS_WITH_OUTCOMES), units=60)
        async with front_end.session.get(f"{front_end.url}/probe") as answer:
            cost = Cost(**await answer.json(), is_success=True)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    assert cost.mib <= STREAMS_MEMORY_MIB * 1.25, cost
    assert cost.turn_seconds <= MOST_TURN_SECONDS * NOISE, cost


async def is_true(condition: bool) -> bool:
    return condition


async def read_first_outcome(front_end: FrontEnd, number: int, got_outcomes: list[int]) -> None:
    """Follow the outcomes of a batch until the beginning of the first one, and then stop reading."""
    loop, position = asyncio.get_running_loop(), number % POSITIONS + 1
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # otherwise the system would read all of it
        await loop.sock_connect(client, ("127.0.0.1", int(front_end.url.rpartition(":")[2])))
        request = (
            f"GET /batch/{LARGE_RESULTS}/events?outcomes=1 HTTP/1.1\r\nHost: a\r\nLast-Event-ID: {position}.{position}"
        )
        await loop.sock_sendall(client, f"{request}\r\n\r\n".encode())
        content = b""
        while b"event: outcome" not in content:
            content += await loop.sock_recv(client, 4_096)
        got_outcomes.append(number)
        await asyncio.Event().wait()
