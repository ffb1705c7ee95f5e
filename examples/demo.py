"""What the programs of the examples share: Penstock on this machine, from before it is ready until Ctrl-C."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

LOG_FILE = Path(".run/penstock.log")  # beside the screen, which belongs to the progress and the summary
LAST_WORDS = 15  # lines of the log that are shown when Penstock ends by itself
HOST = "127.0.0.1"

READY_SECONDS = 60.0
STOP_SECONDS = 60.0  # longer than the parts give each other to finish what is in flight
POLL_SECONDS = 0.1


class Failed(Exception):
    """The run cannot go on; the message is all there is to say."""


def carry_out(run: Callable[[], bool]) -> NoReturn:
    """Runs a demonstration to its exit code: 0 if it says that all is well."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, leave)
    try:
        is_well = run()
    except Failed as failure:
        typer.echo(str(failure), err=True)
        is_well = False
    except KeyboardInterrupt:
        typer.echo("Interrupted before the end.", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    raise typer.Exit(0 if is_well else 1)


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM, or the terminal was closed: unwinds as Ctrl-C does, so that Penstock is stopped first."""
    raise SystemExit(128 + number)


def check_port(port: int, command: str) -> None:
    """Raises Failed unless it can be listened on. `command` is how to name another, with {port} for its number."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = command.format(port=port + 1 if port < 65_535 else port - 1)
            raise Failed(
                f"Port {port} cannot be had ({error.strerror}). Stop what listens there, or choose another: {other}."
            ) from error


class Penstock:
    """`penstock up`, a process of ours."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._process = process
        self._port = port

    def wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise Failed(f"Penstock ended before it was ready{self._last_words()}")
            if time.monotonic() > give_up_at:
                raise Failed(f"Penstock was not ready after {READY_SECONDS:.0f} s; {self.url}/health/ready says why.")
            time.sleep(POLL_SECONDS)

    def submit(self, file: Path, *options: str) -> bool:
        """`penstock submit`, with the progress and the summary on the screen. True if all ended as expected."""
        command = [*penstock(), "submit", str(file), *options, "--expect", "expect", "--url", self.url]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own program, no shell

    def serve_until_interrupted(self, what_to_try: str) -> None:
        try:
            typer.echo(
                f"\nPenstock listens on {self.url}. Try, in another terminal:\n\n{what_to_try}\n\n"
                f"Its log is in {LOG_FILE}. Ctrl-C ends it."
            )
            self._process.wait()
        except KeyboardInterrupt:
            return
        raise Failed(f"Penstock ended by itself{self._last_words()}")

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = LOG_FILE.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
        return "\n  ".join([f" ({how}); {LOG_FILE} ends with:", *lines])


@contextmanager
def penstock_up(application: str, port: int, environment: Mapping[str, str] | None = None) -> Iterator[Penstock]:
    """Runs everything on this machine until the block ends.

    In a process group of its own, so that Ctrl-C reaches it once: through us. A second signal would end it on the spot.
    """
    LOG_FILE.parent.mkdir(exist_ok=True)
    with LOG_FILE.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [*penstock(), "up", "--app", application, "--host", HOST, "--port", str(port)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stderr=log,
            process_group=0,
        )
    program = Penstock(process, port)
    try:
        yield program
    finally:
        program.stop()


def penstock() -> list[str]:
    """The command that was installed beside this Python, or what it stands for."""
    command = Path(sys.executable).with_name("penstock")
    return [str(command)] if command.exists() else [sys.executable, "-m", "penstock"]
