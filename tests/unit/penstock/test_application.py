"""The application that the settings name, or the one that is made where they name an upstream."""

import pytest
from pydantic import SecretStr

from penstock.application import find_application
from penstock.chunk import Operation
from penstock.errors import Misconfigured
from penstock.operations import METHODS
from penstock.outcome import Outcome
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.settings import Settings
from tests.support.attempts import run_one
from tests.support.upstream import toy_upstream


async def test_upstream_alone_makes_an_application_that_forwards_everything() -> None:
    async with toy_upstream() as upstream:
        settings = Settings(
            upstream=upstream.url + "/v1",
            upstream_authorization=SecretStr("Bearer ours"),
            upstream_headers="Accept-Language",
            upstream_timeout_seconds=5,
            upstream_max_attempts=7,
        )
        operations = find_application(settings)
        async with operations.connections(1):
            source = Source("01J", "01J", headers={"accept-language": "de"})
            outcome = await run_one(Runner(operations, 1), Operation(0, "0", "GET", "/users?x=1", None), source, 1)

    assert isinstance(outcome, Outcome)
    assert outcome.result == {"asked": "/v1/users?x=1"}
    [asked] = upstream.requests
    assert (asked.headers["Authorization"], asked.headers["Accept-Language"]) == ("Bearer ours", "de")
    assert [route.name for route in operations.routes] == [f"{method} /{{path}}" for method in METHODS]
    assert {(route.policy.timeout_seconds, route.policy.max_attempts) for route in operations.routes} == {(5, 7)}


def test_upstream_that_is_not_there_is_no_reason_not_to_start() -> None:
    assert find_application(Settings(upstream="http://nowhere.invalid")).routes


def test_application_is_loaded_by_its_name() -> None:
    assert (
        find_application(Settings(app="tests.acceptance.apps:operations")).match("POST", "/sums").name == "POST /sums"
    )


def test_one_of_both_is_needed() -> None:
    with pytest.raises(
        Misconfigured, match=r"^No application is set\. .* To forward to an existing API, set PENSTOCK_UPSTREAM"
    ):
        find_application(Settings())
