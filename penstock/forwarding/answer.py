"""What the answer of an upstream makes of an operation. Pure.

A 2xx is the operation's result. 429 and 5xx are tried again, not before the upstream wants it; anything else is final.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json

from penstock.chunk import Operation
from penstock.context import LONGEST_WAIT_SECONDS
from penstock.forwarding.upstream import without_secrets
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict
from penstock.record import parse_recordable

MOST_ERROR_BYTES = 8_192  # errors travel with their operations: to the table, and to the dead letter queue
MOST_ERROR_CHARACTERS = 2_000

_QUERY_OR_FRAGMENT = re.compile(r"[?#]")
_NOT_READABLE = "Answer not readable"


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, but for whose it is. `error` is None where the operation succeeded."""

    status: int
    result: Any = None
    error: dict[str, Any] | None = None
    rejected: bool = False  # trying again cannot help
    is_passing: bool = False  # trying again may help
    after_seconds: float | None = None  # when the upstream wants to be asked again

    def verdict(self, operation: Operation, max_attempts: int) -> Verdict:
        state = OutcomeState.SUCCEEDED if self.error is None else OutcomeState.FAILED
        outcome = Outcome(
            operation.index, operation.id, state, self.status, self.result, self.error, rejected=self.rejected
        )
        return TryAgain(outcome, max_attempts, self.after_seconds) if self.is_passing else outcome


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came. `is_cut`: `content` is not all of it, since that is more than is kept."""

    host: str
    status: int
    headers: Mapping[str, str]
    media_type: str
    charset: str
    content: bytes
    is_cut: bool = False

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    @property
    def text(self) -> str:
        """Raises ValueError where it is none."""
        try:
            text = self.content.decode(self.charset)
        except LookupError as error:
            raise ValueError(f"its charset is {self.charset[:40]!a}") from error
        text.encode()  # some charsets bring lone surrogates, which no record can hold
        return text


def conclude(received: Received, now: float) -> Answer:
    status = received.status
    if 200 <= status <= 299:
        return _performed(received)
    if 300 <= status <= 399:
        detail = f"{received.host} answered {status}, a redirect{_where(received)}; redirects are not followed."
        return not_usable("Redirected", detail)
    if status == HTTPStatus.TOO_MANY_REQUESTS or 500 <= status <= 599:
        wait = wait_seconds(received.headers.get("Retry-After"), now)
        return Answer(status, error=_error(received), is_passing=True, after_seconds=wait)
    if 400 <= status <= 499:
        return Answer(status, error=_error(received), rejected=True)
    return not_usable(_NOT_READABLE, f"{received.host} answered {status}, which is no status of an answer.")


def not_usable(title: str, detail: str) -> Answer:
    """An answer that cannot become an outcome, and would be the same another time."""
    return Answer(HTTPStatus.BAD_GATEWAY.value, error={"title": title, "detail": detail})


def not_answered(status: HTTPStatus, title: str, detail: str) -> Answer:
    return Answer(status.value, error={"title": title, "detail": detail}, is_passing=True)


def wait_seconds(retry_after: str | None, now: float) -> float | None:
    """How long the upstream asks to wait, in seconds or until a date; None where it says nothing that can be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:10]), LONGEST_WAIT_SECONDS))
    try:
        date = parsedate_to_datetime(text)
        until = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until - now, 0.0), float(LONGEST_WAIT_SECONDS))


def _performed(received: Received) -> Answer:
    """What cannot be kept is a failure, though the upstream has done it: nobody is told of a result that is not it."""
    did = f"{received.host} performed this operation and answered {received.status}"
    if received.is_cut:
        return not_usable(
            "Answer too large", f"{did} with more than the {len(received.content):,} bytes that are kept."
        )
    if not received.content.strip():
        return Answer(received.status)
    try:
        result = parse_recordable(received.content.removeprefix(BOM_UTF8)) if received.is_json else received.text
    except ValueError as error:
        kind = "JSON" if received.is_json else "JSON or text"
        return not_usable(_NOT_READABLE, f"{did} with {received.media_type} that cannot be read as {kind}: {error}.")
    return Answer(received.status, result)


def _where(received: Received) -> str:
    """Without its query and its fragment, in which there may be tokens, and without a password."""
    location = without_secrets(_QUERY_OR_FRAGMENT.split(received.headers.get("Location", ""))[0])
    return f" to {location[:MOST_ERROR_CHARACTERS]!a}" if location else ""


def _error(received: Received) -> dict[str, Any]:
    """Shaped as all are. What is said in JSON is kept whole: a problem (RFC 9457) as it is, anything else as `body`."""
    error = {"title": _phrase(received.status), "detail": f"{received.host} answered {received.status}."}
    if received.is_json and not received.is_cut and len(received.content) <= MOST_ERROR_BYTES:
        try:
            body = parse_recordable(received.content)
            whole = error | _members(body)
            parse_recordable(to_json(whole))
        except ValueError:
            pass  # then as text
        else:
            return whole
    text = received.content.decode(errors="replace")[:MOST_ERROR_CHARACTERS].strip()
    if not text:
        return error
    return error | ({"detail": text} if received.media_type == "text/plain" else {"body": text})


def _members(body: Any) -> dict[str, Any]:
    said = [body[name] for name in ("title", "detail") if name in body] if isinstance(body, dict) else []
    if said and all(isinstance(words, str) for words in said):
        return {name: value for name, value in body.items() if name != "status"}
    return {} if body is None else {"body": body}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Failed"
