"""Runs coroutines on an event loop in a thread of its own: also where a loop runs already, as in a notebook."""

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

T = TypeVar("T")

_CLOSING_SECONDS = 5.0  # then the thread is left alone. It is a daemon, so it keeps no program from exiting

Last = Callable[[], Awaitable[Any]]


class BackgroundLoop:
    """An event loop in a daemon thread. It starts with the first coroutine, and `last` is awaited when it ends.

    It ends with `close`, when nobody uses it any more, or when the program exits.
    """

    def __init__(self, last: Last) -> None:
        self._last = last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: weakref.finalize[Any, BackgroundLoop] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        # The garbage collector may close an iterator, and so call `run`, at any moment in any thread.
        self._lock = threading.RLock()
        self.is_closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and return its result. If the caller is interrupted, it is cancelled.

        Raises RuntimeError if the loop is closed or is closed meanwhile, or if the caller runs on this loop itself.
        """
        try:
            with self._lock:
                self._check_usable()
                future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            self._check_usable()
            raise
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
            self._close_generator(items)

    def close(self) -> None:
        """Cancel what runs and end the thread. It may be called again."""
        with self._lock:
            self.is_closed = True
        if self._end is not None:
            self._end()

    def _close_generator(self, items: AsyncGenerator[Any]) -> None:
        if self.is_closed:
            return  # the end of the loop has closed it
        if not self._is_here():
            self.run(_close(items))
        elif self._loop is not None:  # the garbage collector runs on the loop, which cannot wait for itself
            task = self._loop.create_task(_close(items))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _check_usable(self) -> None:
        if self.is_closed:
            raise RuntimeError("The client is closed.")
        if self._is_here():
            raise RuntimeError("The client cannot be called in its own thread, such as by the function `tell`.")

    def _is_here(self) -> bool:
        return threading.current_thread() is self._thread

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            arguments = (self._loop, self._last)  # not this object, so that it can be freed
            self._thread = threading.Thread(target=_run, args=arguments, name="penstock-client", daemon=True)
            self._thread.start()
            self._end = weakref.finalize(self, _stop, self._loop, self._thread)
        return self._loop


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(_CLOSING_SECONDS)


def _run(loop: asyncio.AbstractEventLoop, last: Last) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(last())
    finally:
        loop.close()


async def _next(items: AsyncGenerator[T], until: float | None) -> T:
    async with asyncio.timeout(None if until is None else until - time.monotonic()):
        return await anext(items)


async def _close(items: AsyncGenerator[Any]) -> None:
    await items.aclose()
