"""What the answer of an upstream makes of an operation."""

import json
import time
from typing import Any

import pytest

from penstock.chunk import Operation
from penstock.context import LONGEST_TURN_SECONDS
from penstock.forwarding.answer import (
    MOST_ERROR_BYTES,
    MOST_ERROR_CHARACTERS,
    Answer,
    Received,
    conclude,
)
from penstock.outcome import ChunkRecord, EncodedResult, Outcome, OutcomeState, TryAgain
from penstock.record import decode_record, encode_record

NOW = 1_700_000_000.0
JSON = "application/json"


def receive(
    status: int,
    content: bytes = b"",
    media_type: str = JSON,
    *,
    is_cut: bool = False,
    attempt: int = 1,
    **more: Any,
) -> Answer:
    given: dict[str, Any] = {"headers": {}, "charset": "utf-8", **more}
    return conclude(Received(status, media_type=media_type, content=content, is_cut=is_cut, **given), NOW, attempt)


# --- What succeeded


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_status_of_a_success_is_kept(status: int) -> None:
    assert receive(status, b'{"id":1}') == Answer(status, {"id": 1})
    assert receive(status) == Answer(status, None)


@pytest.mark.parametrize(
    ("media_type", "content", "result"),
    [
        (JSON, b"null", None),
        (JSON, b" \n", None),
        (JSON, b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (JSON, b' {"a": [1, 2.5, "\xc3\xa4"]} ', {"a": [1, 2.5, "ä"]}),
        ("application/hal+json", b"[]", []),
        (JSON, b"12345678901234567890", 12345678901234567890),
        ("text/plain", b"done", "done"),
        ("text/plain", b'{"a": 1}', '{"a": 1}'),
        ("text/html", b"<p>\xc3\xa4</p>", "<p>ä</p>"),
        ("application/octet-stream", b"as good as text", "as good as text"),
    ],
)
def test_result_is_json_or_text(media_type: str, content: bytes, result: Any) -> None:
    assert receive(200, content, media_type) == Answer(200, result)


@pytest.mark.parametrize(
    ("charset", "content"),
    [
        ("latin-1", b"\xe4"),
        ("ISO-8859-1", b"\xe4"),
        ("windows-1252", b"\xe4"),
        ("US-ASCII", b"\xc3\xa4"),
        ("utf-16", b"\xff\xfe\xe4\0"),
    ],
)
@pytest.mark.parametrize("status", [200, 409])
def test_text_is_read_by_its_charset(charset: str, content: bytes, status: int) -> None:
    answer = receive(status, content, "text/plain", charset=charset)
    assert (answer.result if answer.error is None else answer.error["detail"]) == "ä"


def test_json_is_utf_8_unless_only_the_named_charset_fits() -> None:
    for content in ('"ä"'.encode(), '"ä"'.encode("latin-1")):
        assert receive(200, content, charset="iso-8859-1") == Answer(200, "ä")


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "zlib", "x" * 1_000])
@pytest.mark.parametrize("status", [200, 409])
def test_codec_that_is_no_charset_is_not_used(charset: str, status: int) -> None:
    began_at = time.process_time()
    answer = receive(status, b"a" * 200_000 + b"-" + b"a" * 50_000, "text/plain", charset=charset)
    assert time.process_time() - began_at < 1
    assert answer.error is not None
    assert ("is not supported" in answer.error["detail"]) == (status == 200)


def test_encoding_that_is_not_supported_is_named() -> None:
    answer = receive(200, unsupported="the Content-Encoding compress")
    assert answer.error is not None
    assert answer.error["detail"] == (
        "The upstream performed this operation and answered 200 with the Content-Encoding compress, "
        "which is not supported."
    )
    assert receive(404, unsupported="the Content-Encoding compress").status == 404


@pytest.mark.parametrize(
    ("media_type", "content", "charset"),
    [
        (JSON, b'{"not": JSON', "utf-8"),
        (JSON, b"\xff", "utf-8"),
        (JSON, b"{}{}", "utf-8"),
        (JSON, b"1]]],[[[2", "utf-8"),  # whole only among the brackets of a record
        (JSON, b"NaN", "utf-8"),
        (JSON, b"1e400", "utf-8"),
        (JSON, b'{"a": [-1e400]}', "utf-8"),
        (JSON, b'"\\ud800"', "utf-8"),
        (JSON, b"[" * 199 + b"]" * 199, "utf-8"),  # could be read now, but not within a record
        (JSON, b"[" * 100_000, "utf-8"),
        ("image/png", b"\x89PNG", "utf-8"),
        ("text/plain", b"\xff", "utf-8"),
        ("text/plain", b"x", "no-such-charset"),
        ("text/plain", b"x", "zlib"),
        ("text/plain", b"+2AA-", "utf-7"),  # half of a surrogate pair
    ],
)
def test_what_cannot_be_kept_is_a_final_failure_that_says_it_was_performed(
    media_type: str, content: bytes, charset: str
) -> None:
    answer = receive(201, content, media_type, charset=charset)
    assert answer.error is not None
    assert (answer.status, answer.error["title"]) == (502, "Unreadable response")
    assert answer.error["detail"].startswith(
        f"The upstream performed this operation and answered 201 with {media_type}"
    )
    assert not answer.is_passing
    assert not answer.rejected


def test_answer_that_is_too_large_says_how_much_is_kept() -> None:
    answer = receive(200, b"x" * 5_000, is_cut=True)
    assert answer == Answer(
        502,
        error={
            "title": "Response too large",
            "detail": "The upstream performed this operation and answered 200 with a body larger than the limit "
            "of 5,000 bytes.",
        },
    )


# --- What failed


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 418, 422, 451, 499])
def test_other_refusals_are_final(status: int) -> None:
    answer = receive(status, b"{}")
    assert (answer.status, answer.rejected, answer.is_passing) == (status, True, False)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    answer = receive(status, b"{}")
    assert (answer.status, answer.rejected, answer.is_passing, answer.after_seconds) == (status, False, True, None)


def test_conflict_may_be_with_an_earlier_attempt_that_still_runs() -> None:
    assert receive(409, headers={"Retry-After": "5"}, attempt=2).is_passing
    assert receive(409, headers={"Retry-After": "5"}, attempt=2).after_seconds == 5
    assert receive(404, attempt=2).rejected


@pytest.mark.parametrize("status", [300, 304, 305, 399])
def test_other_answer_between_success_and_error_is_called_no_redirect(status: int) -> None:
    answer = receive(status)
    assert answer.error is not None
    assert (answer.status, answer.error["title"], answer.is_passing) == (502, "Unexpected response", False)
    assert answer.error["detail"].startswith(f"The upstream answered {status}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_a_final_failure_that_says_so(status: int) -> None:
    for secret in ("?token=secret", "#token=secret"):
        answer = receive(status, headers={"Location": f"https://evil.example/x{secret}"})
        assert answer == Answer(
            502,
            error={
                "title": "Redirected",
                "detail": f"The upstream answered {status}, a redirect. Penstock does not follow redirects.",
            },
        )
    assert "secret" not in str(receive(status, headers={"Location": "https://u:secret@evil.example"}).error)
    assert "redirect." in str(receive(status).error)


@pytest.mark.parametrize("status", [0, 101, 199, 600, 999])
def test_status_that_is_none_of_an_answer_is_a_final_failure(status: int) -> None:
    answer = receive(status)
    assert (answer.status, answer.is_passing) == (502, False)


@pytest.mark.parametrize(
    ("media_type", "content", "error"),
    [
        (JSON, b"", {"title": "Conflict", "detail": "The upstream answered 409."}),
        (JSON, b"null", {"title": "Conflict", "detail": "The upstream answered 409."}),
        (
            "application/problem+json",
            b'{"type":"urn:x","title":"Taken","status":409,"detail":"By Ann.","instance":"/1","errors":[{"a":1}]}',
            {"type": "urn:x", "title": "Taken", "detail": "By Ann.", "instance": "/1", "errors": [{"a": 1}]},
        ),
        (JSON, b'{"detail":"Taken."}', {"title": "Conflict", "detail": "Taken."}),
        (
            JSON,
            b'{"detail":[{"loc":["body"]}]}',
            {
                "title": "Conflict",
                "detail": "The upstream answered 409.",
                "body": {"detail": [{"loc": ["body"]}]},
            },
        ),
        (JSON, b'{"title":5}', {"title": "Conflict", "detail": "The upstream answered 409.", "body": {"title": 5}}),
        (JSON, b'["a"]', {"title": "Conflict", "detail": "The upstream answered 409.", "body": ["a"]}),
        (
            JSON,
            b'{"error":"taken"}',
            {"title": "Conflict", "detail": "The upstream answered 409.", "body": {"error": "taken"}},
        ),
        (JSON, b"{oops", {"title": "Conflict", "detail": "The upstream answered 409.", "body": "{oops"}),
        ("text/plain", b" Taken. \n", {"title": "Conflict", "detail": "Taken."}),
        ("text/html", b"<p>", {"title": "Conflict", "detail": "The upstream answered 409.", "body": "<p>"}),
        ("text/plain", b"\xff", {"title": "Conflict", "detail": "\ufffd"}),
    ],
)
def test_error_has_the_shape_of_all_and_keeps_what_the_upstream_says(
    media_type: str, content: bytes, error: dict[str, Any]
) -> None:
    assert receive(409, content, media_type).error == error


@pytest.mark.parametrize(("status", "title"), [(404, "Not Found"), (499, "Rejected"), (520, "Failed")])
def test_title_is_that_of_the_status(status: int, title: str) -> None:
    error = receive(status).error
    assert error is not None
    assert error["title"] == title


def test_large_error_is_cut() -> None:
    large = json.dumps({"title": "Taken", "why": "x" * MOST_ERROR_BYTES}).encode()
    error = receive(409, large).error
    assert error is not None
    assert error["title"] == "Conflict"
    assert len(error["body"]) == MOST_ERROR_CHARACTERS


@pytest.mark.parametrize("depth", [100, 190, 195, 196, 197, 198, 199, 200, 201, 5_000])
def test_error_of_any_depth_can_be_recorded(depth: int) -> None:
    for content in (b"[" * depth + b"]" * depth, b'{"title":"x","y":' + b"[" * depth + b"]" * depth + b"}"):
        verdict = receive(409, content).verdict(Operation(0, "a", "GET", "/x"), 1)
        assert isinstance(verdict, Outcome)
        record = ChunkRecord("0", outcomes=(verdict,))
        assert decode_record("0", encode_record(record)) == record


# --- When to try again


@pytest.mark.parametrize("status", [429, 503])
def test_upstream_says_when_it_wants_to_be_asked_again(status: int) -> None:
    assert receive(status, headers={"Retry-After": "7"}).after_seconds == 7


@pytest.mark.parametrize(
    ("status", "attempt", "retry_after", "is_turned_away"),
    [
        (408, 1, None, True),
        (425, 1, None, True),
        (429, 1, None, True),
        (429, 3, "7", True),
        (503, 1, "7", True),
        (503, 1, None, False),
        (503, 1, "soon", False),
        (500, 1, "7", False),
        (504, 1, None, False),
        (409, 2, None, True),
    ],
)
def test_request_that_is_only_turned_away_uses_up_no_attempt(
    status: int, attempt: int, retry_after: str | None, is_turned_away: bool
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    answer = receive(status, headers=headers, attempt=attempt)
    assert (answer.is_passing, answer.is_turned_away) == (True, is_turned_away)
    verdict = answer.verdict(Operation(0, "a", "POST", "/x"), 1)
    assert isinstance(verdict, TryAgain)
    assert verdict.uses_attempt is not is_turned_away


def test_upstream_that_turns_requests_away_is_asked_again_each_hour() -> None:
    assert receive(429, headers={"Retry-After": "86400"}).after_seconds == LONGEST_TURN_SECONDS
    assert receive(500, headers={"Retry-After": "86400"}).after_seconds == 86_400


# --- As a verdict


def test_verdict_is_of_the_operation() -> None:
    operation = Operation(3, "mine", "POST", "/x")
    assert Answer(201, {"id": 1}).verdict(operation, 3) == Outcome(3, "mine", OutcomeState.SUCCEEDED, 201, {"id": 1})
    assert Answer(409, error={"title": "T"}, rejected=True).verdict(operation, 3) == Outcome(
        3, "mine", OutcomeState.FAILED, 409, error={"title": "T"}, rejected=True
    )
    assert Answer(503, error={"title": "T"}, is_passing=True, after_seconds=7).verdict(operation, 4) == TryAgain(
        Outcome(3, "mine", OutcomeState.FAILED, 503, error={"title": "T"}), 4, 7
    )


def test_long_json_is_kept_as_it_was_encoded_for_its_check() -> None:
    """It is not encoded a second time, and superfluous spaces of the upstream take no memory."""
    answer = receive(200, b'{"a": "%b"}' % (b"x" * 1_000))
    outcome = answer.verdict(Operation(0, "id", "POST", "/x", None), max_attempts=1)
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.result, EncodedResult)
    assert outcome.result.content is answer.encoded
    assert outcome.result.content == b'{"a":"%b"}' % (b"x" * 1_000)
