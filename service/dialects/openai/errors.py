"""Errors as OpenAI writes them, with what its client libraries need to know: whether to send the request again."""

from collections.abc import Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

from aiohttp import web

from penstock.service.dialects.dialect import Problem
from penstock.service.json_answer import json_answer
from penstock.service.problems import Endpoint

SHOULD_RETRY = "x-should-retry"

_INVALID = "invalid_request_error"
_SERVER = "server_error"
_TYPES = {
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
# OpenAI's own words, where it has them. Every other problem keeps its own name.
_CODES = {
    "not-authenticated": "invalid_api_key",
    "quota-exceeded": "rate_limit_exceeded",
    "limit-passed": "request_too_large",
    "about:blank": None,
}
# The libraries repeat 408, 409, 429 and 5xx. These are the problems of such a status that may pass.
_PASSING = frozenset(
    {
        *("too-slow", "key-in-use", "quota-exceeded", "overloaded", "not-accepted", "acceptance-unknown"),
        *("unavailable", "newer-version"),
    }
)
_OFFERED = (
    "Only files and batches are offered here: /v1/files and /v1/batches. To call a model, send requests to it in a "
    "batch, or directly."
)


class OpenAIError(Exception):
    """A request that OpenAI's API would reject. `param` is what is wrong in it, and `code` a word for programs.

    With `is_passing`, a library sends the request again.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = HTTPStatus.BAD_REQUEST,
        is_passing: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.is_passing = is_passing


def unknown_file(file_id: str) -> OpenAIError:
    message = f"No such File object: {file_id}. It may have expired, or it was deleted."
    return OpenAIError(message, param="id", status=HTTPStatus.NOT_FOUND)


def unknown_batch(batch_id: str) -> OpenAIError:
    message = f"No batch found with id '{batch_id}'. Batches are kept for a limited time after they have ended."
    return OpenAIError(message, param="batch_id", status=HTTPStatus.NOT_FOUND)


def answering(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers what it refuses as OpenAI does."""

    @wraps(endpoint)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await endpoint(request)
        except OpenAIError as refused:
            body = error_body(refused.message, _INVALID, refused.param, refused.code)
            headers = {SHOULD_RETRY: "true" if refused.is_passing else "false"}
            return json_answer(body, status=refused.status, headers=headers)

    return answer


def write_problem(_request: web.Request, problem: Problem) -> web.Response:
    """Return a problem as OpenAI writes errors."""
    slug = problem.type.rpartition("#")[2]
    headers = {SHOULD_RETRY: "true" if slug in _PASSING else "false"}
    body = error_body(_message(problem), _type_of(problem.status), None, _CODES.get(slug, slug.replace("-", "_")))
    return json_answer(body, status=problem.status, headers=headers)


def error_body(message: str, kind: str, param: str | None, code: str | None) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _type_of(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _SERVER
    return _TYPES.get(HTTPStatus(status), _INVALID)


def _message(problem: Problem) -> str:
    """Return the detail of a problem, with its first errors, or with a hint at the paths that exist."""
    if problem.status == HTTPStatus.NOT_FOUND and problem.type == "about:blank":
        return f"{problem.detail.partition(' Send batches')[0]} {_OFFERED}"
    errors = problem.body.get("errors", ())
    return " ".join([problem.detail, *(f"{one['pointer']}: {one['detail']}" for one in errors[:3])])
