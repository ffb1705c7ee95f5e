"""The embedded AWS: SQS, DynamoDB, S3 and whatever else moto knows, in one process, in memory, exact under any load.

As a program: `python -m penstock.infra.embedded [--host 127.0.0.1] [--port 0] [--exit-with-parent [PID]]`. It prints
one line once it answers, `embedded AWS ready on http://127.0.0.1:PORT`, and ends with code 0 on SIGTERM and SIGINT.
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
    """The embedded AWS in a thread of this process, on a loop of its own: a test may block its loop, or close it.

    Entering starts it, empty, on a free port, and waits until it answers; leaving stops it. One at a time in a
    process, since moto's state is the process's.
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
        """Forget every queue, table and bucket."""
        reset(self.url)

    def _run(self, ready: "Future[str]") -> None:
        try:
            asyncio.run(self._serve(ready))
        except Exception as error:
            # Before it was ready this is the answer to __enter__; later no one is there to be told but the thread.
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: "Future[str]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with host_moto(self._host, self._port, self._watch) as url:
            ready.set_result(url)
            await self._stop.wait()


def reset(url: str) -> None:
    """Make the embedded AWS at `url` forget every queue, table and bucket."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/moto-api/reset")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{url} could not be reset: it answered {answer.status} {answer.reason}.")
    finally:
        connection.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m penstock.infra.embedded", description="An AWS in one process.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on (default: a free one)")
    parser.add_argument(
        "--exit-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end once the process that started this one, or PID, is gone",
    )
    options = parser.parse_args(arguments)
    asyncio.run(run(options.host, options.port, parent=options.exit_with_parent))


async def run(host: str, port: int, *, parent: int | None) -> None:
    """Serve until a signal says stop or, if `parent` is given, until that process is no longer our parent."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with host_moto(host, port) as url:
        print(READY_LINE.format(url=url), flush=True)  # noqa: T201 - whoever starts this program reads it
        while not stop.is_set() and parent in {None, os.getppid()}:
            await _wait(stop, PARENT_CHECK_SECONDS if parent else None)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
