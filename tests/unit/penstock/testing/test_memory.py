"""What the in-memory parts offer beyond the ports. The tests in tests/contract cover the ports."""

from penstock.priority import Priority
from penstock.queue import Message
from penstock.testing import FakeClock, MemoryQueue, memory_parts


async def test_fake_time_moves_only_when_told() -> None:
    clock = FakeClock(now=1_000)
    clock.advance(5)
    await clock.sleep(2.5)
    assert clock.now() == clock.monotonic() == 1_007.5


async def test_waiting_for_messages_takes_fake_time_and_no_real_one() -> None:
    clock = FakeClock(now=1_000)
    queue = MemoryQueue(clock)
    assert await queue.receive(1, wait_seconds=20) == []
    assert 1_020 <= clock.now() < 1_021


async def test_wait_ends_as_soon_as_a_message_is_due() -> None:
    clock = FakeClock(now=1_000)
    queue = MemoryQueue(clock)
    await queue.send([Message("late", delay_seconds=7)])
    (delivery,) = await queue.receive(1, wait_seconds=20)
    assert delivery.body == "late"
    assert 1_007 <= clock.now() < 1_008


async def test_lease_ends_when_the_clock_is_turned_past_it() -> None:
    clock = FakeClock()
    queue = MemoryQueue(clock, visibility_seconds=30)
    await queue.send([Message("a")])
    await queue.receive(1, 0)
    clock.advance(29.9)
    assert await queue.receive(1, 0) == []
    clock.advance(0.1)
    (again,) = await queue.receive(1, 0)
    assert again.receive_count == 2


async def test_test_can_look_at_what_is_on_the_queue_and_what_was_acknowledged() -> None:
    queue = MemoryQueue(FakeClock())
    await queue.send([Message("a"), Message("b", delay_seconds=60)])
    (delivery,) = await queue.receive(10, 0)
    assert [message.body for message in queue.messages] == ["a", "b"]
    await queue.delete(delivery)
    assert [message.body for message in queue.messages] == ["b"]
    assert queue.deleted == 1


async def test_memory_parts_make_a_backend() -> None:
    parts = memory_parts()
    await parts.backend.check()
    assert parts.backend.queues[Priority.NORMAL] is parts.chunks
    assert parts.backend.dead_letters is parts.dead_letters
    assert parts.backend.store is parts.store
