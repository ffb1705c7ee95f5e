"""What stands in for AWS in tests: the embedded AWS, and the real servers, ElasticMQ with DynamoDB Local."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.infra.embedded.server import EmbeddedAws
from penstock.infra.local.servers import LocalServers

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Aws:
    """`environment` is everything that a program needs to find this AWS."""

    kind: str
    environment: Mapping[str, str]


IN_MEMORY = Aws("memory", {})  # no AWS: for the suites that also run on the in-memory queue and store


def embedded(server: EmbeddedAws) -> Aws:
    return Aws("embedded", {"AWS_ENDPOINT_URL": server.url, **CREDENTIALS})


def real(servers: LocalServers) -> Aws:
    endpoints = {"AWS_ENDPOINT_URL_SQS": servers.sqs_url, "AWS_ENDPOINT_URL_DYNAMODB": servers.dynamodb_url}
    return Aws("real", {**endpoints, **CREDENTIALS})


def scrubbed_environment() -> dict[str, str]:
    """Return the environment without the variables that a test may not see."""
    return {name: value for name, value in os.environ.items() if not is_scrubbed(name)}


def is_scrubbed(name: str) -> bool:
    """Return True if a variable of this name could lead a test to somebody's account or settings."""
    return name.startswith(("AWS_", "PENSTOCK_", "OTEL_"))
