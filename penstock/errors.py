"""All exceptions that Penstock raises on purpose.

PenstockError
├── Misconfigured                 a setting, the application or the access to AWS is invalid
│   └── NoAccess                  AWS rejects the credentials or the permissions; new ones help without a restart
├── RejectedCall                  AWS rejects a call as invalid; repeating it cannot help
│   └── TooLargeForAws
├── Refused                       a request is rejected; none of its operations runs
│   ├── MalformedRequest
│   ├── NotAuthenticated
│   ├── MissingScope
│   ├── UnknownApiKey
│   ├── UnknownQueue
│   ├── UnknownEndpoint
│   ├── UnknownDelivery
│   ├── WebhookConflict
│   ├── NotConfigured
│   ├── KeyEnded
│   ├── KeyReplaced
│   ├── TooSlow
│   ├── Misdirected
│   ├── FromWebPage
│   ├── UnsupportedContent
│   ├── NotAcceptable
│   ├── LimitPassed
│   ├── InvalidRequest
│   ├── UnknownBatch
│   ├── UnknownUpload
│   ├── UnknownExport
│   ├── UploadReplaced
│   ├── NoSuchVersion
│   ├── NotPossibleNow
│   ├── QuotaExceeded
│   ├── Overloaded
│   ├── KeyInUse
│   ├── RunsNoMore
│   └── KeyReused
├── UnreadableMessage             a message is not a chunk that this program can read
├── NewerVersion                  the table has a value that only a newer version of Penstock knows
├── AcceptanceLost                the batch was abandoned before it could be accepted
├── AcceptanceUnknown             AWS did not answer the call that accepts the batch
├── LifespanFailed                the lifespan of the application did not start or did not end cleanly
├── HandlersStuck                 handlers past their timeout occupy every slot or thread
└── Unavailable                   AWS does not answer or asks to slow down; the same call may work later

The exceptions that an application raises (`Reject`, `Retry`, `Throttled`) are in `context.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

E = TypeVar("E", bound=StrEnum)


class PenstockError(Exception):
    """The base class of all these exceptions. It is never raised itself."""


class Misconfigured(PenstockError):
    """A setting, the application or the access to AWS is invalid. The message says what is wrong and what to do."""


class NoAccess(Misconfigured):
    """AWS rejects the credentials of this program, or its permissions do not suffice.

    An operator can change both while the program runs, so the call is repeated.
    """


class RejectedCall(PenstockError, ValueError):
    """AWS rejects a call as invalid, so a repetition cannot help. It is a bug in Penstock, or a limit of AWS."""


class TooLargeForAws(RejectedCall):
    """A call, an item or a message is larger than AWS accepts."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One error in a request: `pointer` says where (a JSON pointer, RFC 6901), `detail` says what is wrong.

    For an NDJSON stream `line` is the number of the line, from 1.
    """

    pointer: str
    detail: str
    line: int | None = None


class Refused(PenstockError):
    """The request is rejected. None of its operations runs, and nothing is stored."""


class MalformedRequest(Refused):
    """The body is not JSON."""


class NotAuthenticated(Refused):
    """The request has no API key, or one that is not valid. `has_key` says which."""

    def __init__(self, detail: str, *, has_key: bool) -> None:
        super().__init__(detail)
        self.has_key = has_key


class MissingScope(Refused):
    """The caller is known, but is not allowed to do this. `scope` is what the key would need."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs a key with the scope {scope}. Ask the operators of this service for one.")
        self.scope = scope


class UnknownQueue(Refused):
    """There is no queue of this priority."""


class UnknownApiKey(Refused):
    """There is no API key with this id."""

    def __init__(self) -> None:
        super().__init__("There is no key with this id. It may have ended more than 30 days ago.")


class UnknownEndpoint(Refused):
    """The tenant has no webhook endpoint with this id."""

    def __init__(self) -> None:
        super().__init__("There is no webhook endpoint with this id.")


class UnknownDelivery(Refused):
    """The tenant has no delivery of an event with this id."""

    def __init__(self) -> None:
        super().__init__("There is no delivery with this id. It may have been deleted after its retention time.")


class WebhookConflict(Refused):
    """The present state of the webhook endpoints, or of a delivery, does not allow this request."""


class NotConfigured(Refused):
    """The request needs a setting that is not set. The message names it."""


class KeyEnded(Refused):
    """The API key has expired or was revoked, so this is not possible any more."""


class KeyReplaced(Refused):
    """The API key was replaced by a new one already."""

    def __init__(self, key_id: str, new_id: str) -> None:
        super().__init__(
            f"The key {key_id} was replaced by the key {new_id}. Replace the new one, or make a key with POST /keys."
        )


class TooSlow(Refused):
    """The body of the request was not received completely in time."""


class Misdirected(Refused):
    """The Host header names another server, as if a web page had let its name point to this program."""


class FromWebPage(Refused):
    """A web page sent the request, and this listener is for operators and their tools only."""


class UnsupportedContent(Refused):
    """The media type or the encoding of the body is not supported. `patch_type` is the usual one for a PATCH."""

    def __init__(self, detail: str, *, patch_type: str | None = None) -> None:
        super().__init__(detail)
        self.patch_type = patch_type


class NotAcceptable(Refused):
    """The client accepts none of the media types that the response is available in."""


class LimitPassed(Refused):
    """The request exceeds a limit. `limit` becomes an extra member of the problem document: its name and value."""

    def __init__(
        self, detail: str, *, limit: dict[str, int], flaws: Sequence[Flaw] = (), count: int | None = None
    ) -> None:
        super().__init__(detail)
        self.limit = limit
        self.flaws = tuple(flaws)
        self.count = len(flaws) if count is None else count


class InvalidRequest(Refused):
    """The request is readable but invalid. `flaws` lists its errors, `count` is their number.

    `flaws` may be cut to the first ones; `count` includes all that were found. If not `is_complete`, there may be more,
    because the validation stopped early.
    """

    def __init__(self, flaws: Sequence[Flaw], count: int | None = None, *, is_complete: bool = True) -> None:
        self.flaws = tuple(flaws)
        self.count = len(flaws) if count is None else count
        errors = "error" if self.count == 1 else "errors"
        at_least = "" if is_complete else "at least "
        super().__init__(f"The request has {at_least}{self.count} {errors}; nothing was run.")


class LostItem(LookupError):
    """The table has lost an item that must exist. Usually its retention is over, and DynamoDB has deleted it."""


class UnknownBatch(Refused):
    """There is no batch with this id, or it belongs to another tenant."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"There is no batch {batch_id!r}. It may have been deleted after its retention time.")


class UnknownUpload(Refused):
    """There is no upload with this id, it belongs to another tenant, or nothing was uploaded yet."""

    def __init__(self) -> None:
        super().__init__(
            "There is no such upload. Send the file to the url of POST /uploads first. It is deleted after its "
            "retention time."
        )


class UnknownExport(Refused):
    """The batch has no export with this id."""

    def __init__(self) -> None:
        super().__init__("The batch has no such export. POST /batch/{id}/export makes one.")


class UploadReplaced(Refused):
    """A file was replaced or deleted after it was read for the first time."""

    def __init__(self) -> None:
        super().__init__("The uploaded file was replaced or deleted while it was read. Upload it again.")


class NoSuchVersion(Refused):
    """The request has an `If-Match` with entity tags, and the resource has none (RFC 9110, section 13.1.1)."""

    def __init__(self) -> None:
        super().__init__("Nothing here has entity tags, so none of those in If-Match matches. Leave the header out.")


class NotPossibleNow(Refused):
    """The present state of the batch does not allow this request."""


class QuotaExceeded(Refused):
    """The caller has used up its quota of operations, or the batch has more than what is left of it.

    `policy` is the name of the quota. `retry_after_seconds` is how long it takes until the request is allowed, if the
    caller sends nothing else until then.
    """

    def __init__(self, detail: str, policy: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.policy = policy
        self.retry_after_seconds = retry_after_seconds


class Overloaded(Refused):
    """The requests in progress use all memory that this process may use for requests."""


class KeyInUse(Refused):
    """The first request with this Idempotency-Key is still being processed."""


class RunsNoMore(Refused):
    """The front ends that ran the atomic batch of this Idempotency-Key died, so it does not run again."""


class KeyReused(Refused):
    """This Idempotency-Key was already used for a different request."""


class UnreadableMessage(PenstockError):
    """The message is not a chunk, is damaged, or has a newer format version."""


class NewerVersion(PenstockError):
    """The table has a value that this version of Penstock does not know, such as a new state of a batch."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__(
            f"The {name} {value!r} in the table was written by a newer version of Penstock. Update this program."
        )


def known_member(kind: type[E], name: str, value: str) -> E:
    """Return the member of an enumeration that has this value in the table. Raise NewerVersion if there is none."""
    try:
        return kind(value)
    except ValueError as error:
        raise NewerVersion(name, value) from error


class AcceptanceLost(PenstockError):
    """The batch was not accepted within its acceptance lease. None of its operations will ever run."""


class AcceptanceUnknown(PenstockError):
    """AWS did not answer the call that accepts the batch.

    Either all of its operations run or none does. The status of the batch shows which.
    """

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"AWS did not answer while batch {batch_id} was being accepted. Either all of its operations run or none; "
            "read its status to find out."
        )
        self.batch_id = batch_id


class LifespanFailed(PenstockError):
    """The lifespan of the application did not start, or did not end cleanly."""


class HandlerFailed(Exception):
    """`call_next` raises this in a middleware if a handler with `cpu_bound=True` did not succeed.

    The exception of the handler stays in its process. `answer` is what became of it there.
    """

    def __init__(self, detail: str, answer: Any) -> None:
        super().__init__(detail)
        self.answer = answer


class HandlersStuck(PenstockError):
    """Handlers that do not return occupy all threads or slots. Only a restart of the process frees them.

    `kind` is "def" for threads, and "async def" for tasks on the event loop.
    """

    def __init__(self, kind: str, count: int) -> None:
        handlers = "handler has" if count == 1 else "handlers have"
        super().__init__(f"{count} `{kind}` {handlers} not returned long after timeout_seconds, and {_REASONS[kind]}")


_REASONS = {
    "def": "a thread cannot be stopped. Restart this process. Set timeouts on the calls that these handlers make.",
    "async def": "ignored the cancellation. Restart this process. Let asyncio.CancelledError pass in these handlers: "
    "replace a bare `except:` by `except Exception:`.",
}


class Unavailable(PenstockError):
    """AWS does not answer, fails or asks to slow down. The call may have taken effect, and it is safe to repeat."""
