"""Opens the AWS clients, once per program, and translates AWS's errors into ours.

AWS's standard variables say where the clients connect: `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`,
`AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_S3`. Credentials come from AWS's usual chain.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from aiohttp import ClientError as HttpClientError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    InvalidConfigError,
    InvalidRegionError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError

from penstock.aws.answers import StrictParsers
from penstock.aws.credentials import rotate
from penstock.errors import Misconfigured, NoAccess, PenstockError, RejectedCall, TooLargeForAws, Unavailable
from penstock.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch import CloudWatchClient
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_sqs import SQSClient

CALLS_IN_FLIGHT = 50  # connections per client; further calls wait for one
POLLS_IN_FLIGHT = 10
FILES_IN_FLIGHT = 10  # an answer has up to 4 MiB
SPARE_READ_SECONDS = 10  # a long poll may take this much longer than its wait time
METRICS_READ_SECONDS = 5
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

# All of our calls may be repeated, so the SDK may do it too. Three tries survive a dropped connection; the callers
# decide what to do about a longer outage.
_TRIES = 3

# AWS's error codes are an open set: services spell the same thing in several ways, and add codes at any time. So a code
# is classified by what it is about, and an unknown one is taken for an error that may pass.
_CONDITION_FAILED = "ConditionalCheckFailedException"  # the caller who set the condition handles it
_MISSING = re.compile(r"ResourceNotFound|NonExistentQueue|QueueDoesNotExist")
_TOO_MUCH = re.compile(
    r"Throttl|TooManyRequests|SlowDown|OverLimit|LimitExceeded|ThroughputExceeded|RateExceeded|Unavailable",
    re.IGNORECASE,
)
_NOT_ALLOWED = re.compile(
    r"AccessDenied|UnrecognizedClient|ClientToken|Signature|Security|AuthenticationToken|ExpiredToken|TokenExpired"
    r"|InvalidToken|RequestExpired|RequestInTheFuture|TimeTooSkewed|AuthFailure|Unauthori|NotAuthori|AccessKey|Credential"
    r"|OptIn|SubscriptionRequired|^KMS",  # a key that is disabled, deleted or in the wrong state
    re.IGNORECASE,
)
_NO_PERMISSION = re.compile(r"AccessDenied|^KMS|OptIn|SubscriptionRequired", re.IGNORECASE)
_INVALID = re.compile(
    r"Validation|InvalidParameter|InvalidAttribute|InvalidMessageContents|InvalidBatchEntry|InvalidInput|InvalidAction"
    r"|InvalidQueryParameter|MissingParameter|MissingAction|Malformed|Serialization|TooLong|TooManyEntries|EmptyBatch"
    r"|BatchEntryIdsNotDistinct|UnknownOperation|UnsupportedOperation|InvalidIdFormat|ReceiptHandleIsInvalid",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(
    r"TooLong|size (has )?exceeded|exceeded the maximum allowed size|aggregated size", re.IGNORECASE
)
_LONGEST_REPORT = 300  # characters: a proxy answers with a whole page of HTML


@dataclass(frozen=True, slots=True)
class Clients:
    """The open clients. Long polls use `polls`: they hold their connections, and no send may wait for one.

    `s3` is None if no bucket is set.
    """

    sqs: "SQSClient"
    polls: "SQSClient"
    dynamodb: "DynamoDBClient"
    s3: "S3Client | None" = None


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Clients]:
    """Open the clients of a program, without calling AWS. Raises Misconfigured if AWS's settings are invalid."""
    calls = _config(CALLS_IN_FLIGHT, read_seconds=SPARE_READ_SECONDS)
    polls = _config(POLLS_IN_FLIGHT, read_seconds=settings.receive_wait_seconds + SPARE_READ_SECONDS)
    async with AsyncExitStack() as stack:
        opener = _Opener(stack, settings)
        yield Clients(
            sqs=await opener.open("sqs", calls),
            polls=await opener.open("sqs", polls),
            dynamodb=await opener.open("dynamodb", calls),
            s3=None if settings.bucket is None else await opener.open("s3", _s3_config()),
        )


@asynccontextmanager
async def open_cloudwatch(settings: Settings) -> AsyncIterator["CloudWatchClient | None"]:
    """Yield a client for metrics, or None if metrics must not be published."""
    async with AsyncExitStack() as stack:
        opener = _Opener(stack, settings)
        match settings.metrics:
            case "off":
                yield None
            case "cloudwatch":
                yield await opener.open("cloudwatch", _metrics_config())
            case "auto":
                cloudwatch = await opener.open("cloudwatch", _metrics_config())
                # With a local queue, credentials that are found by chance must not be used to publish to AWS.
                is_by_accident = _is_aws(cloudwatch) and not _is_aws(await opener.open("sqs", _metrics_config()))
                yield None if is_by_accident else cloudwatch


class _Opener:
    """Opens clients in one session. They close with the stack."""

    def __init__(self, stack: AsyncExitStack, settings: Settings) -> None:
        self._stack = stack
        self._settings = settings
        self._session = _new_session()
        rotate(self._session, _new_session, rejects_credentials)

    async def open(self, service: str, config: AioConfig) -> Any:
        with explained():
            return await self._stack.enter_async_context(
                self._session.create_client(service, region_name=self._settings.aws_region, config=config)
            )


def _metrics_config() -> AioConfig:
    return _config(1, read_seconds=METRICS_READ_SECONDS)


def _is_aws(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(_AWS_HOSTS)


def _new_session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", _loader())
    session.register_component("response_parser_factory", StrictParsers())
    return session


@cache
def _loader() -> Loader:
    """Return what reads botocore's files about services. It has a cache, which all sessions share."""
    return create_loader()


def _s3_config() -> AioConfig:
    return _config(
        FILES_IN_FLIGHT,
        read_seconds=SPARE_READ_SECONDS,
        signature_version="s3v4",  # newer regions accept no other, and an older one would be used for presigned URLs
        s3={"addressing_style": "virtual"},  # otherwise presigned URLs name the global endpoint
    )


def _config(connections: int, read_seconds: int, **options: Any) -> AioConfig:
    return AioConfig(
        max_pool_connections=connections,
        connect_timeout=5,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        parameter_validation=False,  # saves time in each call; our tests check the parameters
        user_agent="penstock",  # saves time: the default one is built again for every call
        **options,
    )


@contextmanager
def explained() -> Iterator[None]:
    """Raise AWS's exceptions as ours.

    Unavailable: the same call may work later. NoAccess: it works as soon as the credentials or permissions are right.
    Misconfigured: it cannot work with these settings. RejectedCall: this call can never work. Only a failed condition
    is raised as it is, because it is no error.
    """
    try:
        yield
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        raise explanation from error


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def rejects_credentials(code: str) -> bool:
    """Return True if other credentials may be accepted. Missing permissions need no other ones."""
    return bool(_NOT_ALLOWED.search(code)) and not _NO_PERMISSION.search(code)


def explain_code(code: str, report: str) -> PenstockError | None:
    """Return our exception for an error code of AWS, or None for a code that nothing is known about."""
    if _TOO_MUCH.search(code):
        return Unavailable(f"AWS throttles the call or fails: {report}")
    if _MISSING.search(code):
        return Misconfigured(f"Run `penstock provision`: a queue or the table does not exist. AWS reports: {report}")
    if _NOT_ALLOWED.search(code):
        return NoAccess(f"Check the AWS credentials and their permissions. AWS reports: {report}")
    if _INVALID.search(code):
        is_too_large = _TOO_LARGE.search(code) or _TOO_LARGE.search(report)
        return (TooLargeForAws if is_too_large else RejectedCall)(f"AWS rejected an invalid call: {report}")
    return None


def _explain(error: Exception) -> PenstockError | None:
    """Return our exception, or None for an error that is not about AWS, or that the caller handles."""
    if isinstance(error, ClientError):
        return None if error_code(error) == _CONDITION_FAILED else _explain_answer(error)
    for kinds, explain in _OF_THE_LIBRARY:
        if isinstance(error, kinds):
            return explain(error)
    words = str(error)
    if isinstance(error, RuntimeError) and words.startswith("Credentials were refreshed, but"):
        return NoAccess(f"Check the AWS credentials: the new ones have expired as well. {words}")
    if isinstance(error, ValueError) and words.startswith("Invalid endpoint"):
        return Misconfigured(f"Invalid AWS_ENDPOINT_URL: use http://HOST:PORT. AWS's client reports: {words}")
    return None


def _explain_answer(error: ClientError) -> PenstockError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if status >= 500 or status == 429:
        return Unavailable(f"AWS throttles the call or fails: {_report(error)}")
    known = explain_code(error_code(error), _report(error))
    return known or Unavailable(f"AWS reports an error that may pass (HTTP status {status}): {_report(error)}")


# The first that matches explains an error of AWS's client library. Most of its errors have one base class.
_OF_THE_LIBRARY: tuple[tuple[tuple[type[Exception], ...], Callable[[Exception], PenstockError | None]], ...] = (
    (
        (NoRegionError,),
        lambda _: Misconfigured("Name the AWS region: set AWS_REGION, for instance to us-east-1."),
    ),
    (
        (NoCredentialsError, PartialCredentialsError),
        lambda _: NoAccess(
            "Provide AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A local "
            "server accepts any credentials; `penstock up` brings its own."
        ),
    ),
    (
        (LoginError, NoAuthTokenError, SSOError, TokenRetrievalError),
        lambda error: NoAccess(f"Log in to AWS again: {error}"),
    ),
    (
        (InvalidRegionError, ProfileNotFound, ConfigParseError, InvalidConfigError),
        lambda error: Misconfigured(f"Check the AWS settings: {error}"),
    ),
    ((ParamValidationError,), lambda _: None),  # a bug in Penstock: a repetition cannot help
    (
        (ResponseParserError,),
        lambda error: Unavailable(f"The answer is damaged, or it is not from AWS: {_report(error)}"),
    ),
    (
        (BotoCoreError, HttpClientError, TimeoutError, OSError),
        lambda error: Unavailable(f"AWS does not answer: {type(error).__name__}: {error}"),
    ),
)


def _report(error: Exception) -> str:
    report = str(error)
    return report if len(report) <= _LONGEST_REPORT else f"{report[:_LONGEST_REPORT]}…"
