"""SIGTERM and SIGINT ask a program to stop; asked a second time it ends at once."""

import asyncio
import os
import signal

EXIT_AT_ONCE = 1
PARENT_POLL_SECONDS = 0.5


async def stop_signals(*, parent: int | None = None) -> None:
    """Return when the program is asked to stop or, if `parent` is given, when that process is not its parent any more.

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
    watching = None if parent is None else asyncio.create_task(_watch_parent(asked, parent))
    await asked.wait()
    if watching is not None:
        watching.cancel()


async def _watch_parent(asked: asyncio.Event, parent: int) -> None:
    """A killed parent sends no signal; its children are then somebody else's, perhaps before they first look."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(PARENT_POLL_SECONDS)
    asked.set()
