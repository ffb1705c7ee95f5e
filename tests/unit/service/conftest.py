"""The HTTP program with all its parts in memory. A test fails if the program fails unexpectedly."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient
from structlog.testing import capture_logs

from penstock.clock import Clock, SystemClock
from penstock.operations import Operations
from penstock.service.app import create_app
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import NOW, build_settings
from tests.support.faults import Watch, watched
from tests.support.service import Serve, Service, open_service

Logs = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """Return what the program logs. A test that expects an unexpected failure clears the logs."""
    with capture_logs() as lines:
        yield lines
    assert not [line for line in lines if line["event"] == Event.REQUEST_BROKE]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def parts(clock: FakeClock) -> MemoryParts:
    """Return a backend in memory. Its clock does not wait, so a redrive notices immediately that no letter is left."""
    return memory_parts(clock)


@pytest.fixture
def serve(aiohttp_client: AiohttpClient) -> Serve:
    async def start(
        operations: Operations[Any],
        *,
        parts: MemoryParts | None = None,
        watch: Watch | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> Service:
        parts = parts or memory_parts(clock)
        backend = watched(parts, watch) if watch else parts.backend
        app = create_app(build_settings(**settings), operations, backend, clock or SystemClock())
        return await open_service(aiohttp_client, app, parts)

    return start
