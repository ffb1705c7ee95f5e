"""All requests in progress share a limit of memory. Beyond it, they are asked to come again."""

import asyncio
import gzip
import json

import pytest

from penstock import Operations, zstd
from penstock.errors import Overloaded
from penstock.service.decompression import MEMORY_BYTES
from penstock.service.keys import MEMORY
from penstock.service.memory import Memory
from tests.support.service import JSON, NDJSON, Serve, Service, ask_for, assert_problem
from tests.support.waiting import eventually

MIB = 1024 * 1024
operations = Operations()
HEAD = "POST /batch HTTP/1.1\r\nHost: a\r\nContent-Type: {}\r\nContent-Encoding: {}\r\nContent-Length: 100000\r\n\r\n"


@operations.post("/succeed")
async def succeed() -> None:
    return None


def used(service: Service) -> int:
    return service.client.app[MEMORY].used_bytes


async def holds(condition: bool) -> bool:
    return condition


def test_shares_grow_within_the_limit_and_are_released() -> None:
    memory = Memory(100)
    with memory.share() as first, memory.share() as second:
        first.grow_to(60)
        first.grow_to(50)
        second.grow_to(40)
        assert memory.used_bytes == 100
        with pytest.raises(Overloaded):
            second.grow_to(41)
        assert memory.used_bytes == 100
        second.take(500)  # an answer
        with pytest.raises(Overloaded):
            first.grow_to(61)
    assert memory.used_bytes == 0


def test_request_that_is_alone_may_take_any_memory() -> None:
    memory = Memory(100)
    with memory.share() as alone, memory.share() as other:
        alone.grow_to(500)
        alone.grow_to(1_000)
        with pytest.raises(Overloaded):
            other.grow_to(1)
    with memory.share() as other:
        other.grow_to(100)


def test_requests_of_a_tenant_leave_half_to_others() -> None:
    memory = Memory(100)
    with memory.share("a") as alone, memory.share("a") as second, memory.share("b") as other, memory.share() as none:
        alone.grow_to(80)  # otherwise it might never be answered
        alone.take(40)
        second.grow_to(10)
        with pytest.raises(Overloaded, match="other tenants"):
            second.grow_to(11)
        with pytest.raises(Overloaded, match="other tenants"):
            alone.grow_to(41)
        other.grow_to(40)
        none.grow_to(10)
        with pytest.raises(Overloaded, match="all memory"):
            none.grow_to(11)
        none.take(0)
        with second.another() as answer:
            answer.take(30)
            assert memory.used_bytes == 120
        second.grow_to(10)
    with memory.share("a") as first, memory.share("a") as second:
        first.grow_to(50)
        with pytest.raises(Overloaded):
            second.grow_to(1)
    assert memory.used_bytes == 0


def test_caches_give_their_memory_to_a_request_that_needs_it() -> None:
    memory = Memory(100)
    cache = memory.share_of_cache(lambda: cache.take(0))
    with memory.share() as request, memory.share() as other:
        cache.take(50)
        request.grow_to(50)
        assert memory.used_bytes == 100
        request.grow_to(80)
        assert memory.used_bytes == 80
        cache.take(20)
        with pytest.raises(Overloaded):
            other.grow_to(21)
    cache.take(50)
    with memory.share() as alone:
        alone.grow_to(500)


def test_what_a_finished_request_has_left_behind_takes_no_memory() -> None:
    memory = Memory(100)
    with memory.share() as share:
        share.grow_to(10)
        share.add(5)
        assert memory.used_bytes == 15
    share.add(5)
    assert memory.used_bytes == 0


async def test_memory_is_released_after_every_answer(serve: Serve) -> None:
    service = await serve(operations)
    for content in (b"{}", b"{", json.dumps({"operations": ask_for("/succeed")}).encode()):
        for encoding, compressed in (("gzip", gzip.compress(content)), ("zstd", zstd.compress(content))):
            await service.post_content(compressed, JSON, **{"Content-Encoding": encoding})
            await service.post_content(compressed, NDJSON, **{"Content-Encoding": encoding})
    await eventually(lambda: holds(used(service) == 0))


async def test_unfinished_requests_leave_no_memory_for_another(serve: Serve) -> None:
    service = await serve(operations, request_memory_bytes=64 * MIB)
    most = 64 * MIB // MEMORY_BYTES["zstd"]
    connections = []
    for _ in range(most):
        _, writer = await asyncio.open_connection("127.0.0.1", service.client.port)
        writer.write(HEAD.format(NDJSON, "zstd").encode() + zstd.compress(b"{")[:5])
        connections.append(writer)
    await eventually(lambda: holds(used(service) >= most * MEMORY_BYTES["zstd"]))
    compressed = zstd.compress(json.dumps({"operations": ask_for("/succeed")}).encode())
    answer = await service.post_content(compressed, JSON, **{"Content-Encoding": "zstd"})
    problem = assert_problem(answer, 503)
    assert problem["type"] == "urn:penstock:problem:overloaded"
    assert int(answer.headers["Retry-After"]) > 0
    for writer in connections:
        writer.close()
    await eventually(lambda: holds(used(service) == 0))
    assert (await service.post(ask_for("/succeed"))).status == 200


async def test_slow_requests_of_a_tenant_leave_memory_for_another(serve: Serve) -> None:
    """Each holds the memory of a decompressor with a few bytes in a minute, for up to an hour."""
    service = await serve(operations, request_memory_bytes=64 * MIB, tenant_header="X-Tenant")
    head = HEAD.replace("Host: a", "Host: a\r\nX-Tenant: slow").format(NDJSON, "zstd").encode()
    connections = []
    for _ in range(64 * MIB // MEMORY_BYTES["zstd"]):
        _, writer = await asyncio.open_connection("127.0.0.1", service.client.port)
        writer.write(head + zstd.compress(b"{")[:5])
        connections.append(writer)
    half = 32 * MIB // MEMORY_BYTES["zstd"]
    await eventually(lambda: holds(used(service) == half * MEMORY_BYTES["zstd"]))
    for tenant, status in (("slow", 503), ("another", 200)):
        compressed = zstd.compress(json.dumps({"operations": ask_for("/succeed")}).encode())
        headers = {"Content-Encoding": "zstd", "X-Tenant": tenant}
        assert (await service.post_content(compressed, JSON, **headers)).status == status
    for writer in connections:
        writer.close()
    await eventually(lambda: holds(used(service) == 0))


async def test_elements_count_with_the_memory_that_they_need_once_parsed(serve: Serve) -> None:
    service = await serve(operations, request_memory_bytes=64 * MIB, max_elements=1_000_000)
    content = b'{"operations":[' + b"[]," * 500_000 + b"0]}"
    assert_problem(await service.post_content(content), 413)
    with service.client.app[MEMORY].share() as another:
        another.grow_to(1)
        assert assert_problem(await service.post_content(content), 503)["type"] == "urn:penstock:problem:overloaded"
    await eventually(lambda: holds(used(service) == 0))


async def test_results_of_a_small_batch_take_memory_as_soon_as_they_are_made(serve: Serve) -> None:
    may_end, large = asyncio.Event(), Operations()

    @large.post("/large")
    async def make_large() -> str:
        return "r" * MIB

    @large.post("/wait")
    async def wait() -> None:
        await may_end.wait()

    service = await serve(large)
    asked = [{"method": "POST", "path": path} for path in ("/large", "/large", "/wait")]
    request = asyncio.create_task(service.post(asked))
    await eventually(lambda: holds(used(service) >= 2 * MIB))
    may_end.set()
    assert (await request).status == 200
    await eventually(lambda: holds(used(service) == 0))
