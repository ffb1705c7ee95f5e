from typing import Any

import pytest

from penstock import Operations
from penstock.errors import Flaw, InvalidRequest
from penstock.route import InvalidOperation, Route
from penstock.service.dialects.odata.translation import NotOffered, Translation
from penstock.service.dialects.odata.urls import ServiceRoot

operations = Operations()


@operations.get("/users/{user}")
@operations.get("/users/{user}/orders")
async def read(user: str) -> None: ...


@operations.post("/users", status=201)
async def create(body: Any) -> None: ...


operations.forward("/upstream/{path}", to="https://internal.example")


def find_route(method: str, path: str) -> Route | None:
    try:
        return operations.match(method, path)
    except InvalidOperation:
        return None


def translate(*requests: Any, stops_at_error: bool = False) -> list[dict[str, Any]]:
    return begin(*requests, stops_at_error=stops_at_error).operations


def begin(*requests: Any, stops_at_error: bool = False) -> Translation:
    translation = Translation(ServiceRoot(frozenset({"h"})), find_route, stops_at_error=stops_at_error)
    for index, request in enumerate(requests):
        translation.add(index, request)
    translation.finish()
    return translation


def get(id_: str, url: str = "users/1", **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "GET", "url": url, **members}


def post(id_: str, **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "POST", "url": "/users", "body": {"name": id_}, **members}


def operation(id_: str, path: str = "/users/1", **members: Any) -> dict[str, Any]:
    return {"id": id_, "method": "GET", "path": path, **members}


@pytest.mark.parametrize(
    ("request_", "translated"),
    [
        (get("1"), operation("1")),
        (get("1", method="get"), operation("1")),
        (get("1", method="dElEtE"), operation("1", method="DELETE")),
        (get("1", "users('1')"), operation("1")),
        (get("1", "unknown(1)"), operation("1", "/unknown(1)")),  # it gets a response of its own
        (get("1", "/upstream/users(1)?$top=2"), operation("1", "/upstream/users(1)?$top=2")),
        (get("1", body=None, headers=None, atomicityGroup=None, dependsOn=None), operation("1")),
        (get("1", headers={"Accept": "*/*", "Prefer": "return=minimal", "OData-Version": "4.0"}), operation("1")),
        (get("1", **{"@odata.comment": "note"}), operation("1")),
        (post("1"), operation("1", "/users", method="POST", body={"name": "1"})),
        (
            post("1", body=[1], headers={"Content-Type": "application/json;odata.metadata=minimal"}),
            operation("1", "/users", method="POST", body=[1]),
        ),
        (
            post("1", headers={"Idempotency-Key": "order-7"}),
            operation("1", "/users", method="POST", body={"name": "1"}, key="order-7"),
        ),
    ],
)
def test_request_becomes_an_operation(request_: dict[str, Any], translated: dict[str, Any]) -> None:
    assert translate(request_) == [translated]


def test_dependencies_name_operations() -> None:
    translated = translate(
        get("a"),
        get("b", atomicityGroup="g"),
        get("c", atomicityGroup="g", dependsOn=["b", "a"]),
        get("d", dependsOn=["g"]),
        get("e", depends_on=["b", "a", "a"]),
    )
    assert translated == [
        operation("a"),
        operation("g/b", group="g"),
        operation("g/c", group="g", dependsOn=["a"]),  # the members of a group run in their order
        operation("d", dependsOn=["g/c"]),
        operation("e", dependsOn=["g/b", "a"]),
    ]


def test_after_an_error_nothing_runs_that_comes_later() -> None:
    translated = translate(
        get("a"),
        get("b", atomicityGroup="g"),
        get("c", atomicityGroup="g"),
        get("d", dependsOn=["a"]),
        stops_at_error=True,
    )
    assert [one.get("dependsOn") for one in translated] == [None, ["a"], None, ["a", "g/c"]]


def test_reference_to_a_request_with_a_known_url_is_resolved() -> None:
    translated = translate(get("a", "users/7"), get("b", "$a/orders"), get("c", "/$b/lines"), get("d", "$a"))
    assert [one["path"] for one in translated] == ["/users/7", "/users/7/orders", "/users/7/orders/lines", "/users/7"]
    assert [one.get("dependsOn") for one in translated] == [None, ["a"], ["b"], ["a"]]


def test_reference_to_what_is_created_waits_for_it() -> None:
    translation = begin(
        post("new user", atomicityGroup="g"),
        get("b", atomicityGroup="g"),
        get("c", "$new user", dependsOn=["g"]),
        get("d", "$c/orders"),
    )
    assert [(one["path"], one.get("dependsOn")) for one in translation.operations] == [
        ("/users", None),
        ("/users/1", None),  # a member of a group runs after those before it
        ("/users/{~0}", ["g/b", "g/new user"]),
        ("/users/{~0}/orders", ["c"]),
    ]
    reference = {"~0": {"operation": "g/new user", "member": ["id", "Id", "ID"]}}
    assert [one.get("references") for one in translation.operations] == [None, None, reference, reference]


def test_reference_within_a_group_is_no_dependency() -> None:
    translation = begin(
        post("1", atomicityGroup="g"),
        get("2", "$1", atomicityGroup="g"),
        {**post("3", atomicityGroup="g"), "url": "$2/orders"},
        get("4", "$3/lines", atomicityGroup="g"),
    )
    assert [(one["path"], one.get("dependsOn")) for one in translation.operations] == [
        ("/users", None),
        ("/users/{1}", None),
        ("/users/{1}/orders", None),  # a member of a group runs after those before it
        ("/users/{1}/orders/{3}/lines", None),
    ]
    references = [one.get("references", {}) for one in translation.operations]
    assert [list(one) for one in references] == [[], ["1"], ["1"], ["1", "3"]]
    assert references[3]["3"]["operation"] == "g/3"


@pytest.mark.parametrize(
    ("requests", "flaws"),
    [
        (["no object"], [Flaw("/requests/0", "A request is a JSON object.")]),
        (
            [{"id": "1"}],
            [Flaw("/requests/0/method", "Field required"), Flaw("/requests/0/url", "Field required")],
        ),
        ([get("1", method="HEAD")], [Flaw("/requests/0/method", "")]),
        (
            [{**get("1"), "id": 1}, get("2", dependsOn=["1"])],
            [Flaw("/requests/0/id", ""), Flaw("/requests/1/dependsOn/0", "")],
        ),
        ([get("a/b")], [Flaw("/requests/0/id", "An id or a group cannot have / in it")]),
        ([get("1"), get("1")], [Flaw("/requests/1/id", "An earlier request has the same id '1'.")]),
        ([get("g", atomicityGroup="g")], [Flaw("/requests/0/id", "The id 'g' is also the name of a group.")]),
        (
            [get("1"), get("2", atomicityGroup="1")],
            [Flaw("/requests/1/atomicityGroup", "The group '1' is also the id of a request.")],
        ),
        (
            [get("1", atomicityGroup="g"), get("2"), get("3", atomicityGroup="g")],
            [Flaw("/requests/2/atomicityGroup", "The requests of the group 'g' are not next to each other.")],
        ),
        (
            [get("1", dependsOn=["2"]), get("2")],
            [Flaw("/requests/0/dependsOn/0", "No request before this one has the id or the group '2'.")],
        ),
        ([get("1", dependsOn=["1"])], [Flaw("/requests/0/dependsOn/0", "No request before this one")]),
        (
            [get("1", atomicityGroup="g"), get("2", atomicityGroup="g", dependsOn=["g"])],
            [Flaw("/requests/1/dependsOn/0", "A request cannot depend on its own group.")],
        ),
        ([get("1"), get("2", dependsOn=["1"], depends_on=["1"])], [Flaw("/requests/1/depends_on", "are there twice")]),
        ([get("1", "$2"), get("2")], [Flaw("/requests/0/url", "No request before this one has the id '2'.")]),
        ([get("1", "https://elsewhere/users/1")], [Flaw("/requests/0/url", "The URL names another host")]),
        ([get("1", body={})], [Flaw("/requests/0/body", "A GET request has no body.")]),
        ([get("1", headers={"a": "1", "A": "2"})], [Flaw("/requests/0/headers", "A header is there twice.")]),
        ([get("1", headers={"Authorization": "x"})], [Flaw("/requests/0/headers/authorization", "no credentials")]),
        ([get("1", header={})], [Flaw("/requests/0/header", "This member is unknown.")]),
        (
            [get("1", headers={str(n): 1 for n in range(101)}, dependsOn=[1] * 1_001)],
            [
                Flaw("/requests/0/headers", "There are at most 100 of them. These are 101"),
                Flaw("/requests/0/dependsOn", "There are at most 1,000 of them. These are 1,001"),
            ],
        ),
        ([get("1" * 100, atomicityGroup="g" * 28)], [Flaw("/requests/0/id", "more than 127 characters")]),
        (
            [post("0"), *(post(str(number), url=f"${number - 1}/x") for number in range(1, 22))],
            [Flaw("/requests/21/url", "It continues a chain of 21 requests that create something. The limit is 20.")],
        ),
    ],
)
def test_batch_is_rejected_if_it_is_invalid(requests: list[Any], flaws: list[Flaw]) -> None:
    with pytest.raises(InvalidRequest) as rejected:
        translate(*requests)
    check_flaws(rejected.value.flaws, flaws)


@pytest.mark.parametrize(
    ("requests", "flaws"),
    [
        ([get("1", headers={"If-Match": "*"})], [Flaw("/requests/0/headers/if-match", "Conditional requests")]),
        (
            [get("1"), get("2", dependsOn=["1"], **{"if": "$1"})],
            [Flaw("/requests/1/if", "Conditions are not offered.")],
        ),
        (
            [post("1", body="aGk", headers={"content-type": "text/plain; charset=utf-8"})],
            [Flaw("/requests/0/headers/content-type", "The type text/plain is not offered.")],
        ),
        ([get("1", "users/1?$select=name")], [Flaw("/requests/0/url", "GET /users/{user} has a handler here")]),
        ([get("1", "users/1"), get("2", "$1?$top=1")], [Flaw("/requests/1/url", "has a handler here")]),
    ],
)
def test_what_is_not_offered_is_said_plainly(requests: list[Any], flaws: list[Flaw]) -> None:
    with pytest.raises(NotOffered) as rejected:
        translate(*requests)
    check_flaws(rejected.value.flaws, flaws)


def test_reading_ends_when_very_many_errors_were_found() -> None:
    with pytest.raises(InvalidRequest) as rejected:
        translate(*(get(str(number), dependsOn=[str(n) for n in range(2_000, 3_000)]) for number in range(30)))
    assert rejected.value.count == 10_000


def test_error_weighs_more_than_what_is_not_offered() -> None:
    with pytest.raises(InvalidRequest) as rejected:
        translate(get("1", headers={"If-Match": "*"}), get("1"))
    assert [flaw.pointer for flaw in rejected.value.flaws] == ["/requests/0/headers/if-match", "/requests/1/id"]


def check_flaws(found: Any, expected: list[Flaw]) -> None:
    assert [flaw.pointer for flaw in found] == [flaw.pointer for flaw in expected]
    for flaw, wanted in zip(found, expected, strict=True):
        assert wanted.detail in flaw.detail
