"""Turn an upstream's response into the outcome of an operation. Pure.

A 2xx response is the operation's result. A 5xx is tried again, after the delay in `Retry-After` if there is one. A
response that only turns the request away uses up no attempt: 408, 425, 429, a 503 with `Retry-After`, and a 409 to any
attempt but the first. The request is repeated until the batch ends. Any other response is final.

Clients read the errors, so they do not name the upstream's host: it may be internal. The log does.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from penstock.charsets import find_codec
from penstock.chunk import Operation
from penstock.forwarding.rate_limits import read_retry_after, turned_away_seconds
from penstock.forwarding.upstream import without_secrets
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict, compact
from penstock.record import parse_recordable

MOST_ERROR_BYTES = 8_192  # errors are stored with their operations in the table and in the dead letter queue
MOST_ERROR_CHARACTERS = 2_000

_QUERY_OR_FRAGMENT = re.compile(r"[?#]")
_NOT_READABLE = "Unreadable response"

_TURNED_AWAY = frozenset({408, 425, 429})  # the upstream did not perform the request, and says that it may be repeated
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict of a forwarded request, still without its operation. `error` is None if the request succeeded."""

    status: int
    result: Any = None
    error: dict[str, Any] | None = None
    rejected: bool = False  # another attempt cannot help
    is_passing: bool = False  # another attempt may help
    is_turned_away: bool = False  # the upstream did not perform the request, so it uses up no attempt
    after_seconds: float | None = None  # the delay that the upstream asks for
    encoded: bytes | None = field(default=None, compare=False, repr=False)  # the result as JSON, if it is known
    is_noteworthy: bool = field(default=False, compare=False)  # not an answer of the upstream's API, but about it

    def verdict(self, operation: Operation, max_attempts: int) -> Verdict:
        """Return the verdict for this operation."""
        state = OutcomeState.SUCCEEDED if self.error is None else OutcomeState.FAILED
        result = compact(self.result, to_json(self.result) if self.encoded is None else self.encoded)
        outcome = Outcome(operation.index, operation.id, state, self.status, result, self.error, rejected=self.rejected)
        if not self.is_passing:
            return outcome
        return TryAgain(outcome, max_attempts, self.after_seconds, uses_attempt=not self.is_turned_away)


@dataclass(frozen=True, slots=True)
class Received:
    """A response as it was received, decompressed.

    If `is_cut`, it was too large, and `content` is only the beginning of its body. `unsupported` says why the body
    could not be decompressed; then `content` is empty.
    """

    status: int
    headers: Mapping[str, str]
    media_type: str
    charset: str
    content: bytes
    is_cut: bool = False
    unsupported: str = ""

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    @property
    def text(self) -> str:
        """Decode the body as text. Raises ValueError if it is not valid text."""
        codec = find_codec(self.charset)
        if codec is None:
            raise ValueError(f"its charset {self.charset[:40]!a} is not supported")
        return self.content.decode(codec)

    @property
    def readable_text(self) -> str:
        """Decode as much of the body as is valid text."""
        return self.content.decode(find_codec(self.charset) or "utf-8", errors="replace")

    def parse_json(self) -> tuple[Any, bytes]:
        """Parse the body as JSON, and return the value and its JSON. Raises ValueError.

        JSON is UTF-8, but some servers use the charset that they name.
        """
        content = self.content.removeprefix(BOM_UTF8)
        try:
            content.decode()
        except UnicodeDecodeError:
            content = self.text.encode()
        return parse_recordable(content)


def conclude(received: Received, now: float, attempt: int = 1) -> Answer:
    """Return the verdict that follows from a response. `now` is seconds since the epoch, to read dates."""
    status = received.status
    if 200 <= status <= 299:
        return _performed(received)
    if status in _REDIRECTS:
        detail = f"The upstream answered {status}, a redirect. Penstock does not follow redirects."
        return not_usable("Redirected", detail)
    if 300 <= status <= 399:
        detail = f"The upstream answered {status} {_phrase(status)}, which is neither a result nor an error."
        return not_usable("Unexpected response", detail)
    if _may_pass(status, attempt):
        return _to_be_repeated(received, now)
    if 400 <= status <= 499:
        return Answer(status, error=_error(received), rejected=True)
    return not_usable(_NOT_READABLE, f"The upstream answered {status}, which is not a valid status of a response.")


def _to_be_repeated(received: Received, now: float) -> Answer:
    asked = read_retry_after(received.headers.get("Retry-After"), now)
    answer = Answer(received.status, error=_error(received), is_passing=True, after_seconds=asked)
    is_busy = received.status == HTTPStatus.SERVICE_UNAVAILABLE and asked is not None
    if received.status < HTTPStatus.INTERNAL_SERVER_ERROR or is_busy:
        return replace(answer, is_turned_away=True, after_seconds=turned_away_seconds(received.headers, now))
    return answer


def _may_pass(status: int, attempt: int) -> bool:
    """Return True if another attempt may help.

    An upstream answers 409 while an earlier request with the same Idempotency-Key is still running. That can be the
    request of an earlier attempt that timed out here.
    """
    if status == HTTPStatus.CONFLICT:
        return attempt > 1
    return status in _TURNED_AWAY or 500 <= status <= 599


def not_usable(title: str, detail: str) -> Answer:
    """Return the verdict for a response that cannot become a result and would be the same the next time."""
    return Answer(HTTPStatus.BAD_GATEWAY.value, error={"title": title, "detail": detail}, is_noteworthy=True)


def not_answered(status: HTTPStatus, title: str, detail: str) -> Answer:
    """Return the verdict for a request without a response. It is tried again."""
    return Answer(status.value, error={"title": title, "detail": detail}, is_passing=True, is_noteworthy=True)


def _performed(received: Received) -> Answer:
    """Return the verdict for a 2xx response.

    If its body cannot be stored, the operation fails although the upstream performed it: a client must never get a
    result that differs from the upstream's.
    """
    performed = f"The upstream performed this operation and answered {received.status}"
    if received.unsupported:
        return not_usable(_NOT_READABLE, f"{performed} with {received.unsupported}, which is not supported.")
    if received.is_cut:
        limit = len(received.content)
        return not_usable("Response too large", f"{performed} with a body larger than the limit of {limit:,} bytes.")
    if not received.content.strip():
        return Answer(received.status)
    try:
        result, encoded = received.parse_json() if received.is_json else (received.text, None)
    except ValueError as error:
        kind = "JSON" if received.is_json else "JSON or text"
        detail = f"{performed} with {received.media_type} that cannot be read as {kind}: {error}."
        return not_usable(_NOT_READABLE, detail)
    return Answer(received.status, result, encoded=encoded)


def read_location(received: Received) -> str | None:
    """Return the target of a redirect without its query, its fragment and its password: they may be secret."""
    location = without_secrets(_QUERY_OR_FRAGMENT.split(received.headers.get("Location", ""))[0])
    return location[:MOST_ERROR_CHARACTERS] or None


def _error(received: Received) -> dict[str, Any]:
    """Return the error of a response, with `title` and `detail` as in all errors.

    A JSON problem (RFC 9457) is kept completely; other JSON becomes the member `body`.
    """
    error = {"title": _phrase(received.status), "detail": f"The upstream answered {received.status}."}
    if received.is_json and not received.is_cut and len(received.content) <= MOST_ERROR_BYTES:
        try:
            body, _ = received.parse_json()
            whole = error | _members(body)
            parse_recordable(to_json(whole))
        except ValueError:
            pass  # it is not valid JSON: the text below is used
        else:
            return whole
    text = received.readable_text[:MOST_ERROR_CHARACTERS].strip()
    if not text:
        return error
    return error | ({"detail": text} if received.media_type == "text/plain" else {"body": text})


def _members(body: Any) -> dict[str, Any]:
    texts = [body[name] for name in ("title", "detail") if name in body] if isinstance(body, dict) else []
    if texts and all(isinstance(text, str) for text in texts):
        return {name: value for name, value in body.items() if name != "status"}
    return {} if body is None else {"body": body}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Rejected" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Failed"
