"""Limits as an application declares them."""

import math
from typing import Any

import pytest

import penstock
from penstock.errors import Misconfigured
from penstock.limit import Limit
from penstock.operations import Operations
from penstock.route import Route


async def fine(body: dict[str, int]) -> None: ...


def blocking(body: dict[str, int]) -> None: ...


async def bulk(body: list[dict[str, int]]) -> list[None]:
    return [None for _ in body]


def test_every_kind_of_handler_and_a_forward_can_name_a_limit() -> None:
    operations = Operations()
    operations.post("/loop", limit="stripe")(fine)
    operations.put("/thread", limit="stripe")(blocking)
    operations.patch("/process", cpu_bound=True, limit="stripe")(blocking)
    operations.delete("/bulk", bulk=True, max_size=5, limit="stripe")(bulk)
    operations.forward("/api/{path}", to="https://api.example", methods=["GET"], limit="stripe")

    assert limits_of(operations.routes) == {"stripe"}
    assert operations.limits == {}


def test_no_limit_is_the_default() -> None:
    operations = Operations()
    operations.post("/loop")(fine)
    operations.forward("/api/{path}", to="https://api.example")

    assert limits_of(operations.routes) == {None}


def test_an_application_declares_limits() -> None:
    declared = {"stripe": penstock.Limit(rate=100, burst=20), "learnt": Limit()}

    operations = Operations(limits=declared)

    assert operations.limits == declared
    assert operations.limits is not declared


@pytest.mark.parametrize("name", ["", "two words", "é", "a" * 65, "a#b", 7])
def test_an_invalid_name_is_explained(name: Any) -> None:
    operations = Operations()
    reason = r"Use a name of 1 to 64 letters, digits and the characters \. _ -"
    with pytest.raises(Misconfigured, match=f"The limit of POST /loop .* is named .*{reason}"):
        operations.post("/loop", limit=name)(fine)
    with pytest.raises(Misconfigured, match=rf"The limit of forward\('/api/{{path}}'\) is named .*{reason}"):
        operations.forward("/api/{path}", to="https://api.example", limit=name)
    with pytest.raises(Misconfigured, match=rf"A limit of Operations\(limits=...\) is named .*{reason}"):
        Operations(limits={name: Limit()})


def test_an_invalid_declaration_is_explained() -> None:
    with pytest.raises(
        Misconfigured, match=r"The limit 'stripe' of Operations\(limits=...\) is of type int. Use penstock"
    ):
        Operations(limits={"stripe": 100})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"rate": 0}, r"The rate of a Limit is 0\. Use a number of operations a second from 0\.001 to 1,000,000"),
        ({"rate": -1.5}, r"The rate of a Limit is -1\.5"),
        ({"rate": math.nan}, r"The rate of a Limit is nan"),
        ({"rate": math.inf}, r"The rate of a Limit is inf"),
        ({"rate": "100"}, r"The rate of a Limit is '100'"),
        ({"rate": True}, r"The rate of a Limit is True"),
        ({"burst": 0}, r"The burst of a Limit is 0\. Use a whole number from 1 to 1,000,000,000, or None"),
        ({"burst": 1.5}, r"The burst of a Limit is 1\.5"),
        ({"burst": True}, r"The burst of a Limit is True"),
        ({"concurrency": 0}, r"The concurrency of a Limit is 0\. Use a whole number from 1 to 1,000,000,000, or None"),
        ({"concurrency": 2.5}, r"The concurrency of a Limit is 2\.5"),
    ],
)
def test_a_limit_names_what_is_wrong(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        Limit(**values)


def limits_of(routes: list[Route]) -> set[str | None]:
    return {route.policy.limit for route in routes}
