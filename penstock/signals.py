"""SIGTERM and SIGINT ask a program to stop; asked a second time it ends at once."""

import asyncio
import os
import signal

EXIT_AT_ONCE = 1
PARENT_POLL_SECONDS = 0.5


async def stop_signals(*, exit_with_parent: bool = False) -> None:
    """Return when the program is asked to stop, or, if told so, when its parent is gone.

    From then on a second signal ends it on the spot: safely, since what is not recorded yet is delivered again.
    """
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            os._exit(EXIT_AT_ONCE)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    watching = asyncio.create_task(_watch_parent(asked)) if exit_with_parent else None
    await asked.wait()
    if watching is not None:
        watching.cancel()


async def _watch_parent(asked: asyncio.Event) -> None:
    """A killed parent sends no signal; its children are then somebody else's."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(PARENT_POLL_SECONDS)
    asked.set()
