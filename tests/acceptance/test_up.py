"""`penstock up` starts everything on this machine with one command, and stops it together."""

import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import boto3
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.acceptance.apps import FOLDER
from tests.acceptance.installation import TOYS, sqs_client
from tests.acceptance.journal import Journal
from tests.support.api import Api, Operation, open_api
from tests.support.aws import scrubbed_environment
from tests.support.processes import Process, children_of, is_running
from tests.support.programs import Program, Programs, free_port, programs
from tests.support.waiting import eventually

WAIT: Operation = {"method": "POST", "path": "/waits"}
DIE: Operation = {"method": "POST", "path": "/poison"}
SUM: Operation = {"method": "POST", "path": "/sums", "body": {"a": 1, "b": 2}}


@dataclass
class Machine:
    """A `penstock up` that has reported that it is up."""

    program: Program
    api: Api
    parts: list[Process]
    journal: Journal

    def part(self, module: str) -> Process:
        return next(part for part in self.parts if f"-m {module} " in part.command)

    async def is_listening(self) -> bool:
        try:
            return (await self.api.get("/health/live")).status == 200
        except aiohttp.ClientError:
            return False

    def exports(self) -> dict[str, str]:
        """Return the variables that it tells people to set for other AWS clients."""
        exports = " ".join(re.findall(r"^ *export (AWS_.*)$", self.program.output(), re.MULTILINE))
        return dict(export.split("=", 1) for export in exports.split())


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Programs]:
    """Provide programs on a machine where no AWS is configured."""
    environment = {**scrubbed_environment(), FOLDER: str(tmp_path), "PENSTOCK_APP": TOYS}
    async with programs(environment, tmp_path) as running:
        yield running


StartUp = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def up(local: Programs) -> AsyncIterator[StartUp]:
    async with AsyncExitStack() as stack:

        async def start(*, consumers: int = 1, **environment: str) -> Machine:
            port = free_port()
            api = await stack.enter_async_context(open_api(port))
            program = await local.penstock("up", "--port", str(port), "--consumers", str(consumers), **environment)
            await program.says("Penstock is up.")
            return Machine(program, api, children_of(program.process.pid), Journal(local.folder))

        yield start


@pytest.mark.story("up")
async def test_everything_is_there_and_can_be_looked_into(up: StartUp) -> None:
    machine = await up(consumers=2)

    small = await machine.api.post([SUM])
    batch_id = await machine.api.submit([SUM] * 300)
    status = await machine.api.ended(batch_id)
    output = await machine.program.says("Ctrl-C")
    with sqs_client(machine.exports()) as sqs:
        queues = sqs.list_queues()["QueueUrls"]

    assert len(machine.parts) == 3
    assert f"{machine.api.url}/batch" in output
    assert f"{machine.api.url}/console" in output
    assert f"{machine.api.operator_url}/console" in output
    assert f"{machine.api.operator_url}/dead-letters" in output
    assert f"{machine.api.operator_url}/metrics" in output
    assert (await machine.api.dead_letters()).body == {"approximateCount": 0, "deadLetters": []}
    assert (await machine.api.get("/dead-letters")).status == 404
    assert small.body["results"] == [{"id": "0", "status": 201, "result": {"sum": 3}}]
    assert (status.status, status.succeeded) == ("completed", 300)
    names = {"penstock-chunks-high", "penstock-chunks-normal", "penstock-chunks-low", "penstock-dead-letters"}
    assert {url.rpartition("/")[2] for url in queues} == names
    assert batch_id in str(items_in_table(machine.exports()))


def items_in_table(environment: dict[str, str]) -> list[object]:
    dynamodb = boto3.client(
        "dynamodb",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],  # boto3 reads no other one
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        return list(dynamodb.scan(TableName="penstock")["Items"])
    finally:
        dynamodb.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_everything_and_it_ends_well(up: StartUp, number: signal.Signals) -> None:
    machine = await up()

    machine.program.process.send_signal(number)

    assert await machine.program.ended() == 0
    await until_gone(machine.parts)
    assert "Traceback" not in machine.program.output()


async def test_death_of_the_embedded_aws_stops_the_rest_and_says_so(up: StartUp) -> None:
    machine = await up()

    machine.part("penstock.infra.embedded").kill()

    assert await machine.program.ended() == 1
    await until_gone(machine.parts)
    output = machine.program.output()
    assert "penstock up: The embedded AWS stopped unexpectedly (killed by SIGKILL)" in output
    assert "Traceback" not in output


async def test_front_end_that_an_operation_kills_is_started_again(up: StartUp) -> None:
    machine = await up()
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError):
            await machine.api.post([DIE])
        await eventually(machine.is_listening)

    assert (await machine.api.post([SUM])).status == 200
    assert machine.program.output().count("The front end stopped unexpectedly (exit code 9). It is started again") == 2
    machine.program.terminate()
    assert await machine.program.ended() == 0


async def test_operation_that_kills_its_consumer_fails_alone(up: StartUp) -> None:
    machine = await up(consumers=2, PENSTOCK_VISIBILITY_SECONDS="2", PENSTOCK_SYNC_MAX_OPERATIONS="0")

    batch_id = await machine.api.submit([SUM] * 7 + [DIE])
    status = await machine.api.ended(batch_id, units=60)
    output = machine.program.output()

    assert (status.status, status.succeeded, status.failed) == ("completed", 7, 1)
    assert "consumer died" in output
    assert re.search("operation suspected.*method=POST.*path=/poison", output)
    assert machine.program.process.returncode is None


async def test_consumers_that_die_without_work_stop_it(up: StartUp) -> None:
    machine = await up()
    parent = machine.part("penstock.consumer")

    async def kill_child() -> bool:
        for child in children_of(parent.pid):
            child.kill()
        return machine.program.process.returncode is not None

    await eventually(kill_child, units=90)
    await until_gone(machine.parts)
    output = machine.program.output()
    assert "consumer cannot run" in output
    assert "penstock up: The consumers stopped unexpectedly (exit code 1)" in output
    assert "Traceback" not in output


async def test_parts_do_not_outlive_it_when_it_is_killed(up: StartUp) -> None:
    machine = await up()
    await keep_busy(machine)

    machine.program.kill()

    await machine.program.ended()
    await until_gone(machine.parts)


async def test_second_signal_waits_for_no_handler(up: StartUp) -> None:
    machine = await up()
    await keep_busy(machine)

    machine.program.terminate()
    await machine.program.says("Stopping ...")
    machine.program.terminate()

    assert await machine.program.ended(units=5) == 1
    await until_gone(machine.parts)


async def keep_busy(machine: Machine) -> None:
    """Let the consumer run handlers that do not end."""
    await machine.api.submit([WAIT] * 120)

    async def has_begun() -> bool:
        return bool(machine.journal.entries("begun"))

    await eventually(has_begun)


async def test_port_in_use_is_said_clearly(local: Programs) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        program = await local.penstock("up", "--port", str(port))
        exit_code = await program.ended()

    assert exit_code == 1
    assert f"Cannot listen on 127.0.0.1:{port} (Address already in use). Choose another --port" in program.output()
    assert "Penstock is up." not in program.output()
    assert "Traceback" not in program.output()


async def answer_ready(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ready"})


async def test_other_penstock_on_the_port_is_not_taken_for_ours(local: Programs) -> None:
    other, port = web.Application(), free_port()
    other.router.add_get("/health/ready", answer_ready)
    async with TestServer(other, port=port):
        program = await local.penstock("up", "--port", str(port))
        exit_code = await program.ended()

    assert exit_code == 1
    assert f"Cannot listen on 127.0.0.1:{port} (Address already in use). Choose another --port" in program.output()
    assert "Penstock is up." not in program.output()


async def test_next_free_port_is_taken_for_operators_if_nobody_chose_one(local: Programs) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        program = await local.penstock("up", "--port", str(port))
        output = await program.says("Press Ctrl-C to stop.")

    assert f"dead letters  http://127.0.0.1:{port + 2}/dead-letters" in output


@pytest.mark.parametrize("moment", ["penstock.infra.embedded", "penstock.infra.provision", "penstock.consumer"])
async def test_signal_while_it_starts_stops_what_has_started(local: Programs, moment: str) -> None:
    program = await local.penstock("up", "--port", str(free_port()))
    parts = await parts_once_there_is(program, moment)

    program.terminate()

    assert await program.ended() == 0, program.output()
    assert "Traceback" not in program.output()
    await until_gone(parts)


@pytest.mark.parametrize("moment", ["penstock.infra.embedded", "penstock.infra.provision", "penstock.consumer"])
async def test_parts_do_not_outlive_it_when_it_is_killed_while_they_start(local: Programs, moment: str) -> None:
    program = await local.penstock("up", "--port", str(free_port()))
    parts = await parts_once_there_is(program, moment)

    program.kill()

    await program.ended()
    await until_gone(parts)


async def parts_once_there_is(program: Program, module: str) -> list[Process]:
    async def parts() -> list[Process]:
        found = children_of(program.process.pid)
        return found if any(f"-m {module}" in part.command for part in found) else []

    return await eventually(parts)


async def until_gone(processes: list[Process]) -> None:
    async def are_gone() -> bool:
        return not any(is_running(process) for process in processes)

    await eventually(are_gone, units=10)


@pytest.mark.full
async def test_first_key_is_made_and_shown_once_if_requests_need_one(up: StartUp) -> None:
    machine = await up(PENSTOCK_AUTH="keys")
    await machine.program.says("PENSTOCK_URL=")
    [key] = re.findall(r"export PENSTOCK_API_KEY=(.*)$", machine.program.output(), re.MULTILINE)

    assert (await machine.api.post([SUM])).status == 401
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        async with session.post(f"{machine.api.url}/batch", json={"operations": [SUM]}) as answer:
            assert answer.status == 200
        made = {"tenant": "acme", "scopes": ["read"]}
        async with session.post(f"{machine.api.url}/keys", json=made) as answer:
            assert answer.status == 201
        async with session.get(f"{machine.api.url}/keys") as answer:
            assert [one["tenant"] for one in (await answer.json())["keys"]] == ["acme"]
    assert machine.program.output().count(key) == 1
