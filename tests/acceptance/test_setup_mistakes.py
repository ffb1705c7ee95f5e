"""A program that cannot start says in its first sentence how to fix that, and exits."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import TOYS, on_any_aws
from tests.support.aws import CREDENTIALS, scrubbed_environment
from tests.support.programs import Program, Programs, programs

APPS = "tests.acceptance.apps"
COMMANDS = ("provision", "serve", "consume")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture
async def mistaken(tmp_path: Path) -> AsyncIterator[Programs]:
    """Provide programs whose environment is correct, except that no AWS answers and for what a test breaks."""
    environment = {
        **scrubbed_environment(),
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": NOWHERE,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PENSTOCK_APP": TOYS,
    }
    async with programs(environment, tmp_path) as running:
        yield running


async def check_refusal(program: Program, command: str, sentence: str) -> None:
    exit_code = await program.ended()
    output = program.output()
    assert exit_code == 1, output
    assert output.startswith(f"penstock {command}: {sentence}"), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        ({"PENSTOCK_CONCURRENCY": "0"}, "Invalid settings:\n  PENSTOCK_CONCURRENCY='0': "),
        ({"AWS_REGION": ""}, "Name the AWS region: "),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Provide AWS credentials: "),
        ({}, "AWS does not answer: "),
    ],
)
async def test_every_program_says_what_is_wrong_with_its_surroundings(
    mistaken: Programs, spoiled: dict[str, str], sentence: str
) -> None:
    started = [await mistaken.penstock(command, **spoiled) for command in COMMANDS]

    for program, command in zip(started, COMMANDS, strict=True):
        await check_refusal(program, command, sentence)


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("", "No application is set. "),
        ("nowhere.at_all:operations", "There is no module 'nowhere' "),
        (f"{APPS}:nothing", f"The application '{APPS}:nothing' is invalid: "),
        (f"{APPS}:without_handlers", f"The application '{APPS}:without_handlers' has no handler. "),
    ],
)
async def test_programs_say_what_is_wrong_with_the_application(mistaken: Programs, app: str, sentence: str) -> None:
    started = {command: await mistaken.penstock(command, PENSTOCK_APP=app) for command in ("serve", "consume", "up")}

    for command, program in started.items():
        await check_refusal(program, command, sentence)


async def test_programs_ask_for_provisioning_where_there_are_no_queues(install: Install) -> None:
    penstock = await install()
    commands = ("serve", "consume")

    started = [await penstock.programs.penstock(command, PENSTOCK_NAME="not-there") for command in commands]

    for program, command in zip(started, commands, strict=True):
        await check_refusal(program, command, "Run `penstock provision`: ")


@on_any_aws
async def test_front_end_asks_for_another_port_where_its_own_is_taken(install: Install) -> None:
    penstock = await install()
    with socket.create_server(("127.0.0.1", penstock.port)):
        front_end = await penstock.programs.penstock("serve", "--port", str(penstock.port))

        await check_refusal(front_end, "serve", f"Cannot listen on 127.0.0.1:{penstock.port} ")


@on_any_aws
async def test_front_end_asks_for_another_port_for_operators_where_its_own_is_taken(install: Install) -> None:
    penstock = await install()
    ports = ("--port", str(penstock.port), "--operator-port", str(penstock.operator_port))
    with socket.create_server(("127.0.0.1", penstock.operator_port)):
        front_end = await penstock.programs.penstock("serve", *ports)

        await check_refusal(front_end, "serve", f"Cannot listen on 127.0.0.1:{penstock.operator_port} ")
        assert "Choose another --operator-port or --operator-host." in front_end.output()


@on_any_aws
async def test_front_end_takes_the_next_free_port_for_operators_if_nobody_chose_one(install: Install) -> None:
    penstock = await install()
    with ExitStack() as taken:
        with suppress(OSError):  # another program has taken it already
            taken.enter_context(socket.create_server(("127.0.0.1", penstock.port + 1)))
        front_end = await penstock.programs.penstock("serve", "--port", str(penstock.port))

        await front_end.says("operator_url")


@pytest.mark.full
@pytest.mark.parametrize("command", ["serve", "up"])
async def test_program_that_everybody_could_use_does_not_start(mistaken: Programs, command: str) -> None:
    program = await mistaken.penstock(command, "--host", "0.0.0.0")

    await check_refusal(program, command, "Everybody who reaches 0.0.0.0 could run operations")
    assert "Set PENSTOCK_AUTH=keys" in program.output()
