"""An installation for the measurements of a case: new servers, and the programs of Penstock and of the floors."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.session import get_session

from bench.counting import FILE_VARIABLE, Usage, usage_of
from bench.servers import CREDENTIALS, Servers
from penstock.aws.store import DynamoDbStore
from penstock.process import programs
from penstock.telemetry import Event

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

FRONT_END = "front end"
CONSUMER = "consumer"
SENDER = "sender"
BARE_CONSUMER = "bare consumer"
ALONE = "alone"
PROGRAMS = (FRONT_END, CONSUMER)
BARE_PROGRAMS = (SENDER, BARE_CONSUMER)
NAME, BARE_NAME = "penstock", "bare"  # names of the resources: the floor has its own queue and table
WAIT_SECONDS = 60
POLL_SECONDS = 0.01


@dataclass
class Program:
    name: str
    process: asyncio.subprocess.Process
    usage_file: Path
    log: Path

    async def usage(self) -> Usage:
        self.usage_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await self._until(self.usage_file.exists)
        return Usage.model_validate_json(self.usage_file.read_bytes())

    async def ask(self, *words: object) -> dict[str, Any]:
        """Send a command to a floor's program and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(await self.process.stdout.readline() or self._complain())
        return said

    async def logs(self, words: str) -> None:
        await self._until(lambda: words in self.log.read_text())

    async def _until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                if self.process.returncode is not None:
                    self._complain()
                await asyncio.sleep(POLL_SECONDS)

    def _complain(self) -> str:
        raise RuntimeError(f"The {self.name} exited unexpectedly. Its log {self.log}:\n{self.log.read_text()[-2000:]}")


@dataclass
class Installation:
    servers: Servers
    folder: Path
    application: str | None = None  # another application than that of the bench; there are no floors then
    port: int = 0
    programs: dict[str, Program] = field(default_factory=dict)
    idle: dict[str, Usage] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start_all(self, consumers: int) -> None:
        for name in (NAME, BARE_NAME):
            await self._provision(name)
        self.port = _free_port()
        ports = ("--port", str(self.port), "--operator-port", str(_free_port()))
        front = await self._start(FRONT_END, "penstock.service.__main__", *ports)
        numbers = range(1, consumers + 1)
        ours = [await self._start(f"{CONSUMER} {number}", "penstock.consumer.__main__") for number in numbers]
        floors = [] if self.application else await self._start_floors(numbers)
        await front.logs(Event.SERVICE_READY)
        for program in ours:
            await program.logs(Event.CONSUMER_READY)
        for program in floors:
            await program.answer()
        self.idle = await self.usage()

    async def _start_floors(self, numbers: range) -> list[Program]:
        return [
            await self._start(SENDER, "bench.bare", "send"),
            *[await self._start(f"{BARE_CONSUMER} {number}", "bench.bare", "consume") for number in numbers],
            await self._start(ALONE, "bench.alone"),
        ]

    async def usage(self) -> dict[str, Usage]:
        usages = await asyncio.gather(*(program.usage() for program in self.programs.values()))
        return dict(zip(self.programs, usages, strict=True)) | {
            name: usage_of(pid) for name, pid in self.servers.pids.items()
        }

    async def stop_all(self) -> None:
        """Kill all programs. They keep nothing that is needed, and a clean stop would wait for long polls."""
        for program in self.programs.values():
            with suppress(ProcessLookupError):
                program.process.kill()
            await program.process.wait()

    async def _provision(self, name: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *programs.command("penstock.infra.provision"),
            env=self._environment(PENSTOCK_NAME=name),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await process.wait():
            raise RuntimeError("The servers could not be provisioned. The output above has the reason.")

    async def _start(self, name: str, module: str, *arguments: str) -> Program:
        base = self.folder / name.replace(" ", "-")
        usage_file, log = base.with_suffix(".json"), base.with_suffix(".log")
        is_bare = module == "bench.bare"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.program", module, *arguments),
                *("--exit-with-parent", str(os.getpid())),
                env=self._environment(
                    **{FILE_VARIABLE: str(usage_file), "PENSTOCK_NAME": BARE_NAME if is_bare else NAME}
                ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self.programs[name] = Program(name, process, usage_file, log)
        return self.programs[name]

    def _environment(self, **more: str) -> dict[str, str]:
        """Return an environment with default settings and without access to any AWS account."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PENSTOCK_"))}
        application = {"PENSTOCK_APP": self.application or "bench.application:operations"}
        return {**outside, **application, **self.servers.environment, **more}


@asynccontextmanager
async def open_installation(
    servers: Servers, consumers: int, folder: Path, *, application: str | None = None
) -> AsyncIterator[Installation]:
    installation = Installation(servers, folder, application)
    try:
        await installation.start_all(consumers)
        yield installation
    finally:
        await installation.stop_all()


@dataclass(frozen=True, slots=True)
class Watcher:
    """Reads the state of a run: over HTTP like a client, and directly from the tables, which costs no program time."""

    http: aiohttp.ClientSession
    dynamodb: "DynamoDBClient"

    @property
    def store(self) -> DynamoDbStore:
        return DynamoDbStore(self.dynamodb, NAME)


@asynccontextmanager
async def open_watcher(installation: Installation) -> AsyncIterator[Watcher]:
    client = get_session().create_client(
        "dynamodb",
        endpoint_url=installation.servers.environment["AWS_ENDPOINT_URL_DYNAMODB"],
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    timeout = aiohttp.ClientTimeout(total=None)
    async with client as dynamodb, aiohttp.ClientSession(installation.url, timeout=timeout) as http:
        yield Watcher(http, dynamodb)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
