"""What `make run` starts: Penstock with this example, and its data file through it.

fresh database ──► penstock up ──► ready ──► penstock submit users.csv ──► does the database agree? ──► serve on
"""

import asyncio
import csv
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from sqlalchemy import make_url, select

from examples.users.database import DEMO_FILE, URL_VARIABLE, Database, database_url, read_url
from examples.users.models import STAFF, UserRow

APPLICATION = "examples.users.app:operations"
DATA_FILE = Path(__file__).with_name("users.csv")
LOG_FILE = Path(".run/penstock.log")  # beside the screen, which belongs to the progress and the summary
LAST_WORDS = 15  # lines of the log that are shown when Penstock ends by itself
HOST = "127.0.0.1"

READY_SECONDS = 60.0
STOP_SECONDS = 60.0  # longer than the parts give each other to finish what is in flight
POLL_SECONDS = 0.1


class Failed(Exception):
    """The run cannot go on; the message is all there is to say."""


def main(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where Penstock listens.")] = 8080,
    *,
    once: Annotated[bool, typer.Option("--once", help="End after the summary: 0 if every row ended as meant.")] = False,
) -> None:
    """Start Penstock with the users example, send it the example's data file, and keep serving until Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, leave)
    try:
        is_well = run(port, once=once)
    except Failed as failure:
        typer.echo(str(failure), err=True)
        is_well = False
    except KeyboardInterrupt:
        typer.echo("Interrupted before the end.", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    raise typer.Exit(0 if is_well else 1)


def run(port: int, *, once: bool) -> bool:
    """True if every row ended as the data file means it to, and the database shows it."""
    check_port(port)
    prepare_database()
    with penstock_up(port) as program:
        wait_until_ready(program, port)
        is_well = submit(port) & check_database()
        if not once:
            serve_until_interrupted(program, port)
    return is_well or not once


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Failed(
                f"Port {port} cannot be had ({error.strerror}). Stop what listens there, or choose another: "
                f"make run ARGS='--port {port + 1 if port < 65_535 else port - 1}'."
            ) from error


def prepare_database() -> None:
    """A demo begins with an empty database. One that the user named is the user's: nothing is removed."""
    try:
        read_url(database_url())
    except ValueError as error:
        raise Failed(str(error)) from error
    if os.environ.get(URL_VARIABLE):
        typer.echo(f"Using {database_name()}. Rows that are there already will end with 409.")
        return
    for ending in ("", "-wal", "-shm"):
        DEMO_FILE.with_name(DEMO_FILE.name + ending).unlink(missing_ok=True)


def database_name() -> str:
    if not os.environ.get(URL_VARIABLE):
        return str(DEMO_FILE)
    return make_url(database_url()).render_as_string(hide_password=True)


@contextmanager
def penstock_up(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs everything on this machine. In a process group of its own, so that Ctrl-C reaches it once: through us.

    A second signal would end it on the spot.
    """
    LOG_FILE.parent.mkdir(exist_ok=True)
    with LOG_FILE.open("wb") as log:
        program = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [*penstock(), "up", "--app", APPLICATION, "--host", HOST, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stderr=log,
            process_group=0,
        )
    try:
        yield program
    finally:
        stop(program)


def penstock() -> list[str]:
    """The command that was installed beside this Python, or what it stands for."""
    command = Path(sys.executable).with_name("penstock")
    return [str(command)] if command.exists() else [sys.executable, "-m", "penstock.cli"]


def stop(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is not None:
        return
    program.terminate()
    try:
        program.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def wait_until_ready(program: subprocess.Popen[bytes], port: int) -> None:
    give_up_at = time.monotonic() + READY_SECONDS
    while not is_ready(port):
        if program.poll() is not None:
            raise Failed(f"Penstock ended before it was ready{last_words(program)}")
        if time.monotonic() > give_up_at:
            raise Failed(
                f"Penstock was not ready after {READY_SECONDS:.0f} s; http://{HOST}:{port}/health/ready says why."
            )
        time.sleep(POLL_SECONDS)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def last_words(program: subprocess.Popen[bytes]) -> str:
    code = program.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    lines = LOG_FILE.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
    return "\n  ".join([f" ({how}); {LOG_FILE} ends with:", *lines])


def submit(port: int) -> bool:
    command = ("submit", str(DATA_FILE), "--method", "POST", "--path", "/users", "--expect", "expect")
    return subprocess.run([*penstock(), *command, "--url", f"http://{HOST}:{port}"], check=False).returncode == 0  # noqa: S603 - as above


def check_database() -> bool:
    """Is everyone in the database whom the data file promises, and nobody whom it does not?"""
    found, promised = asyncio.run(read_emails()), promised_emails(DATA_FILE)
    missing = promised - found
    uninvited = set() if os.environ.get(URL_VARIABLE) else found - promised
    typer.echo(f"{len(found):,} users are in {database_name()}: {verdict(missing, uninvited)}")
    return not missing and not uninvited


def verdict(missing: set[str], uninvited: set[str]) -> str:
    if not missing and not uninvited:
        return "all that the data file promises."
    named = {"missing": sorted(missing), "there without having been promised": sorted(uninvited)}
    return "; ".join(f"{len(who)} {what}, such as {who[0]}" for what, who in named.items() if who) + "."


async def read_emails() -> set[str]:
    database = Database(database_url())
    try:
        async with database.open_session() as session:
            return set(await session.scalars(select(UserRow.email)))
    finally:
        await database.close()


def promised_emails(file: Path) -> set[str]:
    """The staff, and whoever a row lets in: of two rows with the same address one is."""
    with file.open(encoding="utf-8", newline="") as lines:
        welcome = {row["email"].lower() for row in csv.DictReader(lines) if "201" in row["expect"]}
    return welcome | {str(account["email"]) for account in STAFF}


def say_what_to_try(port: int) -> None:
    url = f"http://{HOST}:{port}"
    typer.echo(f"""
Penstock listens on {url}. Try, in another terminal:

  curl -s {url}/batch -H 'Content-Type: application/json' -d '{{"operations": [
    {{"id": "new",  "method": "POST",  "path": "/users", "body":
      {{"email": "ada@example.com", "name": "Ada Lovelace", "born_on": "1985-12-10", "country": "GB"}}}},
    {{"id": "dup",  "method": "POST",  "path": "/users", "body":
      {{"email": "help@penstock.example", "name": "Nobody", "born_on": "1990-01-01", "country": "IE"}}}},
    {{"id": "look", "method": "GET",   "path": "/users/1"}},
    {{"id": "move", "method": "PATCH", "path": "/users/2", "body": {{"country": "SE"}}}}]}}'

  curl -s {url}/batch -H 'Content-Type: application/json' -d '{{"atomic": true, "operations": [
    {{"method": "DELETE", "path": "/users/2"}}, {{"method": "GET", "path": "/users/999999"}}]}}'

Its log is in {LOG_FILE}. Ctrl-C ends it.""")


def serve_until_interrupted(program: subprocess.Popen[bytes], port: int) -> None:
    try:
        say_what_to_try(port)
        program.wait()
    except KeyboardInterrupt:
        return
    raise Failed(f"Penstock ended by itself{last_words(program)}")


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM, or the terminal was closed: unwinds as Ctrl-C does, so that Penstock is stopped first."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    typer.run(main)
