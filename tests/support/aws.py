"""What stands in for AWS in tests: the embedded AWS, and the real servers, ElasticMQ with DynamoDB Local."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.infra.embedded.server import EmbeddedAws
from penstock.infra.local.servers import local_servers
from tests.support.backends import real_servers_or_skip
from tests.support.recorded_calls import RecordedCalls

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Aws:
    """`environment` is all a program needs to find it."""

    kind: str
    environment: Mapping[str, str]


@contextmanager
def start_aws(kind: str, calls: RecordedCalls) -> Iterator[Aws]:
    """`calls` are told of the embedded AWS alone."""
    if kind == "memory":  # no AWS at all: for suites that the in-memory queue and store are held to as well
        yield Aws(kind, {})
        return
    if kind == "embedded":
        with EmbeddedAws(watch=calls.watch) as embedded:
            yield Aws(kind, {"AWS_ENDPOINT_URL": embedded.url, **CREDENTIALS})
        return
    real_servers_or_skip()
    with local_servers() as servers:
        endpoints = {"AWS_ENDPOINT_URL_SQS": servers.sqs_url, "AWS_ENDPOINT_URL_DYNAMODB": servers.dynamodb_url}
        yield Aws(kind, {**endpoints, **CREDENTIALS})


def scrubbed_environment() -> dict[str, str]:
    """The environment without what could lead a test to somebody's account or settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PENSTOCK_", "OTEL_"))}
