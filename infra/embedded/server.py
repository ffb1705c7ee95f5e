"""The embedded AWS: SQS, DynamoDB, S3 and the other services of moto in one process, in memory, correct under load.

As a program: `python -m penstock.infra.embedded [--host 127.0.0.1] [--port 0] [--exit-with-parent [PID]]`. When it is
ready it prints the line `embedded AWS ready on http://127.0.0.1:PORT`. It exits with code 0 on SIGTERM and SIGINT.
In a test: `with EmbeddedAws() as aws: ... aws.url ... aws.reset()`.
"""

import argparse
import asyncio
import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from penstock.infra.embedded.host import Watch, host_moto

READY_LINE = "embedded AWS ready on {url}"
PARENT_CHECK_SECONDS = 0.5


class EmbeddedAws:
    """The embedded AWS in a thread of this process with its own event loop, so a test may block or close its loop.

    Entering the context starts it, empty, on a free port, and waits until it is ready. Leaving the context stops it. A
    process can have only one at a time, since moto keeps its state in the process.
    """

    url: str

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, watch: Watch | None = None) -> None:
        self._host, self._port, self._watch = host, port, watch

    def __enter__(self) -> Self:
        ready: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, args=[ready], name="embedded-aws", daemon=True)
        self._thread.start()
        self.url = ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def reset(self) -> None:
        """Delete every queue, table and bucket."""
        reset(self.url)

    def _run(self, ready: "Future[str]") -> None:
        try:
            asyncio.run(self._serve(ready))
        except Exception as error:
            # Until it is ready, __enter__ waits and raises the error. Later only the thread can report it.
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: "Future[str]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with host_moto(self._host, self._port, self._watch) as url:
            ready.set_result(url)
            await self._stop.wait()


def reset(url: str) -> None:
    """Delete every queue, table and bucket of the embedded AWS at `url`."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/moto-api/reset")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{url} could not be reset. It answered {answer.status} {answer.reason}.")
    finally:
        connection.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the embedded AWS as a program."""
    parser = argparse.ArgumentParser(prog="python -m penstock.infra.embedded", description="An AWS in one process.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    parser.add_argument(
        "--exit-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="exit when the parent process, or the process PID, has ended",
    )
    options = parser.parse_args(arguments)
    asyncio.run(run(options.host, options.port, parent=options.exit_with_parent))


async def run(host: str, port: int, *, parent: int | None) -> None:
    """Serve until SIGTERM or SIGINT or, if `parent` is given, until that process is no longer our parent."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with host_moto(host, port) as url:
        print(READY_LINE.format(url=url), flush=True)  # noqa: T201 - the program that started this one reads it
        while not stop.is_set() and parent in {None, os.getppid()}:
            await _wait(stop, PARENT_CHECK_SECONDS if parent else None)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
