"""All exceptions that the client raises on purpose. The message of each says what happened and what to do.

ClientError
├── InvalidFile           a file or an iterable cannot be read as operations; nothing was sent
├── InvalidWebhook        an event is not signed with the secret, or it is too old
├── ServerUnreachable     no connection could be opened; nothing was sent
├── AnswerLost            the request was sent, and no answer arrived
├── NotPenstock           something else than Penstock has answered
├── TimedOut              the batch was not final in time
└── Problem               the server has answered with an error
    ├── InvalidBatch      422 or 400: the request is invalid; `errors` lists why
    ├── NotAuthenticated  401
    ├── NotAllowed        403
    ├── NotFound          404
    ├── Conflict          409
    ├── TooLarge          413; `max_operations` says how many operations a batch may have
    ├── RateLimited       429; `retry_after` says in how many seconds to try again
    └── Unavailable       503 and other errors of the server
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from penstock.errors import PenstockError

PROBLEM_TYPE = "application/problem+json"
_SHOWN_ERRORS = 3
NO_TYPE = "about:blank"  # of a problem that is no more than its status


class ClientError(PenstockError):
    """The base class of all exceptions of the client. It is never raised itself."""


class InvalidFile(ClientError):
    """A file or an iterable cannot be read as operations. The message names the place and what is expected there."""


class InvalidWebhook(ClientError):
    """A request is no event that was signed with the secret in the last five minutes. Answer it with 401."""


class ServerUnreachable(ClientError):
    """No connection to the server could be opened, so nothing was sent. `reason` is empty if nothing listens there."""

    def __init__(self, url: str, reason: str = "") -> None:
        super().__init__(f"Nothing answers at {url}{f' ({reason})' if reason else ''}.")
        self.reason = reason


class AnswerLost(ClientError):
    """A request was sent, but no answer arrived. It is not known whether the server has acted on it."""


class NotPenstock(ClientError):
    """What has answered is not Penstock, or something between it and the client has changed the answer."""


class TimedOut(ClientError, TimeoutError):
    """The batch was not final in the time given. It still runs."""


@dataclass(frozen=True, slots=True)
class BatchError:
    """One error in a batch. `pointer` says where in the request, as a JSON pointer; `line` is the line of a stream."""

    pointer: str
    detail: str
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line:,}"
        place = ", ".join(filter(None, (line, self.pointer)))
        return f"{place}: {self.detail}" if place else self.detail


class Problem(ClientError):
    """The server has answered a request with an error, usually as a problem document (RFC 9457).

    `document` is the whole problem document. `retry_after` is in seconds, or None if the server names no time.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.document = document
        self.retry_after = retry_after
        self.type = str(document.get("type") or NO_TYPE)
        self.title = str(document.get("title") or "")
        self.detail = str(document.get("detail") or "")
        super().__init__(f"The server answered {status}: {self.sentence}.")

    @property
    def sentence(self) -> str:
        """Return title and detail without a full stop at the end, for use inside a sentence."""
        return f"{self.title}: {self.detail.rstrip('.')}" if self.detail else self.title.rstrip(".")


class InvalidBatch(Problem):
    """The request is invalid, so nothing of it runs. `errors` lists the first errors; `error_count` counts all."""

    @property
    def errors(self) -> list[BatchError]:
        return errors_of(self.document)

    @property
    def error_count(self) -> int:
        return max(len(self.errors), int(self.document.get("errorCount") or 0))

    def __str__(self) -> str:
        """Return what the server has answered, and the first errors, because a traceback shows nothing else."""
        shown = [str(error) for error in self.errors[:_SHOWN_ERRORS]]
        more = [f"and {self.error_count - len(shown):,} more"] if self.error_count > len(shown) > 0 else []
        return "\n  ".join([super().__str__(), *shown, *more])


class NotAuthenticated(Problem):
    """The request has no key, or the key is unknown, expired or revoked."""


class NotAllowed(Problem):
    """The key lacks a scope. `scope` names it."""

    @property
    def scope(self) -> str | None:
        return self.document.get("scope")


class NotFound(Problem):
    """There is no such batch, it belongs to another tenant, or it is past its retention."""


class Conflict(Problem):
    """The state of the batch does not allow this, or the first request with the same key is still in progress."""

    @property
    def is_in_progress(self) -> bool:
        """Return True if the same request will get another answer later."""
        return self.retry_after is not None


class TooLarge(Problem):
    """The batch exceeds a limit. Its operations may fit into smaller batches."""

    @property
    def max_operations(self) -> int | None:
        """Return how many operations a batch may have, or None if that is not the limit."""
        most = self.document.get("maxOperations")
        return most if isinstance(most, int) else None

    @property
    def errors(self) -> list[BatchError]:
        """Return the single operations that are too large."""
        return errors_of(self.document)


class RateLimited(Problem):
    """A quota or a limit does not allow the request now. `retry_after` says in how many seconds to try again."""


class Unavailable(Problem):
    """The server cannot answer at the moment."""


_BY_STATUS: Mapping[int, type[Problem]] = {
    400: InvalidBatch,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidBatch,
    429: RateLimited,
}


def problem_of(status: int, headers: Mapping[str, str], content: bytes) -> Problem:
    """Return the exception for an error response."""
    kind = _BY_STATUS.get(status, Unavailable if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Problem)
    return kind(status, _document(status, headers, content), seconds_to_wait(headers.get("Retry-After", "")))


def _document(status: int, headers: Mapping[str, str], content: bytes) -> Mapping[str, Any]:
    """Return the problem document, or what is known of an error in another format."""
    if headers.get("Content-Type", "").partition(";")[0].strip() == PROBLEM_TYPE:
        with suppress(ValueError):
            document = json.loads(content)
            if isinstance(document, dict):
                return document
    location = headers.get("Location", "")
    title = next((one.phrase for one in HTTPStatus if one == status), "Error")
    return {"title": title, "detail": location and f"it redirects to {location}"}


def seconds_to_wait(retry_after: str) -> float | None:
    """Return the value of a header `Retry-After` in seconds. It is a number of seconds or a date."""
    with suppress(ValueError):
        if retry_after.isdecimal():
            return float(retry_after)
        at = parsedate_to_datetime(retry_after)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None


def errors_of(document: Mapping[str, Any]) -> list[BatchError]:
    """Return the errors that a problem lists, or the status of a batch whose file was invalid."""
    listed = document.get("errors")
    errors = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [BatchError(str(one.get("pointer", "")), str(one.get("detail", "")), one.get("line")) for one in errors]
