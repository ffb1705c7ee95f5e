"""Runs coroutines on an event loop in a thread of its own: also where a loop runs already, as in a notebook."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """An event loop in a daemon thread. It starts with the first coroutine."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False
        self._lock = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and return its result. If the caller is interrupted, it is cancelled."""
        if self.is_closed:
            coroutine.close()
            raise RuntimeError("The client is closed.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T], *, timeout: float | None = None) -> Generator[T]:
        """Yield what an asynchronous generator yields, and close it at the end. Raises TimeoutError after `timeout`."""
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                try:
                    yield self.run(_next(items, until))
                except StopAsyncIteration:
                    return
        finally:
            if not self.is_closed:
                self.run(items.aclose())

    def close(self) -> None:
        with self._lock:
            loop, self._loop, self.is_closed = self._loop, None, True
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="penstock-client", daemon=True)
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _next(items: AsyncGenerator[T], until: float | None) -> T:
    async with asyncio.timeout(None if until is None else until - time.monotonic()):
        return await anext(items)
