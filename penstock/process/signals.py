"""Stop a program on SIGTERM or SIGINT, when its parent process ends, or when nobody reads its output."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NoReturn

EXIT_AT_ONCE = 1
PARENT_POLL_SECONDS = 0.5


class StoppedWhileStarting(Exception):
    """The program was asked to stop before it had started. This is no failure."""


@asynccontextmanager
async def open_unless_stopped(
    context: AbstractAsyncContextManager[None], stopping: asyncio.Task[None]
) -> AsyncIterator[None]:
    """Keep a context open during the block. If `stopping` ends while it opens, cancel it.

    Raises StoppedWhileStarting in that case. Once the context is open, the block has to watch `stopping`.
    """
    async with AsyncExitStack() as stack:
        await _enter(stack, context, stopping)
        yield


async def _enter(
    stack: AsyncExitStack, context: AbstractAsyncContextManager[None], stopping: asyncio.Task[None]
) -> None:
    is_starting = True

    def cancel(_: asyncio.Task[None]) -> None:
        if is_starting:
            start.reschedule(0)

    try:
        async with asyncio.timeout(None) as start:  # it can cancel this task safely, also if the context just opens
            stopping.add_done_callback(cancel)
            try:
                await stack.enter_async_context(context)
            finally:
                is_starting = False
    except TimeoutError:
        if start.expired():
            raise StoppedWhileStarting from None
        raise


@asynccontextmanager
async def listening_for_stop() -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that ends when the program receives SIGTERM or SIGINT. Both are handled before the block starts."""
    stopping = asyncio.create_task(stop_signals(), name="signals")
    await asyncio.sleep(0)
    try:
        yield stopping
    finally:
        stopping.cancel()


async def stop_signals() -> None:
    """Wait until the program receives SIGTERM or SIGINT.

    After that a second signal ends the process immediately. This is safe: SQS delivers unrecorded chunks again.
    """
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            os._exit(EXIT_AT_ONCE)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    await asked.wait()


def end_by_pipe() -> NoReturn:
    """End this process as SIGPIPE ends a program, or with 0 where there is no such signal."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, because sockets would raise it, too
        signal.raise_signal(signal.SIGPIPE)
    os._exit(0)


def end_with_parent(parent: int) -> None:
    """End this process immediately when the process `parent` is no longer its parent.

    A parent that is killed sends no signal, and its children get another parent, perhaps before the first check. The
    parent had started the embedded AWS, which has ended too, so there is nothing left to save.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(EXIT_AT_ONCE)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
