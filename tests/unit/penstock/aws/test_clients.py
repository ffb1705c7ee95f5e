"""Errors of AWS, of its client, or of a missing server: which ones a person must fix, and which may pass."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from botocore.exceptions import (
    ClientError,
    MetadataRetrievalError,
    ParamValidationError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError

from penstock.aws import clients as aws
from penstock.aws import sqs
from penstock.aws.backend import open_backend
from penstock.aws.clients import Clients, error_code, explained, open_clients, open_cloudwatch
from penstock.aws.store import DynamoDbStore
from penstock.aws.table import Table
from penstock.errors import Misconfigured, NoAccess, PenstockError, RejectedCall, TooLargeForAws, Unavailable
from penstock.queue import Delivery, Message
from penstock.settings import read_settings
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
REGION = {"AWS_REGION": "eu-central-1"}


@pytest.fixture(autouse=True)
def _nobodys_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the profile of the user and the role of the machine; and try calls once, so that no test waits longer."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(aws, "_TRIES", 1)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a port on which nobody listens. Nobody else can take it during the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def open_and_close() -> None:
    async with open_backend(read_settings()):
        pass


# --- What must be set


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (KEYS, r"^Name the AWS region: set AWS_REGION, for instance to us-east-1\.$"),
        (REGION, r"^Provide AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\. "),
        ({**REGION, "AWS_ACCESS_KEY_ID": "any"}, "^Provide AWS credentials: "),
        ({**KEYS, "AWS_REGION": "eu central"}, "^Check the AWS settings: .*'eu central'"),
        ({**REGION, "AWS_PROFILE": "nobody"}, r"^Check the AWS settings: .*profile \(nobody\)"),
    ],
)
async def test_what_is_missing_or_misspelt_in_the_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, closed_port: int, variables: dict[str, str], told: str
) -> None:
    set_variables(monkeypatch, **variables, AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(Misconfigured, match=told):
        await open_and_close()


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("AWS_ENDPOINT_URL", "localhost:4566"),
        ("AWS_ENDPOINT_URL_SQS", "127.0.0.1"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://"),
    ],
)
async def test_endpoint_that_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, address: str) -> None:
    set_variables(monkeypatch, **KEYS, **REGION, **{variable: address})
    with pytest.raises(Misconfigured, match=r"^Invalid AWS_ENDPOINT_URL: use http://HOST:PORT\. .*Invalid endpoint"):
        async with open_clients(read_settings()):
            pass


async def test_damaged_configuration_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default\nregion")
    set_variables(monkeypatch, **KEYS, **REGION)
    with pytest.raises(Misconfigured, match=r"^Check the AWS settings: .*config"):
        await open_and_close()


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_region_is_taken_from_either_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    set_variables(monkeypatch, **KEYS, **{variable: "eu-west-3"})
    async with open_clients(read_settings()) as clients:
        assert clients.sqs.meta.region_name == clients.dynamodb.meta.region_name == "eu-west-3"


# --- Whether there is a CloudWatch


@pytest.mark.parametrize(
    ("metrics", "elsewhere", "is_open"),
    [
        ("auto", (), True),  # AWS itself
        ("auto", ("AWS_ENDPOINT_URL",), True),  # one server for all of AWS
        ("auto", ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_CLOUDWATCH"), True),
        ("auto", ("AWS_ENDPOINT_URL_CLOUDWATCH",), True),
        ("auto", ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"), False),  # ElasticMQ and DynamoDB Local
        ("cloudwatch", ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"), True),  # on purpose
        ("off", (), False),
        ("off", ("AWS_ENDPOINT_URL",), False),
    ],
)
async def test_figures_of_a_stand_in_never_go_to_aws_by_accident(
    monkeypatch: pytest.MonkeyPatch, metrics: str, elsewhere: tuple[str, ...], is_open: bool
) -> None:
    endpoints = dict.fromkeys(elsewhere, "http://127.0.0.1:1")
    set_variables(monkeypatch, **KEYS, **REGION, **endpoints, PENSTOCK_METRICS=metrics)
    async with open_cloudwatch(read_settings()) as client:
        assert (client is not None) is is_open


async def test_aws_behind_an_address_of_ones_own_network_is_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://vpce-0a1b2c3d.sqs.eu-central-1.vpce.amazonaws.com"
    set_variables(monkeypatch, **KEYS, **REGION, AWS_ENDPOINT_URL_SQS=address)
    async with open_cloudwatch(read_settings()) as client:
        assert client is not None


# --- What a server answers


class Answers:
    """A server in place of AWS that always gives the same answer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.status = 200
        self.body = "{}"
        self.headers: dict[str, str] = {}
        self.is_silent = False
        self.hangs_up = False
        self.waiting = 0

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        if self.is_silent:
            self.waiting += 1
            await asyncio.Event().wait()
        if self.hangs_up:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=self.status, text=self.body, headers=self.headers)


@pytest.fixture(scope="module")
def server() -> Answers:
    return Answers()


@pytest.fixture
def answers(server: Answers) -> Answers:
    server.reset()
    return server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(server: Answers) -> AsyncIterator[Clients]:
    """Open the clients once, because that is slow. They try each call once, and do not wait long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws, "_TRIES", 1)
        patch.setattr(aws, "SPARE_READ_SECONDS", 1)
        async with serving(server) as url:
            set_variables(patch, **KEYS, **REGION, AWS_ENDPOINT_URL=url)
            async with open_clients(read_settings()) as opened:
                yield opened


@asynccontextmanager
async def serving(answers: Answers) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", answers.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


PROVISION = (Misconfigured, "^Run `penstock provision`: a queue or the table does not exist. AWS reports: ")
CHECK = (NoAccess, "^Check the AWS credentials and their permissions. AWS reports: ")
LATER = (Unavailable, "^AWS throttles the call or fails: ")
UNEXPLAINED = (ClientError, "An error occurred")
INVALID = (RejectedCall, "^AWS rejected an invalid call: An error occurred")
PASSING = (Unavailable, r"^AWS reports an error that may pass \(HTTP status 40[03]\): ")


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (400, "ResourceNotFoundException", PROVISION),
        (400, "AccessDeniedException", CHECK),
        (400, "UnrecognizedClientException", CHECK),
        (400, "InvalidSignatureException", CHECK),
        (400, "ExpiredTokenException", CHECK),
        (400, "ThrottlingException", LATER),
        (400, "ProvisionedThroughputExceededException", LATER),
        (400, "RequestLimitExceeded", LATER),
        (400, "LimitExceededException", LATER),
        (500, "InternalServerError", LATER),
        (503, "ServiceUnavailable", LATER),
        (500, "SomethingNew", LATER),
        (429, "SomethingNew", LATER),
        (400, "ConditionalCheckFailedException", UNEXPLAINED),  # the caller who set the condition handles it
        (400, "ValidationException", INVALID),  # a bug of ours
        (400, "ThrottledException", LATER),
        (400, "TooManyRequestsException", LATER),
        (400, "SlowDown", LATER),
        (400, "IncompleteSignatureException", CHECK),
        (400, "MissingAuthenticationTokenException", CHECK),
        (400, "SomethingNew", PASSING),
    ],
)
async def test_what_dynamodb_says_is_told_apart(
    clients: Clients, answers: Answers, status: int, code: str, meaning: tuple[type[Exception], str]
) -> None:
    answers.status = status
    answers.body = f'{{"__type": "com.amazonaws.dynamodb.v20120810#{code}", "message": "so it is"}}'
    with pytest.raises(meaning[0], match=meaning[1]):
        await read_item(clients)


@pytest.mark.parametrize(
    ("code", "in_query_protocol", "meaning"),
    [
        ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", PROVISION),
        ("QueueDoesNotExist", None, PROVISION),  # ElasticMQ
        ("AccessDeniedException", "AccessDenied", CHECK),
        ("InvalidClientTokenId", None, CHECK),
        ("SignatureDoesNotMatch", None, CHECK),
        ("ExpiredToken", None, CHECK),
        ("RequestThrottled", "RequestThrottled", LATER),
        ("OverLimit", "OverLimit", LATER),  # 120,000 messages in flight
        ("KmsThrottled", "KMS.ThrottlingException", LATER),
        ("KmsThrottled", None, LATER),
        ("KmsAccessDenied", "KMS.AccessDeniedException", CHECK),
        ("KmsDisabled", "KMS.DisabledException", CHECK),
        ("InvalidSecurity", "InvalidSecurity", CHECK),
        ("IncompleteSignature", None, CHECK),
        ("MissingAuthenticationToken", None, CHECK),
        ("InvalidMessageContents", "InvalidMessageContents", INVALID),
        ("SomethingNew", None, PASSING),
    ],
)
async def test_what_sqs_says_is_told_apart(
    clients: Clients, answers: Answers, code: str, in_query_protocol: str | None, meaning: tuple[type[Exception], str]
) -> None:
    answers.status = 403
    answers.body = f'{{"__type": "com.amazonaws.sqs#{code}", "message": "so it is"}}'
    answers.headers = {"x-amzn-query-error": f"{in_query_protocol};Sender"} if in_query_protocol else {}
    with pytest.raises(meaning[0], match=meaning[1]), explained():
        await clients.sqs.get_queue_url(QueueName="chunks")


async def read_item(clients: Clients) -> None:
    with explained():
        await clients.dynamodb.get_item(TableName="penstock", Key={"pk": {"S": "a"}, "sk": {"S": "b"}})


async def test_answer_that_the_caller_expects_keeps_its_code(clients: Clients, answers: Answers) -> None:
    answers.status, answers.body = 400, '{"__type": "ConditionalCheckFailedException"}'
    with pytest.raises(ClientError) as raised:
        await read_item(clients)
    assert error_code(raised.value) == "ConditionalCheckFailedException"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, "<html>Bad Gateway</html>"),
        (403, "<html>Forbidden by the proxy</html>"),
        (400, "<html>Bad Request</html>"),
        (400, ""),
        (403, "{}"),
        (302, "<html>Log in here</html>"),
        (503, ""),
    ],
)
async def test_answer_that_is_not_from_aws_is_taken_for_an_outage(
    clients: Clients, answers: Answers, status: int, body: str
) -> None:
    answers.status, answers.body = status, body
    with pytest.raises(Unavailable, match=r"^AWS "):
        await read_item(clients)


PAGE = "<html>Accept the terms of this network</html>"


@pytest.mark.parametrize(
    "body", [PAGE, "", "null", "[]", '"yes"', "{", '{"message": "Accept the terms"}', '{"Messages": 1}']
)
async def test_answer_with_status_200_that_is_not_from_aws_is_taken_for_an_outage(
    clients: Clients, answers: Answers, body: str
) -> None:
    """Or it would read as an empty answer: nothing was received, or everything was deleted."""
    answers.body = body
    for call in (
        clients.polls.receive_message(QueueUrl="http://q"),
        clients.sqs.delete_message_batch(QueueUrl="http://q", Entries=[]),
        clients.dynamodb.get_item(TableName="penstock", Key={}),
        clients.dynamodb.put_item(TableName="penstock", Item={}),
    ):
        with pytest.raises(Unavailable, match=r"^The answer is damaged, or it is not from AWS"), explained():
            await call


async def test_empty_answer_of_aws_is_an_answer(clients: Clients, answers: Answers) -> None:
    answers.body = " {} "
    assert "Messages" not in await clients.polls.receive_message(QueueUrl="http://q")
    await read_item(clients)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"Successful": [{"Id": "0"}]}',
        '{"Successful": [], "Failed": null}',
        '{"Failed": [{}]}',
        '{"Successful": [{}], "Failed": [{"Id": "0"}, {"Id": "7", "SenderFault": true, "Code": "Other"}]}',
    ],
)
async def test_message_that_sqs_does_not_name_in_its_answer_is_not_taken_for_done(
    clients: Clients, answers: Answers, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(sqs, "SEND_WAIT_SECONDS", 0.001)
    answers.body = body
    queue = sqs.SqsQueue(clients.sqs, "http://q", polls=clients.polls, call_bytes=1_000)
    deliveries = [Delivery("a", "", "1", 1), Delivery("b", "", "2", 1)]
    with pytest.raises(Unavailable):
        await queue.send([Message("a"), Message("b")])
    with pytest.raises(Unavailable):
        await queue.extend(deliveries, 60)
    with pytest.raises(Unavailable):
        await asyncio.gather(*map(queue.delete, deliveries))


@pytest.mark.parametrize("item", ['{"x": {"S": "1"}}', '{"pk": {"S": "batch#b"}}', "{}", '{"pk": {}, "sk": {}}'])
async def test_item_that_was_not_asked_for_is_no_answer_of_dynamodb(
    clients: Clients, answers: Answers, item: str
) -> None:
    answers.body = f'{{"Item": {item}}}'
    with pytest.raises(Unavailable, match="another item"):
        await Table(clients.dynamodb, "penstock").get({"pk": {"S": "batch#a"}, "sk": {"S": "batch"}})


@pytest.mark.parametrize("item", ['{"pk": {"S": "batch#b"}, "sk": {"S": "batch"}}', "{}", '{"pk": null, "sk": {}}'])
async def test_one_of_several_items_that_was_not_asked_for_is_no_answer_of_dynamodb(
    clients: Clients, answers: Answers, item: str
) -> None:
    """Or a damaged answer would read as if the batch, or the record of a chunk, did not exist."""
    answers.body = f'{{"Responses": {{"penstock": [{item}]}}}}'
    store = DynamoDbStore(clients.dynamodb, "penstock")
    results = await asyncio.gather(
        store.read_traces("a", "0"),
        store.read_batch("a"),
        store.read_progress("a", [0], with_done=False),
        store.read_groups("a", [0]),
        store.read_only_chunk("a"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Unavailable] * 5
    assert {"another item" in str(result) for result in results} == {True}


async def test_items_that_are_missing_in_the_answer_do_not_exist(clients: Clients, answers: Answers) -> None:
    answers.body = '{"Responses": {"penstock": []}}'
    store = DynamoDbStore(clients.dynamodb, "penstock")
    traces, batch = await asyncio.gather(store.read_traces("a", "0"), store.read_batch("a"))
    assert (traces.record, batch) == (None, None)


async def test_page_of_a_proxy_is_not_reported_whole(clients: Clients, answers: Answers) -> None:
    answers.status, answers.body = 403, "<html>" + 10_000 * "no " + "</html>"
    with pytest.raises(Unavailable) as raised:
        await read_item(clients)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ValidationException", "Item size has exceeded the maximum allowed size"),
        ("ValidationException", "Item size to update has exceeded the maximum allowed size"),
        ("BatchRequestTooLong", ""),
    ],
)
async def test_what_is_too_large_is_told_apart(clients: Clients, answers: Answers, code: str, words: str) -> None:
    answers.status, answers.body = 400, f'{{"__type": "x#{code}", "message": "{words}"}}'
    with pytest.raises(TooLargeForAws):
        await read_item(clients)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 413, 500])
@pytest.mark.parametrize("code", ["Zzz", "KMS.Anything", "x.Throttled", "403", "Internal.Failure"])
async def test_no_code_is_without_an_answer(clients: Clients, answers: Answers, status: int, code: str) -> None:
    answers.status, answers.body = status, f'{{"__type": "{code}"}}'
    with pytest.raises(PenstockError):
        await read_item(clients)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ResponseParserError("Unable to parse response"), Unavailable),
        (MetadataRetrievalError(error_msg="no answer"), Unavailable),
        (UnauthorizedSSOTokenError(), NoAccess),
        (RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."), NoAccess),
    ],
)
async def test_errors_of_the_client_library_are_explained(error: Exception, meaning: type[Exception]) -> None:
    with pytest.raises(meaning), explained():
        raise error


async def test_server_that_does_not_answer_in_time_is_unavailable(clients: Clients, answers: Answers) -> None:
    answers.is_silent = True
    with pytest.raises(Unavailable, match=r"^AWS does not answer: ReadTimeoutError"):
        await read_item(clients)


async def test_server_that_hangs_up_is_unavailable(clients: Clients, answers: Answers) -> None:
    answers.hangs_up = True
    with pytest.raises(Unavailable, match=r"^AWS does not answer: ConnectionClosedError"):
        await read_item(clients)


async def test_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    set_variables(monkeypatch, **KEYS, **REGION, AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(Unavailable, match=r"^AWS does not answer: .*Could not connect to the endpoint URL") as told:
        await open_and_close()
    assert told.value.__cause__ is not None


async def test_call_that_is_wrong_in_itself_is_a_fault_of_ours_and_no_outage() -> None:
    """If it counted as an outage, it would be repeated forever."""
    with pytest.raises(ParamValidationError), explained():
        raise ParamValidationError(report="Unknown parameter")


@pytest.mark.parametrize("error", [ValueError("something else"), KeyError("x"), asyncio.CancelledError()])
async def test_what_is_not_about_aws_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, explained():
        raise error
    assert raised.value is error


async def test_polls_hold_no_connection_that_other_calls_need(clients: Clients, answers: Answers) -> None:
    """Each long poll holds its connection while it waits."""
    answers.is_silent = True
    polls = [
        asyncio.create_task(clients.polls.receive_message(QueueUrl="http://q")) for _ in range(aws.POLLS_IN_FLIGHT)
    ]

    async def all_wait() -> bool:
        return answers.waiting == aws.POLLS_IN_FLIGHT

    await eventually(all_wait)
    answers.is_silent = False
    await asyncio.wait_for(read_item(clients), 5)
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
