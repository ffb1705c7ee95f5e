"""Which servers a test may count on."""

import os

import pytest

from penstock.infra.local.servers import missing_tools

REQUIRED = "PENSTOCK_REQUIRE_REAL_SERVERS"


def real_servers_or_skip() -> None:
    """Call it in the fixture that starts ElasticMQ and DynamoDB Local, so that each test is skipped under its own name.

    With PENSTOCK_REQUIRE_REAL_SERVERS=1, as in CI, a missing tool fails the test instead: nobody reads the skips there.
    """
    reason = missing_tools()
    if reason is None:
        return
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}.", pytrace=False)
    pytest.skip(f"real servers: {reason}")
