"""Opens the AWS clients, once per program, and tells AWS's troubles apart.

Where they connect is AWS's standard business: `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL_DYNAMODB`,
`AWS_REGION`, credentials from the usual chain.
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

CALLS_IN_FLIGHT = 50  # connections per client; a call beyond waits for one
POLLS_IN_FLIGHT = 10
SPARE_READ_SECONDS = 10
METRICS_READ_SECONDS = 5
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

# Our calls may all be repeated, so the SDK may repeat them too; three tries ride out a dropped connection, and whoever
# called decides about longer troubles.
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
    """`polls` is an SQS client of its own: long polls hold their connections, and no send may wait for one."""

    sqs: "SQSClient"
    polls: "SQSClient"
    dynamodb: "DynamoDBClient"


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Clients]:
    session = _new_session()
    async with AsyncExitStack() as stack:
        with explained():

            async def open_client(service: str, config: AioConfig) -> Any:
                return await stack.enter_async_context(
                    session.create_client(service, region_name=settings.aws_region, config=config)
                )

            calls = _config(CALLS_IN_FLIGHT, read_seconds=SPARE_READ_SECONDS)
            polls = _config(POLLS_IN_FLIGHT, read_seconds=settings.receive_wait_seconds + SPARE_READ_SECONDS)
            clients = Clients(
                sqs=await open_client("sqs", calls),
                polls=await open_client("sqs", polls),
                dynamodb=await open_client("dynamodb", calls),
            )
        yield clients


@asynccontextmanager
async def open_cloudwatch(settings: Settings) -> AsyncIterator["CloudWatchClient | None"]:
    """A client for metrics, None where they are not to be published."""
    session = _new_session()
    async with AsyncExitStack() as stack:

        async def open_client(service: str) -> Any:
            with explained():
                config = _config(1, read_seconds=METRICS_READ_SECONDS)
                return await stack.enter_async_context(
                    session.create_client(service, region_name=settings.aws_region, config=config)
                )

        cloudwatch = None if settings.metrics == "off" else await open_client("cloudwatch")
        # Where the queue is a stand-in, it is nobody's wish that credentials which are about be used with AWS itself.
        is_meant = settings.metrics != "auto" or not _is_aws(cloudwatch) or _is_aws(await open_client("sqs"))
        yield cloudwatch if is_meant else None


def _is_aws(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(_AWS_HOSTS)


def _new_session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", _loader())
    return session


@cache
def _loader() -> Loader:
    """Of what botocore knows of services: every session would read it anew."""
    return create_loader()


def _config(connections: int, read_seconds: int) -> AioConfig:
    return AioConfig(
        max_pool_connections=connections,
        connect_timeout=5,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        parameter_validation=False,  # each call would be checked against the service's model; our tests have done that
        user_agent="penstock",  # the default one is put together anew for every call
    )


@contextmanager
def explained() -> Iterator[None]:
    """AWS's exceptions as ours: Unavailable where the same call may work later, Misconfigured where it cannot."""
    try:
        yield
    except NoRegionError as error:
        raise Misconfigured("Name the AWS region: set AWS_REGION, for instance to us-east-1.") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Misconfigured(
            "Give AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A server on this "
            "machine takes any; `penstock up` brings its own."
        ) from error
    except (InvalidRegionError, ProfileNotFound, ConfigParseError, InvalidConfigError) as error:
        raise Misconfigured(f"Check the AWS settings: {error}") from error
    except ParamValidationError:
        raise  # a fault of ours: no repetition mends it
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
        raise Misconfigured(f"Write AWS_ENDPOINT_URL as http://HOST:PORT. AWS's client says: {error}") from error


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _explain(error: ClientError) -> PenstockError | None:
    """None for an answer that the caller expects, such as a condition that failed."""
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if code in _MISSING:
        return Misconfigured(f"Run `penstock provision`: a queue or the table is not there. AWS says: {error}")
    if code in _NOT_ALLOWED:
        return Misconfigured(f"Check the AWS credentials and their permissions. AWS says: {error}")
    if code in _SLOW_DOWN or status >= 500 or status == 429:
        return Unavailable(f"AWS asks to slow down or fails: {error}")
    return None
