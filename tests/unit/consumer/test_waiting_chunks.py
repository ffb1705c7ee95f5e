"""Which chunks wait at a place, and when it is full."""

from contextlib import ExitStack, suppress

import pytest

from penstock.consumer.waiting_chunks import MOST_BYTES, WaitingChunks
from penstock.queue import Delivery


def delivery_of(name: str, body: str = "") -> Delivery:
    return Delivery(name, body, name, 1)


HALF = "x" * (MOST_BYTES // 2)


@pytest.mark.parametrize(
    ("chunks", "is_full"),
    [
        pytest.param([("", 1), ("", 1)], False, id="fewer chunks than the most"),
        pytest.param([("", 1), ("", 1), ("", 1)], True, id="the most chunks"),
        pytest.param([("", 2)], False, id="fewer letters than the most"),
        pytest.param([("", 2), ("", 2)], True, id="more letters than the most"),
        pytest.param([(HALF, 1), (HALF[:-1], 1)], False, id="chunks that just fit in memory"),
        pytest.param([(HALF, 1), (HALF, 1)], True, id="large chunks"),
    ],
)
def test_place_is_full(chunks: list[tuple[str, int]], *, is_full: bool) -> None:
    place = WaitingChunks(3, lambda: None)
    with ExitStack() as stack:
        for number, (body, size) in enumerate(chunks):
            stack.enter_context(place.including(delivery_of(str(number), body), size))
        assert place.is_full is is_full
    assert not place.is_full


def test_chunk_waits_until_its_block_ends() -> None:
    told = list[bool]()
    place = WaitingChunks(3, lambda: told.append(delivery_of("first") in place))
    with place.including(delivery_of("first")):
        assert told == [True]
        with suppress(TimeoutError), place.including(delivery_of("second")):
            assert len(place) == 2
            raise TimeoutError
        assert [delivery_of(name) in place for name in ("first", "second")] == [True, False]
    assert len(place) == 0


def test_chunks_of_a_place_that_is_cleared_wait_no_longer() -> None:
    place = WaitingChunks(1, lambda: None)
    with place.including(delivery_of("first")):
        place.clear()
        assert (delivery_of("first") in place, place.is_full) == (False, False)
        with place.including(delivery_of("second")):
            assert place.is_full
