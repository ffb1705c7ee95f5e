"""What follows from a record becomes messages: on which queue, how long they are held back, and for which tenant."""

from math import ceil
from typing import Any

import pytest

from penstock.backoff import Backoff
from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.message import decode_chunk
from penstock.outcome import ChunkRecord, TryAgain, Verdict, failed, record_attempt
from penstock.priority import Priority
from penstock.queue import Delivery, TraceContext
from penstock.sending import ID_CHARACTERS_IN_CALL, ChunkSender, neighbouring_ids, tenant_on_queue
from penstock.store import IDS_IN_CALL
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import NOW, build_batch, build_chunk, build_operations, build_settings

CHUNK = build_chunk(build_operations("/reject", "/try-again", "/not-run"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def parts(clock: FakeClock) -> MemoryParts:
    return memory_parts(clock, 30)


def sender(parts: MemoryParts, clock: FakeClock, **settings: Any) -> ChunkSender:
    return ChunkSender(parts.backend, build_settings(**settings), clock)


def record(chunk: Chunk = CHUNK) -> ChunkRecord:
    """The first operation was rejected, the second one is tried again in a minute, and the third one was not run."""
    rejected, again, _ = chunk.operations
    verdicts: dict[int, Verdict] = {
        rejected.index: failed(rejected, 409, "Rejected", rejected=True),
        again.index: TryAgain(failed(again, 500, "Failed"), max_attempts=3, after_seconds=60),
    }
    return record_attempt(chunk, verdicts, backoff=Backoff(1, 1), draw=0, now=NOW)


def batch(**changes: Any) -> Batch:
    return build_batch(3, **changes)


async def test_follow_ups_go_to_the_queue_of_the_batch_each_with_its_delay(
    parts: MemoryParts, clock: FakeClock
) -> None:
    await sender(parts, clock).send_follow_ups(batch(priority=Priority.LOW), CHUNK, record(), "acme")
    messages = parts.queues[Priority.LOW].messages
    sent = [(decode_chunk(message.body).id, message.delay_seconds) for message in messages]
    assert sent == [("0.0.1.1", 60), ("0.0.1.2", 0)]
    assert {message.tenant for message in messages} == {"acme"}
    assert parts.dead_letters.messages == []


async def test_repeated_send_is_held_back_only_for_the_time_that_is_left(parts: MemoryParts, clock: FakeClock) -> None:
    clock.advance(50)
    await sender(parts, clock).send_follow_ups(batch(), CHUNK, record(), None)
    assert [message.delay_seconds for message in parts.chunks.messages] == [10, 0]


@pytest.mark.parametrize(("rejections", "count"), [(True, 1), (False, 0)])
async def test_dead_letters_are_what_failed_for_good(
    parts: MemoryParts, clock: FakeClock, *, rejections: bool, count: int
) -> None:
    sending = sender(parts, clock, dead_letter_rejections=rejections)
    letters = sending.dead_letters(batch(), record(), "acme")
    await sending.send_letters(letters)
    assert parts.dead_letters.messages == letters
    assert len(letters) == count
    assert [decode_chunk(letter.body).id for letter in parts.dead_letters.messages] == ["0.d2"] * count
    assert parts.chunks.messages == []


async def test_unchanged_message_keeps_its_tenant_and_trace(parts: MemoryParts, clock: FakeClock) -> None:
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    delivery = Delivery("id", "not a chunk", "receipt", 1, tenant="acme", trace=trace)
    await sender(parts, clock).send_unchanged(delivery, "It is not a chunk.")
    [letter] = parts.dead_letters.messages
    assert (letter.body, letter.tenant, letter.trace) == ("not a chunk", "acme", trace)
    assert letter.reason == "It is not a chunk."


@pytest.mark.parametrize(
    ("settings", "tenant", "named"),
    [
        ({}, "default", None),
        ({}, "acme", "acme"),  # submitted with a key before every request needs one
        ({"tenant_header": "X-Tenant"}, "acme", "acme"),
        ({"tenant_header": "X-Tenant"}, "default", "default"),
        ({"auth": "keys"}, "default", "default"),
    ],
)
def test_messages_name_the_tenant_only_if_there_can_be_several(
    settings: dict[str, str], tenant: str, named: str | None
) -> None:
    assert tenant_on_queue(batch(tenant=tenant), build_settings(**settings)) == named


@pytest.mark.parametrize("length", [1, 36, 128])
def test_ids_go_in_few_calls_and_long_ones_in_more(length: int) -> None:
    totals = (2 * IDS_IN_CALL + 1, 1, IDS_IN_CALL)
    ids = [f"{index:0{length}}" for index in range(sum(totals))]
    calls = list(neighbouring_ids(ids, totals))
    assert [one for _, piece in calls for one in piece] == ids
    assert all(ids[first] == piece[0] for first, piece in calls)
    assert {totals[0], totals[0] + 1} <= {first for first, _ in calls}  # a call has ids of one group
    assert all(len(piece) <= IDS_IN_CALL and sum(map(len, piece)) <= ID_CHARACTERS_IN_CALL for _, piece in calls)
    assert len(calls) <= 5 * ceil(length / 36)
