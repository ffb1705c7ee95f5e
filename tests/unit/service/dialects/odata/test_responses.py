from typing import Any

import pytest

from penstock.service.dialects.odata.responses import response_object

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("outcome", "response"),
    [
        (
            {"id": "1", "status": 201, "result": {"id": 7}},
            {"id": "1", "status": 201, "headers": JSON, "body": {"id": 7}},
        ),
        ({"id": "1", "status": 200, "result": None}, {"id": "1", "status": 200, "headers": JSON, "body": None}),
        (
            {"id": "1", "status": 200, "result": None, "resultMissing": "Its file is gone."},
            {
                "id": "1",
                "status": 200,
                "@penstock.resultMissing": "Its file is gone.",
                "headers": JSON,
                "body": None,
            },
        ),
        ({"id": "1", "status": 204, "result": None}, {"id": "1", "status": 204}),
        ({"id": "1", "status": 204, "result": {"x": 1}}, {"id": "1", "status": 204}),
        (
            {"id": "set/1", "status": 424, "error": {"title": "Rolled back", "detail": "So."}},
            {
                "id": "1",
                "atomicityGroup": "set",
                "status": 424,
                "headers": JSON,
                "body": {"error": {"code": "rolledBack", "message": "So."}},
            },
        ),
    ],
)
def test_outcome_becomes_a_response(outcome: dict[str, Any], response: dict[str, Any]) -> None:
    assert response_object(outcome) == response
