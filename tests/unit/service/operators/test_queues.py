"""The queues of the priorities: what is paused, and what waits in them."""

from penstock import Operations
from penstock.priority import Priority
from penstock.queue import Message
from penstock.service.schemas import time_text
from penstock.testing import FakeClock, memory_parts
from tests.support.builders import NOW
from tests.support.service import Serve, Service, assert_problem

JSON = {"Content-Type": "application/json"}


async def serve_with(serve: Serve) -> Service:
    clock = FakeClock(NOW)
    parts = memory_parts(clock)
    await parts.queues[Priority.LOW].send([Message("a"), Message("b")])
    return await serve(Operations(), parts=parts, clock=clock)


async def test_queue_is_paused_and_resumed(serve: Serve) -> None:
    service = await serve_with(serve)
    low = {"priority": "low", "paused": False, "pausedAt": None, "waiting": 2}
    others = [{**low, "priority": priority, "waiting": 0} for priority in ("high", "normal")]
    assert (await service.get("/queues")).body == {"queues": [*others, low]}
    paused = {**low, "paused": True, "pausedAt": time_text(NOW)}
    for _ in range(2):
        answer = await service.ask("POST", "/queues/low/pause", headers=JSON)
        assert (answer.status, answer.body) == (200, paused)
    assert (await service.get("/queues")).body == {"queues": [*others, paused]}
    assert (await service.ask("POST", "/queues/low/resume", headers=JSON)).body == low


async def test_unknown_queue_is_named(serve: Serve) -> None:
    service = await serve_with(serve)
    problem = assert_problem(await service.ask("POST", "/queues/urgent/pause", headers=JSON), 404)
    assert problem["detail"] == "There is no such queue. Use high, normal, low."
