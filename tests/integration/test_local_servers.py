"""ElasticMQ and DynamoDB Local: fetched, started and stopped by us, and what we count on them for.

Where they differ from moto and from AWS a test says so, for whoever wonders why the same code sees different answers.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from types_aiobotocore_dynamodb import DynamoDBClient
from types_aiobotocore_sqs import SQSClient
from types_aiobotocore_sqs.type_defs import MessageTypeDef

from penstock.infra.local import servers
from penstock.infra.local.servers import (
    DYNAMODB,
    ELASTICMQ,
    LocalServers,
    LocalServersError,
    Server,
    ServerSpec,
    local_servers,
)
from tests.support.backends import REQUIRED, real_servers_or_skip

MIB = 1024 * 1024
ITEM_BYTES = 400 * 1024
PATIENCE_SECONDS = 30

# aiohttp would have bodies over 1 MiB streamed; aiobotocore hands it bytes.
sends_large_bodies = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

ANYONE: dict[str, Any] = {
    "region_name": "us-east-1",
    "aws_access_key_id": "local",
    "aws_secret_access_key": "local",
    "config": AioConfig(
        max_pool_connections=50, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3}
    ),
}

COPYING_MAVEN = """
for word; do case $word in
  --activate-profiles=*) profile=${word#*=} ;;
  -Djars=*) jars=${word#*=} ;;
esac; done
echo "$profile" >> "${0%/*}/calls"
/bin/mkdir -p "$jars" && echo jar > "$jars/$profile.jar"
"""


@pytest.fixture
async def sqs(real_servers: LocalServers) -> AsyncIterator[SQSClient]:
    async with get_session().create_client("sqs", endpoint_url=real_servers.sqs_url, **ANYONE) as client:
        yield client


@pytest.fixture
async def dynamodb(real_servers: LocalServers) -> AsyncIterator[DynamoDBClient]:
    async with get_session().create_client("dynamodb", endpoint_url=real_servers.dynamodb_url, **ANYONE) as client:
        yield client


@pytest.fixture
async def queue(sqs: SQSClient) -> str:
    return await new_queue(sqs)


@pytest.fixture
async def table(dynamodb: DynamoDBClient) -> str:
    name = new_name()
    await dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
    )
    return name


@pytest.fixture
def tools(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, and empty."""
    folder = tmp_path_factory.mktemp("tools")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return folder


class TestElasticMQ:
    async def test_a_message_goes_through_a_queue(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="hello")
        (message,) = await receive(sqs, queue)
        await sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        assert message["Body"] == "hello"
        assert await receive(sqs, queue, wait_seconds=0) == []

    @sends_large_bodies
    async def test_a_message_of_1_mib_is_taken_and_one_byte_more_refused(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="x" * MIB)
        with pytest.raises(ClientError, match="MessageTooLong"):
            await sqs.send_message(QueueUrl=queue, MessageBody="x" * (MIB + 1))

    @sends_large_bodies
    async def test_size_is_counted_in_characters_where_aws_counts_bytes(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="é" * MIB)

    @sends_large_bodies
    async def test_a_call_may_carry_1_mib_in_all(self, sqs: SQSClient, queue: str) -> None:
        quarters = [{"Id": str(i), "MessageBody": "x" * (MIB // 4)} for i in range(4)]
        answer = await sqs.send_message_batch(QueueUrl=queue, Entries=quarters)  # type: ignore[arg-type]
        assert len(answer["Successful"]) == 4
        quarters[0]["MessageBody"] += "x"
        with pytest.raises(ClientError, match="MessageTooLong"):
            await sqs.send_message_batch(QueueUrl=queue, Entries=quarters)  # type: ignore[arg-type]

    async def test_a_batch_of_sends_may_fail_in_part(self, sqs: SQSClient, queue: str) -> None:
        answer = await sqs.send_message_batch(
            QueueUrl=queue, Entries=[{"Id": "good", "MessageBody": "x"}, {"Id": "bad", "MessageBody": "\x00"}]
        )
        assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
        assert [(entry["Id"], entry["SenderFault"]) for entry in answer["Failed"]] == [("bad", True)]

    async def test_a_standard_queue_takes_a_message_group(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="x", MessageGroupId="tenant")
        (message,) = await receive(sqs, queue)
        assert message["Attributes"]["MessageGroupId"] == "tenant"

    async def test_visibility_0_gives_a_message_back_at_once(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="x")
        (first,) = await receive(sqs, queue)
        await sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
        (second,) = await receive(sqs, queue)
        assert second["Attributes"]["ApproximateReceiveCount"] == "2"
        assert first_received_at(second) == first_received_at(first)

    async def test_an_old_receipt_is_refused_where_aws_answers_success(self, sqs: SQSClient, queue: str) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="x")
        (old,) = await receive(sqs, queue, VisibilityTimeout=0)
        (new,) = await receive(sqs, queue)
        with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
            await sqs.delete_message(QueueUrl=queue, ReceiptHandle=old["ReceiptHandle"])
        answer = await sqs.delete_message_batch(
            QueueUrl=queue,
            Entries=[
                {"Id": "old", "ReceiptHandle": old["ReceiptHandle"]},
                {"Id": "new", "ReceiptHandle": new["ReceiptHandle"]},
            ],
        )
        assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("old", "ReceiptHandleIsInvalid")]
        assert [entry["Id"] for entry in answer["Successful"]] == ["new"]

    async def test_the_redrive_policy_moves_a_message_and_a_move_task_brings_it_back(self, sqs: SQSClient) -> None:
        dead_letters = await new_queue(sqs)
        dead_letters_arn = await arn_of(sqs, dead_letters)
        policy = {"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": 1}
        work = await new_queue(sqs, RedrivePolicy=json.dumps(policy))
        await sqs.send_message(QueueUrl=work, MessageBody="poison", MessageGroupId="tenant")

        assert len(await receive(sqs, work, VisibilityTimeout=0)) == 1
        assert await receive(sqs, work, wait_seconds=0) == []
        (dead,) = await receive(sqs, dead_letters, VisibilityTimeout=0)
        assert dead["Body"] == "poison"
        assert dead["Attributes"]["DeadLetterQueueSourceArn"] == await arn_of(sqs, work)

        await sqs.start_message_move_task(SourceArn=dead_letters_arn)
        (again,) = await receive(sqs, work)
        assert (again["Body"], again["Attributes"]["MessageGroupId"]) == ("poison", "tenant")


class TestDynamoDBLocal:
    async def test_an_item_goes_into_a_table(self, dynamodb: DynamoDBClient, table: str) -> None:
        await dynamodb.put_item(TableName=table, Item={"pk": {"S": "a"}, "n": {"N": "1"}})
        answer = await dynamodb.get_item(TableName=table, Key={"pk": {"S": "a"}}, ConsistentRead=True)
        assert answer["Item"] == {"pk": {"S": "a"}, "n": {"N": "1"}}

    async def test_a_failed_condition_returns_the_item_that_stood_in_the_way(
        self, dynamodb: DynamoDBClient, table: str
    ) -> None:
        await dynamodb.put_item(TableName=table, Item={"pk": {"S": "a"}, "owner": {"S": "first"}})
        with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException) as failure:
            await dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": "a"}},
                UpdateExpression="SET #owner = :owner",
                ConditionExpression="attribute_not_exists(pk)",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues={":owner": {"S": "second"}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        assert failure.value.response["Item"]["owner"] == {"S": "first"}  # type: ignore[typeddict-item]

    async def test_an_item_of_400_kb_is_taken_and_one_byte_more_refused(
        self, dynamodb: DynamoDBClient, table: str
    ) -> None:
        text = "x" * (ITEM_BYTES - len("pk" + "a" + "text"))
        await dynamodb.put_item(TableName=table, Item={"pk": {"S": "a"}, "text": {"S": text}})
        with pytest.raises(ClientError, match="exceeded the maximum allowed size"):
            await dynamodb.put_item(TableName=table, Item={"pk": {"S": "a"}, "text": {"S": text + "x"}})

    async def test_add_unites_sets_of_strings_and_of_numbers(self, dynamodb: DynamoDBClient, table: str) -> None:
        for strings, numbers in ((["17"], ["1", "2"]), (["17", "17.1"], ["2", "3"])):
            answer = await dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": "a"}},
                UpdateExpression="ADD done :strings, finished :numbers",
                ExpressionAttributeValues={":strings": {"SS": strings}, ":numbers": {"NS": numbers}},
                ReturnValues="ALL_NEW",
            )
        assert sorted(answer["Attributes"]["done"]["SS"]) == ["17", "17.1"]
        assert sorted(answer["Attributes"]["finished"]["NS"]) == ["1", "2", "3"]

    async def test_a_guarded_addition_counts_each_once_however_many_race(
        self, dynamodb: DynamoDBClient, table: str
    ) -> None:
        async def count(chunk_id: str) -> bool:
            try:
                await dynamodb.update_item(
                    TableName=table,
                    Key={"pk": {"S": "a"}},
                    UpdateExpression="ADD done :ids, succeeded :one",
                    ConditionExpression="NOT contains(done, :id)",
                    ExpressionAttributeValues={":ids": {"SS": [chunk_id]}, ":id": {"S": chunk_id}, ":one": {"N": "1"}},
                )
            except dynamodb.exceptions.ConditionalCheckFailedException:
                return False
            return True

        won = await asyncio.gather(*(count(str(number % 50)) for number in range(200)))
        answer = await dynamodb.get_item(TableName=table, Key={"pk": {"S": "a"}}, ConsistentRead=True)
        assert won.count(True) == 50
        assert answer["Item"]["succeeded"] == {"N": "50"}

    async def test_a_transaction_happens_wholly_or_not_at_all(self, dynamodb: DynamoDBClient, table: str) -> None:
        async def write(token: str) -> None:
            await dynamodb.transact_write_items(
                ClientRequestToken=token,
                TransactItems=[
                    {
                        "Update": {
                            "TableName": table,
                            "Key": {"pk": {"S": "counter"}},
                            "UpdateExpression": "ADD n :one",
                            "ExpressionAttributeValues": {":one": {"N": "1"}},
                        }
                    },
                    {
                        "Put": {
                            "TableName": table,
                            "Item": {"pk": {"S": "once"}},
                            "ConditionExpression": "attribute_not_exists(pk)",
                        }
                    },
                ],
            )

        await write("first")
        await write("first")  # the same request again: an answer that was lost, say
        with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as failure:
            await write("second")
        reasons = [reason["Code"] for reason in failure.value.response["CancellationReasons"]]
        answer = await dynamodb.get_item(TableName=table, Key={"pk": {"S": "counter"}}, ConsistentRead=True)
        assert reasons == ["None", "ConditionalCheckFailed"]
        assert answer["Item"]["n"] == {"N": "1"}


@pytest.mark.usefixtures("java")
class TestStopping:
    def test_the_end_of_the_block_leaves_no_process(self, tmp_path: Path) -> None:
        with local_servers(tmp_path) as both:
            assert is_listening(both.sqs_url)
            assert is_listening(both.dynamodb_url)
            assert processes_in(tmp_path)
        assert processes_in(tmp_path) == []
        assert not is_listening(both.sqs_url)
        assert not is_listening(both.dynamodb_url)

    @pytest.mark.parametrize(
        ("number", "status"),
        [
            pytest.param(signal.SIGTERM, 0, id="terminated"),
            pytest.param(signal.SIGINT, 0, id="interrupted"),
            pytest.param(signal.SIGKILL, -signal.SIGKILL, id="killed"),  # nothing of ours runs then; the leash does it
        ],
    )
    def test_the_program_takes_its_servers_with_it(self, number: signal.Signals, status: int, tmp_path: Path) -> None:
        with start_program("--logs", str(tmp_path)) as program:
            exports = [program.stdout.readline() for _ in range(6)] if program.stdout else []
            started = processes_in(tmp_path)
            program.send_signal(number)
            assert program.wait(PATIENCE_SECONDS) == status
        assert [line.partition("=")[0] for line in exports[:2]] == [
            "export AWS_ENDPOINT_URL_SQS",
            "export AWS_ENDPOINT_URL_DYNAMODB",
        ]
        assert started
        wait_until(lambda: processes_in(tmp_path) == [])


class TestStarting:
    @pytest.mark.usefixtures("java")
    @pytest.mark.parametrize("spec", [ELASTICMQ, DYNAMODB], ids=lambda spec: spec.name)
    def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
        self, spec: ServerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reserve = servers.reserve_port
        with socket.create_server((servers.LOOPBACK, 0)) as stranger:
            ways = iter([stranger.dup, reserve])

            def reserve_the_strangers_first() -> socket.socket:
                return next(ways)()

            monkeypatch.setattr(servers, "reserve_port", reserve_the_strangers_first)
            with launched(spec, tmp_path) as server:
                server.wait_until_ready()
                assert server.port != stranger.getsockname()[1]
                assert is_listening(server.url)

    @pytest.mark.usefixtures("java")
    def test_a_server_that_dies_is_reported_with_the_end_of_its_log(self, tmp_path: Path) -> None:
        with launched(replace(ELASTICMQ, main="no.such.Server"), tmp_path) as server:
            with pytest.raises(LocalServersError, match=r"(?s)ElasticMQ exited before it was ready.*no\.such\.Server"):
                server.wait_until_ready()
            with pytest.raises(LocalServersError, match="exited unexpectedly"):
                server.check()

    @pytest.mark.usefixtures("java")
    def test_a_server_that_never_answers_is_reported_in_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(servers, "READY_SECONDS", 0.1)
        with (
            launched(ELASTICMQ, tmp_path) as server,
            pytest.raises(LocalServersError, match=r"did not answer within 0\.1 seconds"),
        ):
            server.wait_until_ready()

    def test_a_missing_tool_is_named_before_anything_starts(self, tmp_path: Path, tools: Path) -> None:
        refused = pytest.raises(
            LocalServersError, match=r"^The local servers cannot run: Java 17 \(java\) is not installed"
        )
        with refused, local_servers(tmp_path):
            pass


class TestFetching:
    """With a Maven of our own, which notes that it was called and copies one file."""

    def test_later_starts_do_without_maven(self, tmp_path: Path, tools: Path) -> None:
        add_tool(tools, "mvn", COPYING_MAVEN)
        folder = servers.fetch(tmp_path)
        assert servers.fetch(tmp_path) == folder
        assert calls_of_maven(tools) == ["elasticmq", "dynamodb"]
        assert sorted(path.name for path in folder.iterdir()) == ["dynamodb", "elasticmq"]

    def test_a_changed_pom_is_fetched_anew(self, tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        add_tool(tools, "mvn", COPYING_MAVEN)
        before = servers.fetch(tmp_path)
        pom = tmp_path / "pom.xml"
        pom.write_text("<project/>")
        monkeypatch.setattr(servers, "POM", pom)
        assert servers.fetch(tmp_path) != before
        assert len(calls_of_maven(tools)) == 4

    def test_those_who_fetch_at_once_take_turns(self, tmp_path: Path, tools: Path) -> None:
        add_tool(tools, "mvn", COPYING_MAVEN)
        with ThreadPoolExecutor(4) as threads:
            folders = set(threads.map(servers.fetch, [tmp_path] * 4))
        assert len(folders) == 1
        assert calls_of_maven(tools) == ["elasticmq", "dynamodb"]

    def test_what_maven_refuses_is_told_and_tried_again_next_time(self, tmp_path: Path, tools: Path) -> None:
        add_tool(tools, "mvn", "echo 'no such artifact'; exit 1")
        with pytest.raises(LocalServersError, match=r"(?s)^Maven could not download ElasticMQ.*no such artifact"):
            servers.fetch(tmp_path)
        add_tool(tools, "mvn", COPYING_MAVEN)
        assert servers.fetch(tmp_path).is_dir()

    def test_without_maven_it_says_so(self, tmp_path: Path, tools: Path) -> None:
        with pytest.raises(LocalServersError, match=r"^Maven \(mvn\) is not on the PATH\. Install it"):
            servers.fetch(tmp_path)


class TestMissingTools:
    def test_java(self, tools: Path) -> None:
        assert servers.missing_tools() == "Java 17 (java) is not installed"

    @pytest.mark.parametrize("version", ["11.0.2", "1.8.0_402", "16-ea"])
    def test_an_old_java(self, tools: Path, version: str) -> None:
        add_tool(tools, "java", f"""echo 'openjdk version "{version}" 2024-01-16' >&2""")
        assert servers.missing_tools() == f"Java 17 (java) is not installed, only Java {version} is"

    def test_maven_before_the_first_fetch_only(
        self, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(servers, "TARGET", tmp_path / "target")
        add_tool(tools, "java", """echo 'openjdk version "17.0.15" 2025-04-15' >&2""")
        assert (
            servers.missing_tools() == "Maven (mvn) is not installed, and the servers have not been downloaded before"
        )
        add_tool(tools, "mvn", COPYING_MAVEN)
        servers.fetch(tmp_path / "target")
        (tools / "mvn").unlink()
        assert servers.missing_tools() is None

    def test_another_kind_of_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert "only for Linux on x86_64" in str(servers.missing_tools())

    def test_skips_a_test_or_fails_it_where_the_servers_are_required(
        self, tools: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(REQUIRED, raising=False)
        with pytest.raises(pytest.skip.Exception, match="Java 17"):
            real_servers_or_skip()
        monkeypatch.setenv(REQUIRED, "1")
        with pytest.raises(pytest.fail.Exception, match="Java 17"):
            real_servers_or_skip()


def add_tool(folder: Path, name: str, script: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def calls_of_maven(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def new_name() -> str:
    return f"test-{uuid4().hex}"


async def new_queue(sqs: SQSClient, **attributes: str) -> str:
    answer = await sqs.create_queue(QueueName=new_name(), Attributes=attributes)  # type: ignore[arg-type]
    return answer["QueueUrl"]


async def arn_of(sqs: SQSClient, queue: str) -> str:
    answer = await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    return answer["Attributes"]["QueueArn"]


async def receive(sqs: SQSClient, queue: str, *, wait_seconds: int = 5, **options: Any) -> list[MessageTypeDef]:
    answer = await sqs.receive_message(
        QueueUrl=queue,
        WaitTimeSeconds=wait_seconds,
        MaxNumberOfMessages=10,
        MessageSystemAttributeNames=["All"],
        **options,
    )
    return answer.get("Messages", [])


def first_received_at(message: MessageTypeDef) -> str:
    return message["Attributes"]["ApproximateFirstReceiveTimestamp"]


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), PATIENCE_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def processes_in(folder: Path) -> list[int]:
    """Whoever works in that folder, as the servers and their leashes do; the dead have none."""
    return [int(link.parent.name) for link in Path("/proc").glob("[0-9]*/cwd") if working_folder(link) == folder]


def working_folder(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} seconds"
        time.sleep(0.02)


@contextmanager
def launched(spec: ServerSpec, folder: Path) -> Iterator[Server]:
    """One server alone, not asked yet whether it is ready."""
    server = Server(spec, str(shutil.which("java")), servers.fetch() / spec.profile, folder / "log")
    try:
        server.launch()
        yield server
    finally:
        server.stop()


def start_program(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.infra.local.servers", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
