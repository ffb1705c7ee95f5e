"""SIGTERM and SIGINT ask a program to stop; asked a second time it ends at once. And how to end with a parent."""

import asyncio
import os
import signal
import threading
import time

EXIT_AT_ONCE = 1
PARENT_POLL_SECONDS = 0.5


async def stop_signals() -> None:
    """Return when the program is asked to stop.

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
    await asked.wait()


def end_with_parent(parent: int) -> None:
    """End this program on the spot once process `parent` is not its parent any more, whatever it is doing.

    A killed parent sends no signal; its children are then somebody else's, perhaps before they first look. The AWS that
    it had started ends with it, so there is nothing left to save, and nowhere to save it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(EXIT_AT_ONCE)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
