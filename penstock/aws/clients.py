"""Opens the AWS clients, once per program, and translates AWS's errors into ours.

AWS's standard variables say where the clients connect: `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`,
`AWS_ENDPOINT_URL_DYNAMODB`. Credentials come from AWS's usual chain.
"""

from collections.abc import AsyncIterator, Iterator
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
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.loaders import Loader, create_loader

from penstock.errors import Misconfigured, PenstockError, Unavailable
from penstock.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch import CloudWatchClient
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_sqs import SQSClient

CALLS_IN_FLIGHT = 50  # connections per client; further calls wait for one
POLLS_IN_FLIGHT = 10
SPARE_READ_SECONDS = 10  # a long poll may take this much longer than its wait time
METRICS_READ_SECONDS = 5
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

# All of our calls may be repeated, so the SDK may do it too. Three tries survive a dropped connection; the callers
# decide what to do about a longer outage.
_TRIES = 3

_MISSING = {"ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_NOT_ALLOWED = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_SLOW_DOWN = {
    "InternalServerError",
    "LimitExceededException",
    "OverLimit",  # too many messages in flight
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TransactionInProgressException",
}


@dataclass(frozen=True, slots=True)
class Clients:
    """The open clients. Long polls use `polls`: they hold their connections, and no send may wait for one."""

    sqs: "SQSClient"
    polls: "SQSClient"
    dynamodb: "DynamoDBClient"


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
    return session


@cache
def _loader() -> Loader:
    """Return what reads botocore's files about services. It has a cache, which all sessions share."""
    return create_loader()


def _config(connections: int, read_seconds: int) -> AioConfig:
    return AioConfig(
        max_pool_connections=connections,
        connect_timeout=5,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        parameter_validation=False,  # saves time in each call; our tests check the parameters
        user_agent="penstock",  # saves time: the default one is built again for every call
    )


@contextmanager
def explained() -> Iterator[None]:
    """Raise AWS's exceptions as ours: Unavailable if the same call may work later, Misconfigured if it cannot."""
    try:
        yield
    except NoRegionError as error:
        raise Misconfigured("Name the AWS region: set AWS_REGION, for instance to us-east-1.") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Misconfigured(
            "Provide AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A local "
            "server accepts any credentials; `penstock up` brings its own."
        ) from error
    except (InvalidRegionError, ProfileNotFound, ConfigParseError, InvalidConfigError) as error:
        raise Misconfigured(f"Check the AWS settings: {error}") from error
    except ParamValidationError:
        raise  # a bug in Penstock, so repeating the call cannot help
    except ClientError as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        raise explanation from error
    except (BotoCoreError, HttpClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"AWS does not answer: {type(error).__name__}: {error}") from error
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise Misconfigured(f"Invalid AWS_ENDPOINT_URL: use http://HOST:PORT. AWS's client reports: {error}") from error


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _explain(error: ClientError) -> PenstockError | None:
    """Return our exception, or None for an error that the caller handles, such as a failed condition."""
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if code in _MISSING:
        return Misconfigured(f"Run `penstock provision`: a queue or the table does not exist. AWS reports: {error}")
    if code in _NOT_ALLOWED:
        return Misconfigured(f"Check the AWS credentials and their permissions. AWS reports: {error}")
    if code in _SLOW_DOWN or status >= 500 or status == 429:
        return Unavailable(f"AWS throttles the call or fails: {error}")
    return None
