"""One table and one set of clients for a test file. Each test uses its own queues and batches."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from penstock.aws.clients import Clients, open_clients
from penstock.infra.provision import provision
from penstock.settings import Settings
from tests.support.aws import Aws

LEASE_SECONDS = 30  # longer than any test


@dataclass(frozen=True, slots=True)
class Servers:
    clients: Clients
    table: str


@pytest.fixture(scope="module")
def environment(aws: Aws) -> Iterator[None]:
    """Set the environment for what is opened once for all tests. Each test itself starts with a scrubbed one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            patch.setenv(name, value)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(aws: Aws, environment: None) -> AsyncIterator[Servers | None]:
    """Yield the servers, or None for the in-memory parts."""
    if aws.kind == "memory":
        yield None
        return
    settings = Settings(name="contract", visibility_seconds=LEASE_SECONDS)
    provision(settings)
    async with open_clients(settings) as clients:
        yield Servers(clients, settings.table)
