"""The embedded AWS counts exactly, whatever races; stays fast at depth; and treats receipts and waits as AWS does."""

import asyncio
import http
import json
import signal
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.sqs import models as moto_sqs
from types_aiobotocore_dynamodb import DynamoDBClient
from types_aiobotocore_sqs import SQSClient

from penstock.infra.embedded import host as moto_host
from penstock.infra.embedded.patches import SUPPORTED_MOTO, UnknownMotoError, check_fit
from penstock.infra.embedded.server import EmbeddedAws, reset

DEADLINE_SECONDS = 20.0  # for what takes a moment; reached only when something hangs
LONG_WAIT_SECONDS = 20  # the longest poll; a test that has to wait for its end has failed

ACCESS = {"region_name": "eu-central-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
# A repeated call would hide a failed one: every call here is made once. The rest saves the client time.
ONCE: dict[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "max_pool_connections": 64,
    "parameter_validation": False,
    "user_agent": "penstock-tests",
}


@pytest.fixture(scope="module")
def aws(embedded_aws: EmbeddedAws) -> EmbeddedAws:
    """The server itself, instead of what a program needs to find it."""
    return embedded_aws


@pytest.fixture
async def sqs(aws: EmbeddedAws) -> AsyncIterator[SQSClient]:
    async with get_session().create_client("sqs", endpoint_url=aws.url, config=AioConfig(**ONCE), **ACCESS) as client:
        yield client


@pytest.fixture
async def dynamodb(aws: EmbeddedAws) -> AsyncIterator[DynamoDBClient]:
    async with get_session().create_client(
        "dynamodb", endpoint_url=aws.url, config=AioConfig(**ONCE), **ACCESS
    ) as client:
        yield client


@pytest.fixture
async def queue_url(sqs: SQSClient, request: pytest.FixtureRequest) -> str:
    """An empty queue of the test's own; no lease runs out during a test."""
    created = await sqs.create_queue(
        QueueName=request.node.name.replace("[", "_").replace("]", "")[:80],
        Attributes={"VisibilityTimeout": "600"},
    )
    return created["QueueUrl"]


@pytest.fixture
async def table_name(dynamodb: DynamoDBClient, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    await create_table(dynamodb, name)
    return name


async def create_table(dynamodb: DynamoDBClient, name: str) -> None:
    await dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
            {"AttributeName": "owner", "AttributeType": "S"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by_owner",
                "KeySchema": [
                    {"AttributeName": "owner", "KeyType": "HASH"},
                    {"AttributeName": "sk", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )


@pytest.fixture
def open_polls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The long polls that wait in the host right now."""
    waiting: list[str] = []
    wait_for_message = moto_host._wait_for_message

    async def observed(*arguments: Any) -> Any:
        waiting.append("poll")
        try:
            return await wait_for_message(*arguments)
        finally:
            waiting.pop()

    monkeypatch.setattr(moto_host, "_wait_for_message", observed)
    return waiting


# --- Exact, whatever races


@pytest.mark.full
async def test_racing_senders_and_receivers_lose_nothing_and_repeat_nothing(sqs: SQSClient, queue_url: str) -> None:
    sent = [f"message {number}" for number in range(1_000)]
    received: Counter[str] = Counter()

    async def send(bodies: Sequence[str]) -> None:
        for start in range(0, len(bodies), 10):
            await send_all(sqs, queue_url, bodies[start : start + 10])

    async def receive() -> None:
        while received.total() < len(sent):
            for message in await receive_some(sqs, queue_url, WaitTimeSeconds=1):
                received[message["Body"]] += 1
                await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(send(sent[number::16]))
            group.create_task(receive())

    assert received == Counter(sent)
    # A message whose deletion was lost would still be in flight; one that came back would be visible.
    assert await count_messages(sqs, queue_url) == (0, 0)


@pytest.mark.full
async def test_of_racing_conditional_updates_exactly_as_many_win_as_can(
    dynamodb: DynamoDBClient, table_name: str
) -> None:
    await dynamodb.put_item(TableName=table_name, Item={**key("stock"), "left": {"N": "150"}})

    async def take_one() -> bool:
        try:
            await dynamodb.update_item(
                TableName=table_name,
                Key=key("stock"),
                UpdateExpression="SET #left = #left - :one",
                ConditionExpression="#left > :zero",
                ExpressionAttributeNames={"#left": "left"},
                ExpressionAttributeValues={":one": {"N": "1"}, ":zero": {"N": "0"}},
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    won = await asyncio.gather(*(take_one() for _ in range(300)))

    assert Counter(won) == {True: 150, False: 150}
    assert await read_number(dynamodb, table_name, "stock", "left") == 0


@pytest.mark.full
async def test_racing_adds_all_count(dynamodb: DynamoDBClient, table_name: str) -> None:
    async def add_one() -> None:
        await dynamodb.update_item(
            TableName=table_name,
            Key=key("counter"),
            UpdateExpression="ADD done :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    await asyncio.gather(*(add_one() for _ in range(200)))

    assert await read_number(dynamodb, table_name, "counter", "done") == 200


# --- Fast at depth


@pytest.mark.full
async def test_calls_cost_the_same_in_a_deep_queue(aws: EmbeddedAws, sqs: SQSClient, queue_url: str) -> None:
    shallow = await sqs.create_queue(QueueName="shallow", Attributes={"VisibilityTimeout": "600"})
    await fill(aws.url, shallow["QueueUrl"], 400)
    await fill(aws.url, queue_url, 20_000)
    assert await count_messages(sqs, queue_url) == (20_000, 0)

    in_shallow = await time_calls(sqs, shallow["QueueUrl"])
    in_deep = await time_calls(sqs, queue_url)

    # Without the patches the ratio is in the thousands. On a busy machine single calls are several times slower.
    for call, seconds in in_deep.items():
        assert seconds < 25 * in_shallow[call], f"{call} takes {seconds / in_shallow[call]:.1f} times as long"
    assert await count_messages(sqs, queue_url) == (19_820, 180)


@pytest.mark.full
async def test_a_query_costs_the_same_in_a_large_table(dynamodb: DynamoDBClient, table_name: str) -> None:
    async def query() -> None:
        await query_sort_keys(dynamodb, table_name, "pk = :value", "wanted")

    await write_items(dynamodb, table_name, [("wanted", f"{number:02}") for number in range(20)])
    in_small = await time_call(query)
    await write_items(dynamodb, table_name, [(f"other {n % 100}", f"{n}") for n in range(5_000)])
    in_large = await time_call(query)

    assert in_large < 5 * in_small


# --- Waiting


async def test_a_long_poll_returns_as_soon_as_a_message_arrives(
    sqs: SQSClient, queue_url: str, open_polls: list[str]
) -> None:
    poll = asyncio.create_task(receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS))
    await until(lambda: len(open_polls) == 1)
    sent_at = time.monotonic()
    await sqs.send_message(QueueUrl=queue_url, MessageBody="here")

    assert [message["Body"] for message in await poll] == ["here"]
    assert time.monotonic() - sent_at < LONG_WAIT_SECONDS / 4


@pytest.mark.full
async def test_a_long_poll_sees_a_delayed_message_when_it_is_due(sqs: SQSClient, queue_url: str) -> None:
    sent_at = time.monotonic()
    await sqs.send_message(QueueUrl=queue_url, MessageBody="later", DelaySeconds=1)

    [message] = await receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS)

    assert message["Body"] == "later"
    assert 0.9 < time.monotonic() - sent_at < LONG_WAIT_SECONDS / 4


@pytest.mark.full
@pytest.mark.parametrize("asked_by", ["call", "queue"])
async def test_a_long_poll_ends_when_its_time_is_over(sqs: SQSClient, queue_url: str, asked_by: str) -> None:
    if asked_by == "queue":
        await sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"ReceiveMessageWaitTimeSeconds": "1"})
    began_at = time.monotonic()

    messages = await receive_some(sqs, queue_url, **({"WaitTimeSeconds": 1} if asked_by == "call" else {}))

    assert messages == []
    assert 0.9 < time.monotonic() - began_at < LONG_WAIT_SECONDS / 4


async def test_a_released_message_wakes_a_waiting_poll(sqs: SQSClient, queue_url: str, open_polls: list[str]) -> None:
    await sqs.send_message(QueueUrl=queue_url, MessageBody="mine, then yours")
    [mine] = await receive_some(sqs, queue_url)
    poll = asyncio.create_task(receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS))
    await until(lambda: len(open_polls) == 1)
    released_at = time.monotonic()
    await sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=mine["ReceiptHandle"], VisibilityTimeout=0)

    [yours] = await poll

    assert yours["Attributes"]["ApproximateReceiveCount"] == "2"
    assert time.monotonic() - released_at < LONG_WAIT_SECONDS / 4


async def test_one_message_wakes_one_of_many_polls(sqs: SQSClient, queue_url: str, open_polls: list[str]) -> None:
    polls = [asyncio.create_task(receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS)) for _ in range(8)]
    await until(lambda: len(open_polls) == 8)
    for number in range(8):
        await sqs.send_message(QueueUrl=queue_url, MessageBody=str(number))
        await until(lambda left=7 - number: len(open_polls) == left)  # type: ignore[misc]

    bodies = [message["Body"] for messages in await asyncio.gather(*polls) for message in messages]

    assert sorted(bodies) == [str(number) for number in range(8)]


async def test_a_poll_whose_client_went_away_eats_nothing(
    aws: EmbeddedAws, sqs: SQSClient, queue_url: str, open_polls: list[str]
) -> None:
    poll = await open_raw_poll(aws.url, queue_url)
    await until(lambda: len(open_polls) == 1)
    poll.close()
    await until(lambda: not open_polls)
    await sqs.send_message(QueueUrl=queue_url, MessageBody="for the living")

    [message] = await receive_some(sqs, queue_url)

    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


async def test_a_poll_ends_with_its_queue(sqs: SQSClient, queue_url: str, open_polls: list[str]) -> None:
    poll = asyncio.create_task(receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS))
    await until(lambda: len(open_polls) == 1)
    await sqs.delete_queue(QueueUrl=queue_url)

    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        await poll


# --- Receipts


async def test_an_old_receipt_deletes_nothing_and_says_nothing(sqs: SQSClient, queue_url: str) -> None:
    old, new = await receive_twice(sqs, queue_url)

    await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=old)
    assert await count_messages(sqs, queue_url) == (0, 1)

    for _ in range(2):  # deleting twice is deleting once
        await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=new)
    assert await count_messages(sqs, queue_url) == (0, 0)


async def test_an_old_receipt_does_not_change_the_visibility(sqs: SQSClient, queue_url: str) -> None:
    old, new = await receive_twice(sqs, queue_url)

    with pytest.raises(ClientError, match="not available for visibility timeout change") as refusal:
        await sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=old, VisibilityTimeout=0)
    assert refusal.value.response["Error"]["Code"] == "InvalidParameterValue"
    changed = await sqs.change_message_visibility_batch(
        QueueUrl=queue_url,
        Entries=[
            {"Id": "old", "ReceiptHandle": old, "VisibilityTimeout": 0},
            {"Id": "new", "ReceiptHandle": new, "VisibilityTimeout": 60},
        ],
    )

    assert [entry["Id"] for entry in changed["Successful"]] == ["new"]
    assert [(entry["Id"], entry["Code"]) for entry in changed["Failed"]] == [("old", "InvalidParameterValue")]
    assert await count_messages(sqs, queue_url) == (0, 1)


async def test_a_lease_that_is_over_cannot_be_renewed(sqs: SQSClient, queue_url: str) -> None:
    await sqs.send_message(QueueUrl=queue_url, MessageBody="free again")
    [message] = await receive_some(sqs, queue_url, VisibilityTimeout=0)

    with pytest.raises(ClientError, match="not available for visibility timeout change"):
        await sqs.change_message_visibility(
            QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=60
        )

    assert await count_messages(sqs, queue_url) == (1, 0)


async def test_a_receipt_that_was_never_issued_is_refused(sqs: SQSClient, queue_url: str) -> None:
    with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
        await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle="made up")
    with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
        await sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle="made up", VisibilityTimeout=0)


async def test_a_purge_or_a_dead_letter_queue_leaves_a_receipt_that_deletes_nothing(
    sqs: SQSClient, queue_url: str
) -> None:
    dead = (await sqs.create_queue(QueueName="dead"))["QueueUrl"]
    redrive = {"deadLetterTargetArn": await arn_of(sqs, dead), "maxReceiveCount": 1}
    await sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": json.dumps(redrive)})
    await sqs.send_message(QueueUrl=queue_url, MessageBody="one attempt")
    [only] = await receive_some(sqs, queue_url, VisibilityTimeout=0)
    assert await receive_some(sqs, queue_url) == []
    await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=only["ReceiptHandle"])
    assert await count_messages(sqs, dead) == (1, 0)

    [moved] = await receive_some(sqs, dead)
    await sqs.purge_queue(QueueUrl=dead)
    await sqs.delete_message(QueueUrl=dead, ReceiptHandle=moved["ReceiptHandle"])


# --- What is stored is what was sent


async def test_text_that_looks_like_a_form_is_just_text(
    sqs: SQSClient, dynamodb: DynamoDBClient, queue_url: str, table_name: str
) -> None:
    text = "https://example.com/?a=1&Action=DeleteQueue&Action=DeleteTable&Version=1"
    await sqs.send_message(QueueUrl=queue_url, MessageBody=text)
    await dynamodb.put_item(TableName=table_name, Item={**key("item"), "text": {"S": text}})

    [message] = await receive_some(sqs, queue_url)
    item = (await dynamodb.get_item(TableName=table_name, Key=key("item")))["Item"]

    assert message["Body"] == item["text"]["S"] == text


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp, of what AWS takes
async def test_a_message_is_measured_in_bytes(sqs: SQSClient, queue_url: str) -> None:
    mebibyte = 1_048_576
    await sqs.send_message(QueueUrl=queue_url, MessageBody="é" * (mebibyte // 2))
    with pytest.raises(ClientError, match="must be shorter than 1048576 bytes"):
        await sqs.send_message(QueueUrl=queue_url, MessageBody="é" * (mebibyte // 2 + 1))
    await send_all(sqs, queue_url, ["é" * (mebibyte // 4)] * 2)
    with pytest.raises(sqs.exceptions.BatchRequestTooLong):
        await send_all(sqs, queue_url, ["é" * (mebibyte // 4)] * 3)

    assert await count_messages(sqs, queue_url) == (3, 0)


async def test_a_query_answers_in_order_page_by_page(dynamodb: DynamoDBClient, table_name: str) -> None:
    sort_keys = [f"{number:02}" for number in range(30)]
    written = [(pk, sk) for sk in reversed(sort_keys) for pk in ("wanted", "other")]
    await write_items(dynamodb, table_name, written, owner="us")

    by_table = await query_sort_keys(dynamodb, table_name, "pk = :value", "wanted", Limit=7)
    backwards = await query_sort_keys(dynamodb, table_name, "pk = :value", "wanted", ScanIndexForward=False)
    by_index = await query_sort_keys(
        dynamodb, table_name, "#owner = :value", "us", Limit=7, IndexName="by_owner", names={"#owner": "owner"}
    )

    assert by_table == sort_keys
    assert backwards == sort_keys[::-1]
    assert by_index == sorted(sort_keys * 2)
    assert await query_sort_keys(dynamodb, table_name, "pk = :value", "nobody") == []


async def test_what_is_deleted_is_let_go(sqs: SQSClient, dynamodb: DynamoDBClient, queue_url: str) -> None:
    await sqs.send_message(QueueUrl=queue_url, MessageBody="once")
    await receive_some(sqs, queue_url)

    tracked = vars(moto_sqs.Message)["instances_tracked"]

    assert tracked == [], "moto keeps every message it ever made"


# --- Web pages


RESET = ("POST", "/moto-api/reset")
FROM_A_PAGE = {"Origin": "https://evil.example"}
A_LINK = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}  # that a person follows


@pytest.mark.parametrize(
    ("request_", "headers"),
    [
        (RESET, FROM_A_PAGE),
        (RESET, {"Origin": "null"}),
        (RESET, {"Origin": "http://localhost:3000"}),
        (RESET, {"Sec-Fetch-Site": "cross-site"}),  # an image, or a link
        (RESET, {"Sec-Fetch-Site": "same-site"}),  # a page of another program on this machine
        (RESET, {"Host": "evil.example"}),
        (RESET, {"Host": "127.0.0.1.evil.example:80"}),
        (("OPTIONS", "/moto-api/reset"), FROM_A_PAGE),
        (("GET", "/?Action=ListQueues"), FROM_A_PAGE),
        (("GET", "/moto-api/"), FROM_A_PAGE),
        (("GET", "/moto-api/data.json?X-Amz-Signature=0"), A_LINK),
        (("GET", "/?Action=ListQueues&X-Amz-Signature=0"), A_LINK),
        (("POST", "/bucket/file?X-Amz-Signature=0"), A_LINK),
        (("GET", "/bucket/file"), A_LINK),
    ],
    ids=str,
)
async def test_web_page_is_not_answered(
    aws: EmbeddedAws, sqs: SQSClient, request_: tuple[str, str], headers: dict[str, str]
) -> None:
    method, path = request_
    kept = (await sqs.create_queue(QueueName="kept"))["QueueUrl"]
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, aws.url + path, headers=headers) as answer,
    ):
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert kept in (await sqs.list_queues())["QueueUrls"]


async def test_signed_link_to_a_file_may_be_on_a_page(aws: EmbeddedAws) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{aws.url}/bucket/file?X-Amz-Signature=0", headers=A_LINK) as answer,
    ):
        assert answer.status == 404


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "pictures.localhost"])
async def test_loopback_names_are_answered(aws: EmbeddedAws, host: str) -> None:
    headers = {"Host": host, "Sec-Fetch-Site": "none"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{aws.url}/?Action=ListQueues", headers=headers) as answer,
    ):
        assert answer.status != 403


# --- A program and a fixture


def test_standard_variables_are_all_a_client_needs(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "whoever")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "whatever")
    for region in ("us-east-1", "ap-southeast-2"):
        client = boto3.client("sqs", region_name=region, config=Config(**ONCE))
        assert "QueueUrls" not in client.list_queues(QueueNamePrefix="regional")
        client.create_queue(QueueName="regional")
        assert len(client.list_queues(QueueNamePrefix="regional")["QueueUrls"]) == 1


@pytest.mark.full
async def test_a_reset_leaves_nothing() -> None:
    """In a process of its own: other tests still need what they have in this one."""
    program = await start_program()
    url = await read_url(program)
    session = get_session()
    async with (
        session.create_client("sqs", endpoint_url=url, config=AioConfig(**ONCE), **ACCESS) as sqs,
        session.create_client("dynamodb", endpoint_url=url, config=AioConfig(**ONCE), **ACCESS) as dynamodb,
    ):
        queue_url = (await sqs.create_queue(QueueName="filled"))["QueueUrl"]
        await create_table(dynamodb, "filled")
        await sqs.send_message(QueueUrl=queue_url, MessageBody="gone soon")

        reset(url)

        assert "QueueUrls" not in await sqs.list_queues()
        assert (await dynamodb.list_tables())["TableNames"] == []
    program.terminate()
    await program.communicate()


@pytest.mark.usefixtures("aws")
def test_a_second_host_in_the_process_is_refused() -> None:
    with pytest.raises(RuntimeError, match="hosts moto already"), EmbeddedAws():
        pass


def test_a_moto_it_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Queue:
        """What a newer moto may have made of it."""

    check_fit()
    monkeypatch.setattr(moto_sqs, "Queue", Queue)
    monkeypatch.delattr(moto_sqs, "SQSBackend")
    with pytest.raises(UnknownMotoError) as refusal:
        check_fit()

    for part in ("moto.sqs.models:Queue", "moto.sqs.models:SQSBackend", f"Install moto {SUPPORTED_MOTO}"):
        assert part in str(refusal.value)
    assert "moto.sqs.models:Message" not in str(refusal.value)


@pytest.mark.full
async def test_the_program_stops_at_once_when_told_to() -> None:
    program = await start_program()
    url = await read_url(program)
    async with get_session().create_client("sqs", endpoint_url=url, config=AioConfig(**ONCE), **ACCESS) as sqs:
        queue_url = (await sqs.create_queue(QueueName="polled"))["QueueUrl"]
        poll = asyncio.create_task(receive_some(sqs, queue_url, WaitTimeSeconds=LONG_WAIT_SECONDS))
        for _ in range(10):  # meanwhile the poll, sent before these, has arrived
            await sqs.get_queue_url(QueueName="polled")
        told_at = time.monotonic()
        program.send_signal(signal.SIGTERM)

        assert await poll == []
        output, errors = await asyncio.wait_for(program.communicate(), DEADLINE_SECONDS)

    assert program.returncode == 0
    assert time.monotonic() - told_at < LONG_WAIT_SECONDS / 4
    assert (output, errors) == (b"", b"")


@pytest.mark.full
async def test_the_program_does_not_outlive_its_parent() -> None:
    # A parent that starts the program, passes on its one line and is then killed: it can tidy nothing up.
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-m', 'penstock.infra.embedded', '--exit-with-parent'])",
        stdout=PIPE,
    )
    address = urlsplit(await read_url(parent))
    parent.kill()
    await parent.wait()

    await until(lambda: not is_listening(address.hostname, address.port))


# --- Steps


def key(name: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": name}, "sk": {"S": name}}


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not is_so():  # noqa: ASYNC110 - what it waits for happens in another thread or process
            await asyncio.sleep(0.005)


async def send_all(sqs: SQSClient, queue_url: str, bodies: Sequence[str]) -> None:
    entries = [{"Id": str(position), "MessageBody": body} for position, body in enumerate(bodies)]
    answer = await sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
    assert not answer.get("Failed")


async def fill(url: str, queue_url: str, count: int) -> None:
    """Send many messages without an AWS client, which would take most of the time."""
    batch = {"QueueUrl": queue_url, "Entries": [{"Id": str(n), "MessageBody": "filling"} for n in range(10)]}
    async with aiohttp.ClientSession(headers=bare_headers("SendMessageBatch")) as session:
        for _ in range(count // 10):
            async with session.post(url, data=json.dumps(batch)) as answer:
                assert answer.status == http.HTTPStatus.OK


def bare_headers(action: str) -> dict[str, str]:
    """What the embedded AWS needs to know of a call to SQS; it checks no signature."""
    credential = f"any/20260101/{ACCESS['region_name']}/sqs/aws4_request"
    return {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=any",
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": f"AmazonSQS.{action}",
    }


async def receive_some(sqs: SQSClient, queue_url: str, **options: Any) -> list[Any]:
    answer = await sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], **options
    )
    return list(answer.get("Messages", ()))


async def receive_twice(sqs: SQSClient, queue_url: str) -> tuple[str, str]:
    """The old and the new receipt of one message, which is in flight."""
    await sqs.send_message(QueueUrl=queue_url, MessageBody="twice")
    [first] = await receive_some(sqs, queue_url, VisibilityTimeout=0)
    [second] = await receive_some(sqs, queue_url)
    return first["ReceiptHandle"], second["ReceiptHandle"]


async def count_messages(sqs: SQSClient, queue_url: str) -> tuple[int, int]:
    """How many are ready and how many are in flight."""
    answer = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
    counts = answer["Attributes"]
    assert counts["ApproximateNumberOfMessagesDelayed"] == "0"
    return int(counts["ApproximateNumberOfMessages"]), int(counts["ApproximateNumberOfMessagesNotVisible"])


async def arn_of(sqs: SQSClient, queue_url: str) -> str:
    answer = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    return answer["Attributes"]["QueueArn"]


async def read_number(dynamodb: DynamoDBClient, table_name: str, name: str, attribute: str) -> int:
    answer = await dynamodb.get_item(TableName=table_name, Key=key(name), ConsistentRead=True)
    return int(answer["Item"][attribute]["N"])


async def write_items(
    dynamodb: DynamoDBClient, table_name: str, keys: Sequence[tuple[str, str]], owner: str = "none"
) -> None:
    items = [{"pk": {"S": pk}, "sk": {"S": sk}, "owner": {"S": owner}} for pk, sk in keys]
    for start in range(0, len(items), 25):
        requests: Any = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        await dynamodb.batch_write_item(RequestItems={table_name: requests})


async def query_sort_keys(
    dynamodb: DynamoDBClient,
    table_name: str,
    condition: str,
    value: str,
    *,
    names: dict[str, str] | None = None,
    **options: Any,
) -> list[str]:
    if names:
        options["ExpressionAttributeNames"] = names
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table_name,
        KeyConditionExpression=condition,
        ExpressionAttributeValues={":value": {"S": value}},
        **options,
    )
    return [item["sk"]["S"] async for page in pages for item in page["Items"]]


async def time_call(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds the call takes, as a rule: the median of twenty."""
    return statistics.median([await time_once(call()) for _ in range(20)])


async def time_once(call: Awaitable[object]) -> float:
    began_at = time.perf_counter()
    await call
    return time.perf_counter() - began_at


async def time_calls(sqs: SQSClient, queue_url: str) -> dict[str, float]:
    """Seconds that each call takes, as a rule. Twenty sent, two hundred received, twenty of these deleted."""
    received: list[Any] = []

    async def receive() -> None:
        received.extend(await receive_some(sqs, queue_url))

    async def delete() -> None:
        await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=received.pop()["ReceiptHandle"])

    return {
        "SendMessage": await time_call(lambda: sqs.send_message(QueueUrl=queue_url, MessageBody="one more")),
        "ReceiveMessage": await time_call(receive),
        "DeleteMessage": await time_call(delete),
    }


async def open_raw_poll(url: str, queue_url: str) -> asyncio.StreamWriter:
    """A ReceiveMessage that waits, on a connection that can be dropped."""
    address = urlsplit(url)
    body = json.dumps({"QueueUrl": queue_url, "WaitTimeSeconds": LONG_WAIT_SECONDS})
    headers = {"Host": address.netloc, "Content-Length": len(body), **bare_headers("ReceiveMessage")}
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", body]
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    return writer


async def start_program() -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock.infra.embedded", stdout=PIPE, stderr=PIPE
    )


async def read_url(program: Process) -> str:
    assert program.stdout is not None
    line = await asyncio.wait_for(program.stdout.readline(), DEADLINE_SECONDS)
    ready, _, url = line.decode().rstrip("\n").rpartition(" ")
    assert ready == "embedded AWS ready on"
    return url


def is_listening(host: str | None, port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
