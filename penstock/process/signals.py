"""Stop a program on SIGTERM or SIGINT, or when its parent process ends."""

import asyncio
import os
import signal
import threading
import time

EXIT_AT_ONCE = 1
PARENT_POLL_SECONDS = 0.5


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
