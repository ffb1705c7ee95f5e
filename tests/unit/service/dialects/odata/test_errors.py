from typing import Any

import pytest

from penstock.service.dialects.dialect import Problem
from penstock.service.dialects.odata.errors import code_of, error_of_batch, error_of_request, status_of

OWN = "urn:penstock:problem:"


def problem(status: int, type_: str, detail: str = "It is wrong.", **members: Any) -> Problem:
    return Problem(status, {"type": type_, "title": "Not Found", "status": status, "detail": detail, **members}, {})


def flaw(pointer: str) -> dict[str, str]:
    return {"pointer": pointer, "detail": "This."}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (problem(404, f"{OWN}unknown-batch"), {"code": "unknownBatch", "message": "It is wrong."}),
        (problem(404, "about:blank"), {"code": "notFound", "message": "It is wrong."}),
        (
            problem(413, f"{OWN}limit-passed", maxRequests=5),
            {"code": "limitPassed", "message": "It is wrong.", "innererror": {"maxRequests": 5}},
        ),
        (
            problem(422, f"{OWN}invalid-request", errors=[flaw("/operations/3/path")], errorCount=1),
            {
                "code": "invalidRequest",
                "message": "requests/3/url: This.",
                "target": "requests/3/url",
                "details": [{"code": "invalidRequest", "target": "requests/3/url", "message": "This."}],
            },
        ),
        (
            problem(
                422, f"{OWN}invalid-request", errors=[flaw("/requests"), flaw("/operations/0/key/x")], errorCount=9
            ),
            {
                "code": "invalidRequest",
                "message": "It is wrong. The first one is in requests: This.",
                "details": [
                    {"code": "invalidRequest", "target": "requests", "message": "This."},
                    {"code": "invalidRequest", "target": "requests/0/headers/idempotency-key/x", "message": "This."},
                ],
                "innererror": {"errorCount": 9},
            },
        ),
        (
            problem(413, f"{OWN}limit-passed", errors=[flaw("/operations/2")], errorCount=1),
            {
                "code": "limitPassed",
                "message": "requests/2: This.",
                "target": "requests/2",
                "details": [{"code": "limitPassed", "target": "requests/2", "message": "This."}],
            },
        ),
    ],
)
def test_problem_becomes_an_error(given: Problem, error: dict[str, Any]) -> None:
    assert error_of_batch(given) == {"error": error}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (problem(422, f"{OWN}invalid-request"), 400),
        (problem(422, f"{OWN}key-reused"), 422),
        (problem(503, f"{OWN}unavailable"), 503),
        (problem(504, f"{OWN}acceptance-unknown"), 500),  # Microsoft's client would send the batch again
    ],
)
def test_status_is_one_that_clients_take_in_the_right_way(given: Problem, status: int) -> None:
    assert status_of(given) == status


@pytest.mark.parametrize(
    ("error", "written"),
    [
        ({"title": "Rejected", "detail": "Taken."}, {"code": "rejected", "message": "Taken."}),
        ({"title": "Timed out"}, {"code": "timedOut", "message": "Timed out"}),
        (
            {"title": "Conflict", "detail": "Taken.", "type": "https://x/taken", "hint": 5},
            {"code": "conflict", "message": "Taken.", "innererror": {"hint": 5}},
        ),
        (
            {
                "title": "Not Found",
                "detail": "The upstream answered 404.",
                "body": {"error": {"code": "E1", "message": "m"}},
            },
            {"code": "E1", "message": "m"},
        ),
        (
            {"title": "Not Found", "detail": "The upstream answered 404.", "body": {"error": "no"}},
            {"code": "notFound", "message": "The upstream answered 404.", "innererror": {"body": {"error": "no"}}},
        ),
    ],
)
def test_failure_becomes_an_error(error: dict[str, Any], written: dict[str, Any]) -> None:
    assert error_of_request(error) == {"error": written}


@pytest.mark.parametrize(
    ("name", "code"), [("Not Found", "notFound"), ("invalid-request", "invalidRequest"), ("", "error")]
)
def test_code_is_one_word(name: str, code: str) -> None:
    assert code_of(name) == code
