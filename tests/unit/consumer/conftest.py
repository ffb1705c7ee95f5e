"""What tests of consumers share. A test in which a consumer breaks fails, by what is logged."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.consumer import batches, inlets, patience
from penstock.telemetry import Event
from tests.support.plant import Toys

Logs = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """A test that means a chunk to break clears them."""
    with capture_logs() as lines:
        yield lines
    assert not [line for line in lines if line["event"] == Event.CHUNK_BROKE]


@pytest.fixture(autouse=True)
def _repeat_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(patience, "FIRST_REPEAT_SECONDS", 0)


@pytest.fixture
def _watch_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WATCH_SECONDS", 0.005)


@pytest.fixture
def toys() -> Toys:
    return Toys()
