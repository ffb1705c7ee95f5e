"""Run Penstock on this machine for an example, from its start until Ctrl-C. The programs of the examples share this."""

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

from penstock.process import programs

LOG_FILE = Path(".run/penstock.log")  # a file, since the terminal shows the progress and the summary
LAST_LINES = 15  # number of log lines that are shown if Penstock exits unexpectedly
HOST = "127.0.0.1"

READY_SECONDS = 60.0
STOP_SECONDS = 60.0  # longer than Penstock's own limits for a stop
POLL_SECONDS = 0.1


class Failed(Exception):
    """The demonstration cannot continue. The message says why and is shown without a traceback."""


def carry_out(run: Callable[[], bool]) -> NoReturn:
    """Run a demonstration and exit: with code 0 if it returns True, and with 1 otherwise."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP, and so do we then
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
    """Exit after SIGTERM or SIGHUP by an exception, as after Ctrl-C, so that Penstock is stopped first."""
    raise SystemExit(128 + number)


def check_port(port: int, command: str) -> None:
    """Raise Failed if the port is not free. `command` shows how to choose another port, with {port} for its number."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other = command.format(port=port + 1 if port < 65_535 else port - 1)
            raise Failed(
                f"Port {port} is not available ({error.strerror}). Stop the program that uses it, or choose another "
                f"port: {other}."
            ) from error


class Penstock:
    """A running `penstock up` in a child process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._process = process
        self._port = port

    def wait_until_ready(self) -> None:
        """Wait until Penstock is ready. Raises Failed if it exits or takes too long."""
        give_up_at = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise Failed(f"Penstock exited before it was ready{self._last_lines()}")
            if time.monotonic() > give_up_at:
                raise Failed(f"Penstock was not ready after {READY_SECONDS:.0f} s. Read {self.url}/health/ready.")
            time.sleep(POLL_SECONDS)

    def submit(self, file: Path, *options: str) -> bool:
        """Run `penstock submit`, which shows progress and a summary. Return True if all outcomes are as expected."""
        command = [*penstock(), "submit", str(file), *options, "--expect", "expect", "--url", self.url]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own program, no shell

    def serve_until_interrupted(self, what_to_try: str) -> None:
        """Show commands to try and wait for Ctrl-C. Raises Failed if Penstock exits."""
        try:
            typer.echo(
                f"\nPenstock listens on {self.url}. Try in another terminal:\n\n{what_to_try}\n\n"
                f"Its log is in {LOG_FILE}. Press Ctrl-C to stop it."
            )
            self._process.wait()
        except KeyboardInterrupt:
            return
        raise Failed(f"Penstock exited unexpectedly{self._last_lines()}")

    def stop(self) -> None:
        """Stop Penstock and wait for it. Kill it if it does not stop in time."""
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

    def _last_lines(self) -> str:
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = LOG_FILE.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return "\n  ".join([f" ({how}); {LOG_FILE} ends with:", *lines])


@contextmanager
def penstock_up(application: str, port: int, environment: Mapping[str, str] | None = None) -> Iterator[Penstock]:
    """Run all of Penstock on this machine until the block ends.

    It runs in its own process group, so that Ctrl-C reaches only us and we send it one signal. A second signal would
    end it immediately.
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
    """Return the `penstock` command of this Python environment, or `python -m penstock` if it is not installed."""
    command = Path(sys.executable).with_name("penstock")
    return [str(command)] if command.exists() else programs.command("penstock")
