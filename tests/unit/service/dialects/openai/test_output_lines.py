"""The lines of the files with outputs and errors."""

import json
from typing import Any

import pytest
from pydantic_core import to_json

from penstock.outcome import OutcomeState
from penstock.service.dialects.openai.batch_entry import BatchEntry
from penstock.service.dialects.openai.output_lines import lines_of
from penstock.service.dialects.openai.output_list import in_runs_of_few_counters
from tests.support.builders import build_batch

CANCELLED = {"code": "batch_cancelled", "message": "This request was not executed, because the batch was cancelled."}
EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


def error(message: str, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("state", "outcome", "status", "body"),
    [
        (OutcomeState.SUCCEEDED, {"status": 200, "result": {"a": [1.50, None]}}, 200, {"a": [1.5, None]}),
        (OutcomeState.SUCCEEDED, {"status": 204, "result": None}, 204, None),
        # What an upstream of OpenAI's kind answered is the body of the response.
        (
            OutcomeState.FAILED,
            {"status": 400, "error": {"title": "Bad Request", "detail": "...", "body": error("No.", "own")}},
            400,
            error("No.", "own"),
        ),
        (
            OutcomeState.FAILED,
            {"status": 422, "error": {"title": "Invalid", "detail": "Not so."}},
            422,
            error("Not so.", "unprocessable_entity"),
        ),
        (
            OutcomeState.FAILED,
            {"status": 504, "error": {"title": "Timeout"}},
            504,
            error("Timeout", "gateway_timeout", "server_error"),
        ),
        (
            OutcomeState.FAILED,
            {"status": 429, "error": {"title": "Later"}},
            429,
            error("Later", "rate_limit_exceeded"),
        ),
        (OutcomeState.FAILED, {"status": 499, "error": {"title": "Own"}}, 499, error("Own", "failed")),
        (
            OutcomeState.FAILED,
            {"status": 500, "error": None},
            500,
            error("The request failed.", "internal_server_error", "server_error"),
        ),
        (
            OutcomeState.FAILED,
            {"status": 500, "error": {"title": "Failed", "body": "text"}},
            500,
            error("Failed", "internal_server_error", "server_error"),
        ),
    ],
)
def test_request_that_ran_has_a_response(state: OutcomeState, outcome: dict[str, Any], status: int, body: Any) -> None:
    [line] = lines_of(state, "01ARZ", [7], [to_json({"id": "ä", **outcome})])
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "id": "batch_req_01ARZ_7",
        "custom_id": "ä",
        "response": {"status_code": status, "request_id": "req_01ARZ_7", "body": body},
        "error": None,
    }


def test_large_result_that_the_bucket_has_no_more_is_an_error() -> None:
    outcome = {"id": "a", "status": 200, "result": None, "resultMissing": "It has expired."}
    [line] = lines_of(OutcomeState.SUCCEEDED, "01ARZ", [7], [to_json(outcome)])
    assert json.loads(line)["response"]["body"] is None
    assert json.loads(line)["error"] == {"code": "output_missing", "message": "It has expired."}


@pytest.mark.parametrize(("state", "written"), [(OutcomeState.CANCELLED, CANCELLED), (OutcomeState.EXPIRED, EXPIRED)])
def test_request_that_did_not_run_has_no_response(state: OutcomeState, written: dict[str, str]) -> None:
    outcome = {"id": "a", "status": 410, "error": {"title": "Cancelled"}}
    [line] = lines_of(state, "01ARZ", [7], [to_json(outcome)])
    assert json.loads(line) == {"id": "batch_req_01ARZ_7", "custom_id": "a", "response": None, "error": written}


def test_batches_with_many_counters_are_read_in_runs() -> None:
    entries = [BatchEntry(str(number), "t", 0.0, 1.0, "file-1", "/v1/x", "24h", "") for number in range(6)]
    counters = [400, 500, 200, 20_000, 1, 999]
    batches = {str(number): build_batch(*[1] * count) for number, count in enumerate(counters)}
    runs = in_runs_of_few_counters(entries, batches)
    assert [[entry.id for entry in run] for run in runs] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
