"""What the tests of several commands share."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def tokyo() -> Iterator[None]:
    """Let this machine be in a time zone that is nine hours before UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()
