import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from penstock import references as module
from penstock.chunk import Links, Operation, Reference, UrlRule
from penstock.outcome import StoredResult, compact, result_content
from penstock.references import MOST_READ_BYTES, MOST_VALUE_BYTES, Results, Unresolved
from tests.support.garbage import without_collections

RULE = UrlRule(("@odata.id", "@id"), ("h",), ("/bulk",))


def refer(path: str, *references: Reference, index: int = 9) -> Operation:
    links = Links(tuple(reference.source for reference in references), None, references)
    return Operation(index, str(index), "POST", path, links=links)


def results_for(operations: Sequence[Operation], known: Iterable[tuple[int, Any]] = ()) -> Results:
    results = Results(operations)
    for index, result in known:
        results.note(index, result_content(result))
    return results


def resolve(result: Any, *members: str, rule: UrlRule | None = None, path: str = "/users/{a}/orders?x=1") -> str:
    operation = refer(path, Reference(0, "a", members or ("id", "Id"), rule))
    resolved = results_for([operation], [(0, result)]).resolve(operation)
    assert resolved.links == Links((0,))
    return resolved.path


@pytest.mark.parametrize(
    ("result", "members", "segment"),
    [
        ({"id": 7}, [], "7"),
        ({"Id": "a/b c", "name": "x"}, [], "a%2Fb%20c"),
        ({"id": "ä{b}?#%"}, [], "%C3%A4%7Bb%7D%3F%23%25"),
        ({"data": [{"id": 7}]}, ["/data/0/id"], "7"),
        ({"a/b": {"~": 0}}, ["id", "/a~1b/~0"], "0"),
        ([1, 2], ["/1"], "2"),
        ({"id": "x" * MOST_VALUE_BYTES}, [], "x" * MOST_VALUE_BYTES),
        (compact(None, b'{"id": 7, "text": "' + b"x" * 1_000 + b'"}'), [], "7"),
    ],
)
def test_value_of_a_result_becomes_a_part_of_the_path(result: Any, members: list[str], segment: str) -> None:
    assert resolve(result, *members) == f"/users/{segment}/orders?x=1"


@pytest.mark.parametrize(
    ("result", "path"),
    [
        ({"id": 7}, "/users/7/orders?x=1"),
        ({"@odata.id": "http://h/bulk/people/7", "id": 8}, "/people/7/orders?x=1"),
        ({"@odata.id": "HTTPS://H/people/7/"}, "/people/7/orders?x=1"),
        ({"@odata.id": "/bulk/people/7?$expand=orders"}, "/people/7/orders?x=1"),
        ({"@id": "people/7"}, "/people/7/orders?x=1"),
        ({"@id": "/people/{a}"}, "/people/%7Ba%7D/orders?x=1"),
        ({"@id": "/people('a%20b')"}, "/people('a%20b')/orders?x=1"),
    ],
)
def test_url_in_a_result_replaces_the_path_up_to_its_place(result: Any, path: str) -> None:
    assert resolve(result, rule=RULE) == path


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (None, "the result of that operation has no @odata.id or @id or id or Id."),
        ("7", "has no"),
        ([7], "has no"),
        ({}, "has no"),
        ({"id": None}, "id in the result of that operation is null. A path needs a text or a whole number."),
        ({"id": ""}, "is empty."),
        ({"id": ".."}, 'is "..".'),
        ({"id": 7.5}, "is 7.5."),
        ({"id": True}, "is true."),
        ({"id": {"a": 1}}, "is an object."),
        ({"id": "ä" * MOST_VALUE_BYTES}, "is longer than 512 bytes"),
        ({"@id": "/" + "x" * MOST_VALUE_BYTES}, "is longer than 512 bytes"),
        ({"@id": "http://elsewhere/users/7", "id": 7}, "@id in the result of that operation leads to another service"),
        ({"@id": "ftp://h/users/7"}, "leads to another service"),
        ({"@id": "//[h/users"}, "is no URL"),
        (compact(None, b'{"id": 7, "text": "' + b"x" * MOST_READ_BYTES + b'"}'), "is too large to be read"),
        (StoredResult("in the bucket", 7), "is too large to be read"),
    ],
)
def test_result_without_a_value_leads_nowhere(result: Any, why: str) -> None:
    with pytest.raises(Unresolved, match=r"^The path has \{a\}, but ") as error:
        resolve(result, rule=RULE)
    assert why in str(error.value)


def test_each_placeholder_gets_its_value_when_it_is_known() -> None:
    operation = refer("/a/{x}/b/{y}/c", Reference(0, "x", ("id",)), Reference(1, "y", ("id",)))
    half = results_for([operation], [(1, {"id": 2})]).resolve(operation, {0})
    links = Links((0, 1), None, (Reference(0, "x", ("id",)),))
    assert half == Operation(9, "9", "POST", "/a/{x}/b/2/c", links=links)
    assert results_for([half], [(0, {"id": 1})]).resolve(half).path == "/a/1/b/2/c"


def test_url_replaces_the_places_before_it() -> None:
    operation = refer("/a/{x}/b/{y}/c", Reference(0, "x", ("id",), RULE), Reference(1, "y", ("id",), RULE))
    known = [(0, {"id": 1}), (1, {"@id": "/d/2"})]
    assert results_for([operation], known).resolve(operation).path == "/d/2/c"
    assert results_for([operation], known[1:]).resolve(operation, {0}) == Operation(
        9, "9", "POST", "/d/2/c", links=Links((0, 1))
    )


def test_value_is_not_a_placeholder_itself() -> None:
    operation = refer("/a/{x}/b/{y}", Reference(0, "x", ("id",)), Reference(1, "y", ("id",)))
    resolved = results_for([operation], [(0, {"id": "{y}"}), (1, {"id": "{x}"})]).resolve(operation)
    assert resolved.path == "/a/%7By%7D/b/%7Bx%7D"


def test_operation_that_did_not_succeed_has_no_value() -> None:
    operation = refer("/a/{x}", Reference(0, "x", ("id",)))
    results = results_for([operation])
    assert results.resolve(operation, results.unknown) is operation
    with pytest.raises(Unresolved, match="has not succeeded"):
        results.resolve(operation)


def test_result_is_parsed_once_for_all_that_refer_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def from_json(content: bytes) -> Any:
        parsed.append(content)
        return {"id": 7, "a": 8}

    monkeypatch.setattr(module, "from_json", from_json)
    members = [("id",), ("id", "a"), ("a",)]
    operations = [refer("/a/{x}", Reference(0, "x", one), index=index) for index, one in enumerate(members, start=1)]
    results = Results(operations)
    results.note(0, result_content({"id": 7}))
    assert [results.resolve(one).path for one in operations] == ["/a/7", "/a/7", "/a/8"]
    assert len(parsed) == 1


def test_operation_without_references_stays_as_it_is() -> None:
    operation = Operation(0, "a", "GET", "/users/{a}")
    assert Results([operation]).resolve(operation) is operation


def test_results_are_freed_without_a_collection_although_a_value_is_missing() -> None:
    def note() -> "weakref.ref[Results]":
        results = results_for([refer("/a/{b}", Reference(0, "b", ("id",)))], [(0, {})])
        return weakref.ref(results)

    with without_collections():
        assert note()() is None
