"""Decides what happens to a test if the real servers cannot be started on this machine."""

import os

import pytest

from penstock.infra.local.servers import missing_tools

REQUIRED = "PENSTOCK_REQUIRE_REAL_SERVERS"


def real_servers_or_skip() -> None:
    """Skip the test if ElasticMQ and DynamoDB Local cannot be started here. Tests call it through the fixture `java`.

    With PENSTOCK_REQUIRE_REAL_SERVERS=1, as in CI, the test fails instead, because nobody reads the skips there.
    """
    reason = missing_tools()
    if reason is None:
        return
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}.", pytrace=False)
    pytest.skip(f"real servers: {reason}")
