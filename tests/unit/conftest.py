"""What holds for all unit tests."""

import pytest

from penstock.consumer import readers_first


@pytest.fixture(autouse=True)
def nothing_waits_for_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let consumers finish a batch as soon as it is counted. Most tests have nobody who reads meanwhile."""
    monkeypatch.setattr(readers_first, "SECONDS", 0.0)
