"""Starts Penstock's programs as real processes, for tests that kill them."""

import asyncio
import itertools
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.support.waiting import UNIT_SECONDS, eventually

ACCESS_KEY = "AWS_ACCESS_KEY_ID"
FIRST_PORT = 20_000
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # see man 7 ip
ROLES = {
    "penstock.service": "service",
    "serve": "service",
    "penstock.consumer": "consumer",
    "consume": "consumer",
}


@dataclass
class Program:
    """A program and the file that its output goes to."""

    process: asyncio.subprocess.Process
    log: Path

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, units: float = 30) -> int:
        """Wait until the program has ended, and return its exit code."""
        return await asyncio.wait_for(self.process.wait(), units * UNIT_SECONDS)

    def output(self) -> str:
        return self.log.read_text()

    async def says(self, words: str, units: float = 60) -> str:
        """Wait until the output contains these words, and return it."""

        async def is_said() -> bool:
            return words in self.output()

        await eventually(is_said, units)
        return self.output()


@dataclass
class Programs:
    """Starts programs, and kills those that still run at the end."""

    environment: Mapping[str, str]
    folder: Path
    started: list[Program] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def start(self, module: str, *arguments: str, **environment: str) -> Program:
        """Start a module. It ends with the test run, also if that is killed."""
        leash = ("--exit-with-parent", str(os.getpid()))
        return await self._start(module, [sys.executable, "-m", module, *arguments, *leash], environment)

    async def penstock(self, command: str, *arguments: str, **environment: str) -> Program:
        """Start a program as people do: `penstock up`, `penstock serve`, and so on."""
        script = str(Path(sys.executable).with_name("penstock"))
        return await self._start(command, [script, command, *arguments], environment)

    async def start_service(self, port: int, operator_port: int, **environment: str) -> Program:
        """Start a front end, and wait until it answers."""
        ports = ("--port", str(port), "--operator-port", str(operator_port))
        program = await self.start("penstock.service", *ports, **environment)
        await until_ready(port, program)
        return program

    async def start_consumer(self, **environment: str) -> Program:
        program = await self.start("penstock.consumer", **environment)

        async def is_ready() -> bool:
            assert program.process.returncode is None, program.output()
            return "consumer ready" in program.output()

        await eventually(is_ready)
        return program

    async def stop_all(self) -> None:
        for program in self.started:
            if program.process.returncode is None:
                program.kill()
            await program.process.wait()

    async def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> Program:
        log = self.folder / f"{next(self._numbers)}-{name}.log"
        # The name of the program is its access key, so that the embedded AWS can tell which program called.
        known = {ACCESS_KEY: ROLES[name]} if name in ROLES and ACCESS_KEY in self.environment else {}
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**self.environment, **known, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        program = Program(process, log)
        self.started.append(program)
        return program


@asynccontextmanager
async def programs(environment: Mapping[str, str], folder: Path) -> AsyncIterator[Programs]:
    running = Programs(environment, folder)
    try:
        yield running
    finally:
        await running.stop_all()


def free_port() -> int:
    """Return a free port whose next port is free, too: `penstock up` listens there for operators.

    The system gives the ports of its ephemeral range to connections, so a port of that range could be taken before the
    program listens on it.
    """
    while True:
        port = FIRST_PORT + secrets.randbelow(_first_ephemeral_port() - 1 - FIRST_PORT)  # tests may seed `random`
        with socket.socket() as probe, socket.socket() as next_probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            next_probe.bind(("127.0.0.1", port + 1))
            return port


def _first_ephemeral_port() -> int:
    return int(EPHEMERAL_PORTS.read_text().split()[0])


async def until_ready(port: int, program: Program) -> None:
    async with aiohttp.ClientSession() as session:

        async def is_ready() -> bool:
            assert program.process.returncode is None, program.output()
            try:
                async with session.get(f"http://127.0.0.1:{port}/health/ready") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(is_ready)
