"""The lines of the files with the outputs and the errors of a batch. Pure.

They are made of the lines of the engine, whose results are not parsed:

    {"id": "a", "status": 200, "result": {...}}
    {"id": ..., "custom_id": "a", "response": {"status_code": 200, "request_id": ..., "body": {...}}, "error": null}
"""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from msgspec import Raw, Struct, field
from msgspec.json import Decoder
from pydantic_core import from_json, to_json

from penstock.outcome import OutcomeState

_NULL = Raw(b"null")

_EXPIRED = to_json(
    {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}
)
_CANCELLED = to_json(
    {"code": "batch_cancelled", "message": "This request was not executed, because the batch was cancelled."}
)


class _Line(Struct):
    """An outcome as the engine writes it."""

    id: Raw
    status: int
    result: Raw = _NULL
    error: Raw = _NULL
    result_missing: str | None = field(default=None, name="resultMissing")  # why the bucket has it no more


_decoder = Decoder(_Line)


def lines_of(state: OutcomeState, name: str, indexes: Iterable[int], lines: Iterable[bytes]) -> list[bytes]:
    """Return the lines for outcomes of one state. `name` is the part of their ids that is the same for a batch."""
    write = _WRITERS[state]
    names = (b"%b_%d" % (name.encode(), index) for index in indexes)
    return [write(one, _decoder.decode(line)) for one, line in zip(names, lines, strict=True)]


def _succeeded(name: bytes, line: _Line) -> bytes:
    missing = line.result_missing
    error = b"null" if missing is None else to_json({"code": "output_missing", "message": missing})
    return _joined(name, line.id, _response(name, line.status, bytes(line.result)), error)


def _failed(name: bytes, line: _Line) -> bytes:
    body = to_json(_body_of_error(from_json(bytes(line.error)), line.status))
    return _joined(name, line.id, _response(name, line.status, body), b"null")


def _expired(name: bytes, line: _Line) -> bytes:
    return _joined(name, line.id, b"null", _EXPIRED)


def _cancelled(name: bytes, line: _Line) -> bytes:
    return _joined(name, line.id, b"null", _CANCELLED)


_WRITERS: Mapping[OutcomeState, Callable[[bytes, _Line], bytes]] = {
    OutcomeState.SUCCEEDED: _succeeded,
    OutcomeState.FAILED: _failed,
    OutcomeState.EXPIRED: _expired,
    OutcomeState.CANCELLED: _cancelled,
}


def _response(name: bytes, status: int, body: bytes) -> bytes:
    return b'{"status_code":%d,"request_id":"req_%b","body":%b}' % (status, name, body)


def _joined(name: bytes, custom_id: Raw, response: bytes, error: bytes) -> bytes:
    return b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        name,
        bytes(custom_id),
        response,
        error,
    )


def _body_of_error(error: Any, status: int) -> Any:
    """Return the body of a response that failed: the one of the upstream if it is known, or else an error of OpenAI."""
    error = error if isinstance(error, dict) else {}
    if isinstance(error.get("body"), dict):
        return error["body"]
    if isinstance(error.get("error"), dict):
        return {"error": error["error"]}
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    message = error.get("detail") or error.get("title") or "The request failed."
    return {"error": {"message": message, "type": kind, "param": None, "code": _code_of(status)}}


def _code_of(status: int) -> str:
    """Return a word for programs, such as `bad_request`: OpenAI's own one of a rate limit, or that of HTTP."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_exceeded"
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return "failed"
