"""Runs everything on this machine: `penstock up`.

It starts an embedded AWS, makes the queues, the table and a bucket, and starts a front end and the consumers, each in
a process of its own. All of them stop together: on Ctrl-C, on SIGTERM, or when one of them ends. But a front end that
dies after it was ready is started again, because an operation may have killed it. A consumer that dies is started again
by the parent of the consumers (`consumer/processes.py`).
"""

import asyncio
import contextlib
import os
import random
import secrets
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, NoReturn

import aiohttp
import typer

from penstock.api_key import environment_of, make_key
from penstock.application import find_application
from penstock.backoff import Backoff
from penstock.errors import Misconfigured, PenstockError
from penstock.infra.embedded.sizes import MAX_UPLOAD_BYTES
from penstock.process import command_line, programs
from penstock.process.command_line import App, Host, OperatorHost, OperatorPort, Port, operator_ports
from penstock.process.listening import check_free, check_not_open, first_free_port
from penstock.process.signals import stop_signals
from penstock.settings import Settings, read_settings

READY_SECONDS = 60
STOP_SECONDS = 45  # longer than the grace period and the recording of results take together
POLL_SECONDS = 0.1
RESTART = Backoff(base_seconds=1, max_seconds=30)
HEALTHY_SECONDS = 60.0  # if a front end lived this long, its next restart waits as short as the first one
OPERATOR_KEY = "PENSTOCK_OPERATOR_KEY"
BUCKET = "PENSTOCK_BUCKET"
WEBHOOK_SECRET = "PENSTOCK_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
REGION = "us-east-1"
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - shown to people, not listened on


class PartEnded(PenstockError):
    """A part could not start, or ended although nobody had asked it to."""


@dataclass(slots=True)
class Part:
    """A program that runs here. Its process is replaced by a restart."""

    name: str
    command: list[str]
    process: asyncio.subprocess.Process


class Machine:
    """The parts that run here: start them one after another, wait for the `first_death`, and `stop` all of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._parts: list[Part] = []

    async def start(self, name: str, module: str, *arguments: str, stdout: int | None = None) -> Part:
        command = programs.command(module, *arguments, "--exit-with-parent", str(os.getpid()))
        part = Part(name, command, await self._start_process(command, stdout))
        self._parts.append(part)
        return part

    async def restart(self, part: Part) -> None:
        part.process = await self._start_process(part.command)

    async def _start_process(self, command: list[str], stdout: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            env=self.environment,
            stdout=stdout,
            # A session of its own: Ctrl-C reaches only this process, which stops the parts in the right order.
            start_new_session=True,
        )

    async def run(self, name: str, module: str) -> None:
        """Run a program until it ends. Raise Misconfigured if it fails."""
        process = await asyncio.create_subprocess_exec(
            *programs.command(module, "--exit-with-parent", str(os.getpid())),
            env=self.environment,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            if await process.wait() != 0:
                raise Misconfigured(f"The {name} failed. The lines above say why.")
        finally:
            if process.returncode is None:  # a request to stop came first
                process.kill()
                await process.wait()

    async def first_death(self, *, without: Part | None = None) -> NoReturn:
        """Wait until a part ends, and raise PartEnded. The part `without` may end."""
        parts = [part for part in self._parts if part is not without]
        waits = {asyncio.create_task(part.process.wait()): part for part in parts}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        dead = waits[done.pop()]
        raise PartEnded(
            f"The {dead.name} stopped unexpectedly ({_end(dead.process.returncode)}), so everything else was stopped "
            "too. The lines above say why."
        )

    async def stop(self) -> None:
        """Stop the parts, the last one first, so that no part loses another one that it still needs."""
        for part in reversed(self._parts):
            await _stop_part(part)


async def _stop_part(part: Part) -> None:
    if part.process.returncode is not None:
        return
    part.process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(part.process.wait(), STOP_SECONDS)
    except TimeoutError:
        _say(f"The {part.name} did not stop within {STOP_SECONDS} s and had to be killed.")
        part.process.kill()
        await part.process.wait()


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{ANY_HOST.get(self.host, self.host)}:{self.port}"


async def _up(clients: Address, operators: Address, consumers: int) -> None:
    """Run everything until a request to stop. Raise PenstockError if a part cannot start or ends before that."""
    settings = read_settings()
    check_not_open(settings, clients.host, operators.host)
    check_free(clients.host, clients.port, "--port or --host")  # a Penstock there would say that it is ready
    find_application(settings)  # checked once here: otherwise each part would report the same error
    machine = Machine(local_environment(os.environ))
    machine.environment.setdefault(BUCKET, bucket_name(settings.name))
    if _lacks_operator_key(settings):
        machine.environment[OPERATOR_KEY] = make_key(environment_of(settings.name)).text
    stopping = asyncio.create_task(stop_signals())
    await asyncio.sleep(0)  # listen to signals before there is a part that could outlive this process
    working = asyncio.create_task(_work(machine, settings, clients, operators, consumers))
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        _say("Stopping ...")
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await machine.stop()
        stopping.cancel()


async def _work(machine: Machine, settings: Settings, clients: Address, operators: Address, consumers: int) -> NoReturn:
    endpoint = await _start_aws(machine)
    machine.environment["AWS_ENDPOINT_URL"] = endpoint
    await machine.run("provisioning", "penstock.infra.provision")
    for_clients = ("--host", clients.host, "--port", str(clients.port))
    for_operators = ("--operator-host", operators.host, "--operator-port", str(operators.port))
    front_end = await machine.start("front end", "penstock.service", *for_clients, *for_operators)
    await machine.start("consumers", "penstock.consumer", "--processes", str(consumers), "--give-up")
    await _first_of(_until_ready(f"{clients.url}/health/ready"), machine.first_death())
    _say(_addresses(clients.url, operators.url, endpoint, settings, machine.environment[BUCKET]))
    if _lacks_operator_key(settings):
        _say(_about_key(machine.environment[OPERATOR_KEY], clients.url))
    await _first_of(_keep_running(machine, front_end), machine.first_death(without=front_end))
    raise AssertionError("both of them run until they raise")


async def _first_of(*steps: Coroutine[Any, Any, None]) -> None:
    """Run steps concurrently until one of them returns or raises. Cancel the others."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _keep_running(machine: Machine, part: Part) -> NoReturn:
    """Start a part again whenever it ends. It could start before, so there is hope."""
    deaths = 0
    while True:
        started_at = time.monotonic()
        exit_code = await part.process.wait()
        deaths = 1 if time.monotonic() - started_at >= HEALTHY_SECONDS else deaths + 1
        wait = RESTART.delay_seconds(deaths, random.random())  # noqa: S311 - spreads restarts
        _say(f"The {part.name} stopped unexpectedly ({_end(exit_code)}). It is started again in {wait:.1f} s.")
        await asyncio.sleep(wait)
        await machine.restart(part)


def _end(returncode: int | None) -> str:
    """Say in words how a process ended."""
    if returncode is not None and returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


async def _start_aws(machine: Machine) -> str:
    part = await machine.start("embedded AWS", "penstock.infra.embedded", "--port", "0", stdout=asyncio.subprocess.PIPE)
    assert part.process.stdout is not None
    line = (await part.process.stdout.readline()).decode()
    if not line:
        raise PartEnded(f"The embedded AWS did not start ({_end(await part.process.wait())}).")
    return line.split()[-1]


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(int(READY_SECONDS / POLL_SECONDS)):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == HTTPStatus.OK:
                        return
            await asyncio.sleep(POLL_SECONDS)
    raise PartEnded(f"The front end is not ready after {READY_SECONDS} s. The lines above say why.")


def local_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the parts. They use the embedded AWS, even if the shell names an AWS account."""
    return {
        "PENSTOCK_LOG_FORMAT": "text",  # a person reads these lines
        "PENSTOCK_RECEIVE_WAIT_SECONDS": "1",  # a stop, as by Ctrl-C, waits for a receive in progress
        "PENSTOCK_SHOW_ERRORS": "true",  # the client is the developer
        "PENSTOCK_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),  # the embedded S3 accepts no larger file
        "PENSTOCK_LEAVE_SECONDS": "0",  # there is no load balancer that must notice first
        "PENSTOCK_WEBHOOK_ALLOW": "localhost,127.0.0.0/8,::1",  # where a developer tries a receiver
        WEBHOOK_SECRET: secrets.token_urlsafe(32),
        **{name: value for name, value in outside.items() if not name.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def bucket_name(name: str) -> str:
    """Return the name of the bucket here. S3 allows fewer characters than the names of queues have."""
    return f"{name.lower().replace('_', '-').strip('-')}-files"


def _addresses(url: str, operator_url: str, endpoint: str, settings: Settings, bucket: str) -> str:
    application = settings.app or f"forwards everything to {settings.upstream}"
    return f"""
Penstock is up.
  application   {application}
  console       {url}/console        send a file, and watch it
                {operator_url}/console        the same for operators, with dead letters, handlers and keys
  batches       {url}/batch
  health        {url}/health/ready
  dead letters  {operator_url}/dead-letters
  metrics       {operator_url}/metrics
  embedded AWS  {endpoint}
                queues {", ".join((*settings.chunk_queues.values(), settings.dead_letter_queue))}
                table {settings.table}
                bucket {bucket}

To look inside with any AWS client:
  export AWS_ENDPOINT_URL={endpoint} AWS_REGION={REGION} AWS_DEFAULT_REGION={REGION}
  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local

Everything is in memory and is lost when this stops. Press Ctrl-C to stop."""


def _lacks_operator_key(settings: Settings) -> bool:
    """Return True if requests need a key, but nobody could make the first one."""
    return settings.needs_keys and settings.operator_key is None


def _about_key(key: str, url: str) -> str:
    return f"""
Requests need a key (PENSTOCK_AUTH=keys). This one has all scopes. It works until this stops, and is not shown again,
because it was made now: PENSTOCK_OPERATOR_KEY is not set.
  export PENSTOCK_API_KEY={key}
  export PENSTOCK_URL={url}"""


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the person at the terminal; log lines go to stderr


def main() -> None:
    command_line.run("up", up)


def up(
    *,
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    operator_host: OperatorHost = "127.0.0.1",
    operator_port: OperatorPort = None,
    consumers: Annotated[int, typer.Option(min=1, max=64, help="How many consumers to run.")] = 2,
) -> None:
    """Run everything on this machine: an embedded AWS, a front end and consumers. Ctrl-C stops it."""
    command_line.apply_common_options(app)
    ports = operator_ports(operator_port, port)
    operators = Address(operator_host, first_free_port(operator_host, ports))
    asyncio.run(_up(Address(host, port), operators, consumers))


if __name__ == "__main__":
    main()
