"""Lines of input files, as operations."""

from typing import Any

import pytest

from penstock.errors import Flaw
from penstock.service.dialects.openai.lines import (
    DUPLICATE,
    INVALID,
    INVALID_JSON,
    LONGEST_MESSAGE,
    MISSING,
    LineError,
    error_of_flaw,
    invalid_line,
    operation_of,
)
from tests.unit.service.dialects.openai.conftest import line


def test_line_becomes_an_operation() -> None:
    assert operation_of(line("a", "text", extra=1), 7) == {
        "id": "a",
        "method": "POST",
        "path": "/v1/embeddings",
        "body": {"model": "m", "input": "text"},
    }


def test_line_without_a_body_becomes_an_operation_without_one() -> None:
    assert operation_of(line(method="GET", body=None), 7) == {"id": "a", "method": "GET", "path": "/v1/embeddings"}


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ([], INVALID_JSON, None),
        ("text", INVALID_JSON, None),
        (None, INVALID_JSON, None),
        ({}, MISSING, "custom_id"),
        (line(custom_id=""), INVALID, "custom_id"),
        (line(custom_id=7), INVALID, "custom_id"),  # type: ignore[arg-type]
        (line(custom_id="a" * 129), INVALID, "custom_id"),
        (line(method=None), MISSING, "method"),
        (line(method="post"), INVALID, "method"),
        (line(method=["POST"]), INVALID, "method"),
        (line(url=None), MISSING, "url"),
        (line(url="https://api.openai.com/v1/embeddings"), INVALID, "url"),
        (line(url="/" + "a" * 2_048), INVALID, "url"),
        (line(body=None), MISSING, "body"),
    ],
)
def test_wrong_line_has_an_error_that_names_the_member(value: Any, code: str, param: str | None) -> None:
    error = operation_of(value, 7)
    assert isinstance(error, LineError)
    assert (error.code, error.line, error.param) == (code, 7, param)


@pytest.mark.parametrize(
    ("pointer", "param"),
    [
        ("", None),
        ("/path", "url"),
        ("/id", "custom_id"),
        ("/body/messages/0/role", "body.messages.0.role"),
    ],
)
def test_error_of_the_engine_names_the_member_as_openai_does(pointer: str, param: str | None) -> None:
    assert error_of_flaw(Flaw(pointer, "Wrong."), 3) == LineError(INVALID, "Wrong.", 3, param)


def test_long_message_is_cut() -> None:
    assert len(invalid_line(DUPLICATE, "x" * 10_000).message) == LONGEST_MESSAGE


def test_error_is_written_as_openai_does() -> None:
    error = LineError(DUPLICATE, "Twice.", 2, "custom_id")
    assert error.encode() == {"code": "duplicate_custom_id", "message": "Twice.", "line": 2, "param": "custom_id"}
    assert LineError.decode(error.encode()) == error
