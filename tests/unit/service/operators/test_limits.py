"""GET /limits: what operators see of the limits that the fleet shares."""

from dataclasses import replace
from typing import Any

import pytest

from penstock import Limit, Operations
from penstock.fleet_limit import LimitState
from penstock.fleet_permits import Holder
from penstock.testing import FakeClock, memory_parts
from tests.support.builders import NOW
from tests.support.faults import Outage
from tests.support.service import Serve, Service, assert_problem

UNUSED = {
    "rate": None,
    "declaredRate": None,
    "declaredBurst": None,
    "declaredConcurrency": None,
    "permits": None,
    "notBefore": None,
    "cutAt": None,
    "awaySince": None,
    "consumers": 0,
    "asOf": None,
}
STATE = LimitState(rate=70.00049, at=NOW - 1, consumers=8, lease="1")


def limited() -> Operations[Any]:
    operations = Operations(limits={"stripe": Limit(rate=100, burst=50), "spare": Limit(rate=5)})
    operations.forward("/api/{path}", to="https://api.example", limit="stripe")

    @operations.post("/mail", limit="mail")
    async def mail() -> None: ...

    @operations.post("/unlimited")
    async def unlimited() -> None: ...

    return operations


async def serve_with(serve: Serve, **states: LimitState) -> Service:
    parts = memory_parts()
    for name, state in states.items():
        assert await parts.store.lease_limit(name, LimitState(), state)
    return await serve(limited(), parts=parts, clock=FakeClock(NOW))


async def test_limits_that_nobody_has_used_yet_are_shown_as_declared(serve: Serve) -> None:
    answer = await (await serve_with(serve)).get("/limits")
    assert (answer.status, answer.body) == (
        200,
        {
            "limits": [
                {"name": "mail", **UNUSED},
                {"name": "spare", **UNUSED, "rate": 5, "declaredRate": 5},
                {"name": "stripe", **UNUSED, "rate": 100, "declaredRate": 100, "declaredBurst": 50},
            ]
        },
    )


async def test_state_of_a_limit_is_as_the_consumers_wrote_it(serve: Serve) -> None:
    throttled = replace(STATE, not_before=NOW + 30, cut_at=NOW - 2, away_at=NOW - 5)
    service = await serve_with(serve, mail=throttled, stripe=replace(STATE, not_before=NOW), gone=STATE)
    mail, _, stripe = (await service.get("/limits")).body["limits"]
    assert mail == {
        "name": "mail",
        **UNUSED,
        "rate": 70,
        "notBefore": "2023-11-14T22:13:50.000Z",
        "cutAt": "2023-11-14T22:13:18.000Z",
        "awaySince": "2023-11-14T22:13:15.000Z",
        "consumers": 8,
        "asOf": "2023-11-14T22:13:19.000Z",
    }
    assert (stripe["rate"], stripe["declaredRate"], stripe["notBefore"], stripe["cutAt"]) == (70, 100, None, None)


async def test_permits_of_a_limit_are_shown(serve: Serve) -> None:
    operations, parts = Operations[Any](limits={"crowd": Limit(concurrency=10)}), memory_parts()
    state = LimitState(at=NOW, lease="1", holders={"one": Holder(7, 20, 1, 1), "two": Holder(1, 1, 2, 1)})
    assert await parts.store.lease_limit("crowd", LimitState(), state)
    [crowd] = (await (await serve(operations, parts=parts, clock=FakeClock(NOW))).get("/limits")).body["limits"]
    assert (crowd["declaredConcurrency"], crowd["permits"]) == (10, {"held": 8, "wanted": 21})
    assert (crowd["rate"], crowd["consumers"]) == (None, 2)


async def test_rate_that_was_declared_since_then_is_shown(serve: Serve) -> None:
    service = await serve_with(serve, spare=STATE)
    assert (await service.get("/limits")).body["limits"][1]["rate"] == 5


async def test_application_without_limits_has_none(serve: Serve) -> None:
    assert (await (await serve(Operations())).get("/limits")).body == {"limits": []}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_limits_are_unavailable_while_aws_is(serve: Serve, moment: Any) -> None:
    service = await serve(limited(), watch=Outage("store.read_limits", moment))
    assert_problem(await service.get("/limits"), 503)
