"""An installation for tests: its own queues and table, the programs that work on them, and ways to inspect them."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from penstock import zstd
from penstock.infra.provision import provision
from penstock.priority import Priority
from penstock.settings import Settings
from tests.acceptance.apps import FOLDER
from tests.acceptance.journal import Journal
from tests.support.api import Api, open_api
from tests.support.aws import Aws, scrubbed_environment
from tests.support.programs import Program, Programs, free_port, programs
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

# For stories in which AWS plays no part, or the same one whichever it is.
on_any_aws = pytest.mark.parametrize("aws", ["embedded"], indirect=True)

TOYS = "tests.acceptance.apps:operations"
USERS = "examples.users.app:operations"
USERS_DATABASE = "users.db"
LAST_LINES = 40

# In a program's log these mean that something went wrong which the program did not foresee.
FAULTS = (
    "chunk failed unexpectedly",
    "request failed unexpectedly",
    "metrics reporting failed unexpectedly",
    "never retrieved",
    "never awaited",
    "Unclosed",
    "was destroyed but",
)


@dataclass
class Installation:
    """`environment` is everything that a program needs. The applications write `journal` and `users_database`."""

    name: str
    environment: Mapping[str, str]
    programs: Programs
    port: int
    operator_port: int
    api: Api
    journal: Journal
    users_database: Path
    provisioned: list[str]  # a line for each queue and table

    async def serve(self, **environment: str) -> Program:
        """Start a front end, always at the same address, and wait until it answers."""
        return await self.programs.start_service(self.port, self.operator_port, **environment)

    async def consume(self, **environment: str) -> Program:
        return await self.programs.start_consumer(**environment)

    def endpoint(self, service: str) -> str:
        """Return the URL of SQS or DYNAMODB."""
        return endpoint(self.environment, service)

    def send(self, body: str) -> None:
        """Put a message on the queue of chunks."""
        with self._queue("chunks-normal") as (sqs, url):
            sqs.send_message(QueueUrl=url, MessageBody=body)

    def lose_messages(self, priority: Priority = Priority.NORMAL) -> None:
        """Purge a queue of chunks."""
        with self._queue(f"chunks-{priority}") as (sqs, url):
            sqs.purge_queue(QueueUrl=url)

    def messages_left(self) -> int:
        """Count the messages on the queues of chunks: available, delayed or in flight."""
        of_queues = [self.queue_attributes(priority) for priority in Priority]
        states = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        return sum(int(attributes[state]) for attributes in of_queues for state in states)

    def queue_attributes(self, priority: Priority = Priority.NORMAL) -> dict[str, str]:
        with self._queue(f"chunks-{priority}") as (sqs, url):
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {str(name): value for name, value in attributes.items()}

    async def until_queue_is_empty(self) -> None:
        async def is_empty() -> bool:
            return self.messages_left() == 0

        await eventually(is_empty)

    def take_dead_letters(self) -> list[str]:
        """Receive and delete everything in the dead letter queue."""
        letters = []
        with self._queue("dead-letters") as (sqs, url):
            while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                for message in messages:
                    letters.append(message["Body"])
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return letters

    @contextmanager
    def _queue(self, name: str) -> Iterator[tuple["SQSClient", str]]:
        with sqs_client(self.environment) as sqs:
            yield sqs, sqs.get_queue_url(QueueName=f"{self.name}-{name}")["QueueUrl"]

    def check_for_faults(self) -> None:
        for program in self.programs.started:
            found = [fault for fault in FAULTS if fault in program.output()]
            assert not found, f"{program.log.name} says {found}:\n{program.output()}"

    def last_words(self) -> str:
        """Return the last lines of every log, for a test that failed."""
        ends = []
        for program in self.programs.started:
            lines = program.output().splitlines()[-LAST_LINES:]
            ends.append("\n".join([f"----- {program.log.name}", *lines]))
        return "\n".join(ends)


@asynccontextmanager
async def installation(aws: Aws, folder: Path, **settings: str) -> AsyncIterator[Installation]:
    """Provision an installation and start no program. `settings` are variables of all programs, without the prefix."""
    name = f"test-{secrets.token_hex(4)}"
    quick = {"RECEIVE_WAIT_SECONDS": "1", "BACKOFF_SECONDS": "0.1", "MIN_CHUNKS": "1"}
    own = {"NAME": name, "APP": TOYS, **quick, **settings}
    environment = {
        **scrubbed_environment(),
        **aws.environment,
        **{f"PENSTOCK_{key}": value for key, value in own.items()},
        FOLDER: str(folder),
        "USERS_DATABASE_URL": f"sqlite:///{folder / USERS_DATABASE}",
    }
    provisioned = _provision(environment, name)
    port, operator_port = free_port(), free_port()
    async with open_api(port, operator_port) as api, programs(environment, folder) as running:
        yield Installation(
            name, environment, running, port, operator_port, api, Journal(folder), folder / USERS_DATABASE, provisioned
        )


def _provision(environment: Mapping[str, str], name: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        return provision(Settings(name=name))


def read_letter(text: str) -> dict[str, Any]:
    """Read a dead letter: JSON that may be compressed."""
    packed = text.removeprefix("zstd:")
    content = zstd.decompress(base64.b64decode(packed)) if packed != text else text
    letter: dict[str, Any] = json.loads(content)
    return letter


def endpoint(environment: Mapping[str, str], service: str) -> str:
    return environment.get(f"AWS_ENDPOINT_URL_{service}") or environment["AWS_ENDPOINT_URL"]


@contextmanager
def sqs_client(environment: Mapping[str, str]) -> Iterator["SQSClient"]:
    client: SQSClient = boto3.client(
        "sqs",
        endpoint_url=endpoint(environment, "SQS"),
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        yield client
    finally:
        client.close()
