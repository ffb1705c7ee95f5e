from typing import Any

import pytest

from penstock.chunk import Operation
from penstock.outcome import Outcome, compact, succeeded
from penstock.preparing import Done
from penstock.service.dialects.odata import references as module
from penstock.service.dialects.odata.references import MOST_READ_BYTES, Reference, References
from penstock.service.dialects.odata.urls import ServiceRoot

ROOT = ServiceRoot(frozenset({"h"}), ("/bulk",))


def prepare(source: Operation, result: Any, rest: str = "/orders?a=1") -> Operation | Outcome:
    references = References(ROOT)
    references.add(1, Reference(0, rest))
    return references.prepare(
        Operation(1, "b", "POST", "/users/$a/orders"), {0: Done(source, succeeded(source, 201, result))}
    )


@pytest.mark.parametrize(
    ("method", "result", "path"),
    [
        ("POST", {"id": 7}, "/users/7/orders?a=1"),
        ("POST", {"Id": "a/b c"}, "/users/a%2Fb%20c/orders?a=1"),
        ("POST", {"ID": "x", "name": "Ada"}, "/users/x/orders?a=1"),
        ("POST", {"@odata.id": "http://h/bulk/people/7", "id": 8}, "/people/7/orders?a=1"),
        ("POST", {"@odata.id": "/people/7?$expand=orders"}, "/people/7/orders?a=1"),
        ("POST", {"@id": "people/7"}, "/people/7/orders?a=1"),
        ("GET", None, "/users/orders?a=1"),
        ("PATCH", {"id": 3}, "/users/orders?a=1"),
    ],
)
def test_reference_becomes_the_path_of_what_was_created(method: str, result: Any, path: str) -> None:
    prepared = prepare(Operation(0, "a", method, "/users?x=1"), result)
    assert prepared == Operation(1, "b", "POST", path)


def test_long_result_is_read_too() -> None:
    content = b'{"id": 7, "text": "' + b"x" * 1_000 + b'"}'
    assert prepare(Operation(0, "a", "POST", "/users"), compact(None, content), "") == Operation(
        1, "b", "POST", "/users/7"
    )


def test_too_large_result_is_not_read() -> None:
    content = b'{"id": 7, "text": "' + b"x" * MOST_READ_BYTES + b'"}'
    failed = prepare(Operation(0, "a", "POST", "/users"), compact(None, content), "")
    assert isinstance(failed, Outcome)
    assert failed.error is not None
    assert failed.error["detail"].startswith("The result of the request 'a' is too large to be read")


def test_result_is_read_once_for_all_that_refer_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[Any]()

    def note(result: Any) -> Any:
        read.append(result)
        return result

    monkeypatch.setattr(module, "result_value", note)
    references, source = References(ROOT), Operation(0, "a", "POST", "/users")
    followers = [Operation(index, str(index), "GET", "/users/$a") for index in (1, 2, 3)]
    for one in followers:
        references.add(one.index, Reference(0, ""))

    def paths(done: Done) -> list[str | None]:
        prepared = [references.prepare(one, {0: done}) for one in followers]
        return [one.path for one in prepared if isinstance(one, Operation)]

    assert paths(Done(source, succeeded(source, 201, {"id": 7}))) == ["/users/7"] * 3
    assert len(read) == 1
    assert paths(Done(source, succeeded(source, 201, {"id": 8}))) == ["/users/8"] * 3  # it ran again


@pytest.mark.parametrize(
    "result", [None, "7", [7], {}, {"id": None}, {"id": ""}, {"id": 7.5}, {"@odata.id": "http://elsewhere/users/7"}]
)
def test_result_without_a_key_fails_what_refers_to_it(result: Any) -> None:
    failed = prepare(Operation(0, "g/a", "POST", "/users"), result)
    assert isinstance(failed, Outcome)
    assert (failed.index, failed.status, failed.rejected) == (1, 424, True)
    assert failed.error is not None
    assert failed.error["detail"].startswith("The result of the request 'a' names no URL and no id")


def test_operation_without_a_reference_stays_as_it_is() -> None:
    operation = Operation(0, "a", "GET", "/users/1")
    assert References(ROOT).prepare(operation, {}) is operation
