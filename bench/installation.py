"""An installation for the measurements of a case: new servers, and the programs of Penstock and of the floor."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.bare import READY
from bench.counting import FILE_VARIABLE, LATENCY_VARIABLE, Usage, usage_of
from bench.servers import Servers
from penstock.process import programs
from penstock.telemetry import Event

FRONT_END = "front end"
CONSUMER = "consumer"
BARE_FRONT_END = "bare front end"
BARE_CONSUMER = "bare consumer"
PROGRAMS = (FRONT_END, CONSUMER)
BARE_PROGRAMS = (BARE_FRONT_END, BARE_CONSUMER)
NAME, BARE_NAME = "penstock", "bare"  # names of the resources: the floor has its own queue and table
WAIT_SECONDS = 60
POLL_SECONDS = 0.01
# The default settings, except that one JSON document may have 100,000 operations, as the floor accepts it.
LIMITS = {
    "PENSTOCK_MAX_OPERATIONS": "1000000",
    "PENSTOCK_MAX_BODY_BYTES": "1000000000",
    "PENSTOCK_MAX_ELEMENTS": "100000000",
}


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

    async def logs(self, words: str) -> None:
        await self._until(lambda: words in self.log.read_text())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                if self.process.returncode is not None:
                    self._complain()
                await asyncio.sleep(POLL_SECONDS)

    def _complain(self) -> None:
        raise RuntimeError(f"The {self.name} exited unexpectedly. Its log {self.log}:\n{self.log.read_text()[-2000:]}")


@dataclass
class Installation:
    servers: Servers
    folder: Path
    application: str = "bench.application:operations"
    latency_ms: int = 0
    programs: dict[str, Program] = field(default_factory=dict)
    idle: dict[str, Usage] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)  # of each front end

    async def start_all(self, consumers: int, *, with_bare: bool) -> None:
        await self._provision(NAME)
        front_end = await self._start_front_end(FRONT_END, "penstock.service.__main__")
        started = [
            await self._start(f"{CONSUMER} {number}", "penstock.consumer.__main__")
            for number in range(1, consumers + 1)
        ]
        bare = await self._start_bare(consumers) if with_bare else []
        await front_end.logs(Event.SERVICE_READY)
        for program in started:
            await program.logs(Event.CONSUMER_READY)
        for program in bare:
            await program.logs(READY)
        self.idle = await self.usage()

    async def _start_bare(self, consumers: int) -> list[Program]:
        await self._provision(BARE_NAME)
        return [
            await self._start_front_end(BARE_FRONT_END, "bench.bare", "serve"),
            *[
                await self._start(f"{BARE_CONSUMER} {number}", "bench.bare", "consume")
                for number in range(1, consumers + 1)
            ],
        ]

    async def _start_front_end(self, name: str, module: str, *arguments: str) -> Program:
        port = _free_port()
        operators = () if arguments else ("--operator-port", str(_free_port()))
        self.urls[name] = f"http://127.0.0.1:{port}"
        return await self._start(name, module, *arguments, "--port", str(port), *operators)

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
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self.programs[name] = Program(name, process, usage_file, log)
        return self.programs[name]

    def _environment(self, **more: str) -> dict[str, str]:
        """Return an environment without access to any AWS account."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PENSTOCK_"))}
        ours = {"PENSTOCK_APP": self.application, LATENCY_VARIABLE: str(self.latency_ms), **LIMITS}
        return {**outside, **ours, **self.servers.environment, **more}


@asynccontextmanager
async def open_installation(
    servers: Servers,
    folder: Path,
    consumers: int,
    *,
    application: str = Installation.application,
    latency_ms: int = 0,
    with_bare: bool = False,
) -> AsyncIterator[Installation]:
    installation = Installation(servers, folder, application, latency_ms)
    try:
        await installation.start_all(consumers, with_bare=with_bare)
        yield installation
    finally:
        await installation.stop_all()


def _free_port() -> int:
    """Return a free port below 32,768: the system may give a higher one to a connection before the program listens."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
