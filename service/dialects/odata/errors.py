"""Writes errors as section 21 of the OData JSON format has them. Pure."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from penstock.service.dialects.dialect import Problem

_OPERATION = re.compile(r"/?operations/([0-9]+)/?")
_NAMES = {"path": "url", "group": "atomicityGroup", "key": "headers/idempotency-key"}  # of an operation, and of OData
_TOLD = frozenset({"type", "title", "status", "detail", "errors", "errorCount"})
_WORD = re.compile(r"[A-Za-z0-9]+")
_RETRIED = {HTTPStatus.GATEWAY_TIMEOUT.value: 500}  # Microsoft's clients repeat a request after a 504. It may have run
_BAD_REQUEST = {HTTPStatus.UNPROCESSABLE_ENTITY.value: 400}


def status_of(problem: Problem) -> int:
    """Return the status for a problem with the whole batch."""
    return {**_RETRIED, **(_BAD_REQUEST if problem.type == "invalid-request" else {})}.get(
        problem.status, problem.status
    )


def error_of_batch(problem: Problem) -> dict[str, Any]:
    """Return the error of a request for `$batch`, or for a monitor."""
    body = problem.body
    name = problem.type if problem.type != "about:blank" else str(body["title"])
    code = code_of(name)
    details = [_detail(code, error) for error in body.get("errors", ())]
    error = {"code": code, "message": _message(problem.detail, details)}
    if len(details) == 1:
        error["target"] = details[0]["target"]
    return {"error": {**error, **_more(details, body)}}


def error_of_request(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a response to an individual request that failed. An OData error of an upstream stays whole."""
    upstream = error.get("body")
    if isinstance(upstream, dict) and _is_error(upstream.get("error")):
        return {"error": upstream["error"]}
    written = {"code": code_of(str(error["title"])), "message": str(error.get("detail") or error["title"])}
    return {"error": {**written, **_more([], error)}}


def code_of(name: str) -> str:
    """Return the code of an error in one word: invalidRequest for `invalid-request`, notFound for `Not Found`."""
    words: list[str] = _WORD.findall(name) or ["error"]
    first, *others = words
    return first.lower() + "".join(word.capitalize() for word in others)


def _message(detail: str, details: list[dict[str, str]]) -> str:
    if not details:
        return detail
    first = f"{details[0]['target']}: {details[0]['message']}" if details[0]["target"] else details[0]["message"]
    return first if len(details) == 1 else f"{detail} The first one is in {first}"


def _detail(code: str, error: Mapping[str, Any]) -> dict[str, str]:
    return {"code": code, "target": _target(str(error["pointer"])), "message": str(error["detail"])}


def _target(pointer: str) -> str:
    """Return the place of an error in the words of OData: requests/3/url for /operations/3/path."""
    match = _OPERATION.match(pointer)
    if match is None:
        return pointer.removeprefix("/")
    member, slash, rest = pointer[match.end() :].partition("/")
    return f"requests/{match[1]}" + (f"/{_NAMES.get(member, member)}{slash}{rest}" if member else "")


def _more(details: list[dict[str, str]], problem: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in problem.items() if name not in _TOLD}
    if isinstance(count := problem.get("errorCount"), int) and count > len(details):
        others["errorCount"] = count
    return {**({"details": details} if details else {}), **({"innererror": others} if others else {})}


def _is_error(error: Any) -> bool:
    return isinstance(error, dict) and all(isinstance(error.get(name), str) for name in ("code", "message"))
