"""When dead letters leave that wait for those of other chunks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest

from penstock.consumer import letter_box, waiting_chunks
from penstock.consumer.letter_box import LetterBox
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message
from tests.support.waiting import settle

LETTER = Message("a letter")


@asynccontextmanager
async def waiting(box: LetterBox, count: int, *, body: str = "", letters: int = 1) -> AsyncIterator[list[str]]:
    """Let chunks wait, each with its letters. Yield the ids of those that have left."""
    left: list[str] = []

    async def wait(delivery: Delivery) -> None:
        with box.chunk_in_progress():
            await box.wait(delivery, [LETTER] * letters)
            left.append(delivery.message_id)

    deliveries = [Delivery(f"{count}-{number}", body, f"{count}-{number}", 1) for number in range(count)]
    tasks = [asyncio.create_task(wait(delivery)) for delivery in deliveries]
    await settle()
    yield left
    await asyncio.gather(*tasks)


async def test_letters_wait_until_they_fill_a_call() -> None:
    box = LetterBox()
    with box.chunk_in_progress():
        async with waiting(box, MESSAGES_IN_CALL - 1) as left:
            assert left == []
            async with waiting(box, 1) as last:
                assert (len(left), len(last)) == (MESSAGES_IN_CALL - 1, 1)


async def test_letters_of_a_few_chunks_fill_a_call() -> None:
    box = LetterBox()
    with box.chunk_in_progress():
        async with waiting(box, 1, letters=MESSAGES_IN_CALL - 1) as left:
            assert left == []
            async with waiting(box, 2) as last:
                assert (len(left), len(last)) == (1, 1)
                box.open()


async def test_letters_do_not_wait_for_a_chunk_that_does_not_exist() -> None:
    async with waiting(LetterBox(), 2) as left:
        assert len(left) == 2


# What lets the letters leave that wait for another chunk: `other` ends when that chunk is finished.
REASONS: dict[str, Callable[[LetterBox, ExitStack], None]] = {
    "the other chunk is finished": lambda _box, other: other.close(),
    "the last chunk of a group does not let them wait": lambda box, _other: box.depart(),
    "the consumer drains": lambda box, _other: box.open(),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_letters_leave_when(reason: str) -> None:
    box = LetterBox()
    with ExitStack() as other:
        other.enter_context(box.chunk_in_progress())
        async with waiting(box, 2) as left:
            assert left == []
            REASONS[reason](box, other)
            await settle()
            assert len(left) == 2


async def test_letters_of_large_chunks_leave_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_chunks, "MOST_BYTES", 1_000)
    box = LetterBox()
    with box.chunk_in_progress():
        async with waiting(box, 2, body="x" * 500) as left:
            assert len(left) == 2


async def test_no_letter_waits_for_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_box, "WAIT_SECONDS", 0.01)
    box = LetterBox()
    with box.chunk_in_progress():
        async with waiting(box, 2):
            pass  # they return


async def test_no_letter_waits_once_the_consumer_drains() -> None:
    box = LetterBox()
    box.open()
    with box.chunk_in_progress():
        async with waiting(box, 1) as left:
            assert len(left) == 1


async def test_consumer_learns_that_a_chunk_only_waits() -> None:
    told: list[None] = []
    box = LetterBox(lambda: told.append(None))
    delivery = Delivery("id", "", "2-0", 1)
    with box.chunk_in_progress():
        async with waiting(box, 2):
            assert box.holds(delivery)
            assert len(told) == 2
            box.open()
            assert not box.holds(delivery)


async def test_letters_of_a_cancelled_chunk_do_not_fill_a_call() -> None:
    box = LetterBox()
    with box.chunk_in_progress(), box.chunk_in_progress():
        cancelled = asyncio.create_task(box.wait(Delivery("c", "", "c", 1), [LETTER] * 9))
        await settle()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        async with waiting(box, 1) as left:
            assert left == []
            box.open()
