"""The loop of the blocking client: what happens at its end, and where it must not wait for itself."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from penstock.client.background_loop import BackgroundLoop

DEADLINE_SECONDS = 30


async def nothing() -> None:
    pass


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    with closing(BackgroundLoop(nothing)) as loop:
        yield loop
    assert "penstock-client" not in names_of_threads()


def test_who_waits_while_it_is_closed_is_told(loop: BackgroundLoop) -> None:
    is_waiting = threading.Event()

    async def wait() -> None:
        is_waiting.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, wait())
        assert is_waiting.wait(DEADLINE_SECONDS)
        loop.close()
        with pytest.raises(RuntimeError, match="The client is closed"):
            waiting.result(DEADLINE_SECONDS)


def test_nothing_starts_after_the_end(loop: BackgroundLoop) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="The client is closed"):
        loop.run(nothing())


def test_call_on_the_loop_is_an_error(loop: BackgroundLoop) -> None:
    async def call() -> None:
        loop.run(nothing())

    with pytest.raises(RuntimeError, match="cannot be called in its own thread"):
        loop.run(call())


def test_iterator_that_is_freed_on_the_loop_is_closed(loop: BackgroundLoop) -> None:
    is_closed = threading.Event()

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            is_closed.set()

    async def collect() -> None:
        gc.collect()

    half_read = loop.iterate(numbers())
    assert next(half_read) == 1
    cycle: list[object] = [half_read]
    cycle.append(cycle)
    del half_read, cycle
    loop.run(asyncio.wait_for(collect(), DEADLINE_SECONDS))
    assert is_closed.wait(DEADLINE_SECONDS)


def test_it_ends_when_nobody_uses_it() -> None:
    has_ended = threading.Event()

    async def last() -> None:
        has_ended.set()

    loop = BackgroundLoop(last)
    loop.run(nothing())
    del loop
    gc.collect()
    assert has_ended.is_set()
    assert "penstock-client" not in names_of_threads()
