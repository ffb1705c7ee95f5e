"""Turns what a handler did into a verdict: what it returns becomes JSON, what it raises becomes a failure."""

import inspect
from typing import Any

import msgspec
from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.chunk import Operation
from penstock.context import Reject, Retry, Throttled
from penstock.documents.finite import pointer_to_not_finite
from penstock.documents.nesting import MOST_LEVELS, TOO_DEEP, is_too_deep
from penstock.error_ids import id_of, see_log
from penstock.errors import Misconfigured
from penstock.large_results import most_result_bytes
from penstock.outcome import FEW_BYTES, Outcome, TryAgain, Verdict, compact, failed
from penstock.route import InvalidOperation, Place, Route, UnknownOperation
from penstock.telemetry import Event, get_log

CANCELLED_ITSELF = "The handler cancelled its own task."
NOT_SHORT: Any = object()  # instead of the copy of a result, which may be None
MAX_DETAIL_CHARACTERS = 2_000  # so that errors never outgrow the operations they travel with
_JSON_TYPES = frozenset({dict, list, str, int, float, bool, type(None)})
_SIZED_TYPES = frozenset({dict, list, str})  # their JSON has more bytes than they have members or characters
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode  # in half of Pydantic's time


class TimedOut(Exception):
    """The handler timed out."""


class CancelledWithin(Exception):
    """The handler was cancelled from within: nobody outside had asked for that."""


class Unserializable(Exception):
    """The handler returned a value that JSON cannot represent. The reason may be in the words of the application."""

    def __init__(self, message: str, reason: str, *, is_ours: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_ours = is_ours


class ResultTooLarge(Exception):
    """The handler returned a value that is too large to be stored."""

    title = "Result too large"

    def __init__(self, size: int, *, has_bucket: bool) -> None:
        most = most_result_bytes(has_bucket=has_bucket)
        higher = most_result_bytes(has_bucket=True)
        advice = "" if has_bucket else f" With a bucket (PENSTOCK_BUCKET) it is {higher:,} bytes."
        super().__init__(
            f"The operation was performed, but its result has {size:,} bytes as JSON. "
            f"The limit is {most:,} bytes.{advice}"
        )


class WrongNumber(Exception):
    """A bulk handler did not return exactly one outcome for each operation."""

    title = "Wrong number of outcomes"


class WorkerDied(Exception):
    """The process that ran the handler died."""


def invalid(operation: Operation, error: InvalidOperation) -> Outcome:
    """Return the outcome of an invalid operation.

    Either invalid operations are accepted for this batch, or the application has changed since it was accepted.
    """
    if isinstance(error, UnknownOperation):
        return failed(operation, 404, "Unknown operation", str(error), rejected=True)
    return failed(operation, 422, "Invalid operation", str(error), rejected=True)


def cancelled_itself(operation: Operation) -> Outcome:
    """Return the outcome of an operation whose handler cancelled its own task."""
    return failed(operation, 500, "Broke", CANCELLED_ITSELF)


def error_id(key: str, attempt: int) -> str:
    """Return the id of what goes wrong in this attempt. It stands in the outcome and in the log."""
    return id_of(f"{key}/{attempt}")


def judge(error: BaseException, operation: Operation, route: Route, id_: str | None = None) -> Verdict:
    """Turn what a handler raised into a verdict. This is the only place where that happens.

    The words of an unexpected exception may be secret. With `id_`, only the log has them, and the verdict has this id.
    `Reject`, `Retry` and `Throttled` are meant for the client, so their words are always in the verdict.
    """
    try:
        return _judge(error, operation, route, id_)
    except BaseException:  # noqa: BLE001 - its text cannot be read, or it did not call the constructor of its base class
        return _broke(operation, route, type(error).__name__ if id_ is None else f"The handler failed. {see_log(id_)}")


def _judge(error: BaseException, operation: Operation, route: Route, id_: str | None) -> Verdict:  # noqa: PLR0911 - a table
    match error:
        case Reject():
            return failed(operation, error.status, "Rejected", error.detail, rejected=True)
        case Retry():
            failure = failed(operation, 503, "Not performed", error.detail)
            return TryAgain(failure, route.policy.max_attempts, error.after_seconds)
        case Throttled():
            failure = failed(operation, 429, "Throttled", error.detail)
            return TryAgain(failure, route.policy.max_attempts, error.after_seconds, uses_attempt=False)
        case Unserializable():
            _log(operation, route, id_, error=f"{error}{error.reason}")
            reason = error.reason if id_ is None or error.is_ours else f". {see_log(id_)}"
            return failed(operation, 500, "Result is not JSON", f"{error}{reason}")
        case WrongNumber() | ResultTooLarge():
            return failed(operation, 500, error.title, str(error))
        case TimedOut():
            seconds = route.policy.timeout_seconds
            failure = failed(operation, 504, "Timed out", f"The operation was not done within {seconds:g} s.")
            return TryAgain(failure, route.policy.max_attempts)
        case CancelledWithin():
            return _broke(operation, route, "CancelledError: The handler was cancelled from within.")
        case Misconfigured():
            return failed(operation, 500, "Misconfigured", str(error))
        case WorkerDied():
            _log(operation, route, None, error=str(error))
            return _broke(operation, route, f"Its process ended: {error}")
        case _:
            _log(operation, route, id_, exc_info=error)
            return _broke(operation, route, _words(error) if id_ is None else f"The handler failed. {see_log(id_)}")


def _log(operation: Operation, route: Route, id_: str | None, **fields: Any) -> None:
    named = fields if id_ is None else {"error_id": id_, **fields}
    get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, handler=route.name, **named)


def _words(error: BaseException) -> str:
    name, message = type(error).__name__, str(error)
    return f"{name}: {message}" if message else name


def _broke(operation: Operation, route: Route, detail: str) -> TryAgain:
    return TryAgain(failed(operation, 500, "Broke", detail[:MAX_DETAIL_CHARACTERS]), route.policy.max_attempts)


def _returned_coroutine(route: Route) -> str:
    if route.place is Place.LOOP:
        return f"The handler of {route.name} returned a coroutine that it did not await. Write `return await ...`."
    return (
        f"The handler of {route.name} is a `def` that returned a coroutine. Write it as `async def`. A decorator "
        "around an `async def` must be an `async def` itself."
    )


def short_copy(result: Any) -> Any:
    """Return a short result as a JSON value, or NOT_SHORT.

    It is a copy, because the handler may keep its own, and change it later. It equals the result, so nothing of that is
    lost or turned into something else: where JSON has no such value, it would not be equal, as null is not NaN.
    """
    if type(result) not in _JSON_TYPES or (type(result) in _SIZED_TYPES and len(result) > FEW_BYTES):
        return NOT_SHORT  # without encoding what is certainly long
    try:
        content = _encode(result)
        if len(content) <= FEW_BYTES:
            value = _decode(content)
            if value == result and not (len(content) > MOST_LEVELS and is_too_deep(value, content)):
                return value
    except Exception:  # noqa: BLE001, S110 - JSON has no such value, or comparing it fails
        pass
    return NOT_SHORT


def as_json(route: Route, result: Any) -> Any:
    """Return the result as JSON, in its compact form. It is encoded and parsed, so one that passes can be stored later.

    NaN and infinity do not pass. JSON cannot express them, and null would say something else.
    """
    short = short_copy(result)
    if short is not NOT_SHORT:
        return short
    if inspect.iscoroutine(result):
        result.close()
        raise Misconfigured(_returned_coroutine(route))
    try:
        content = to_json(result)
        check_size(route, len(content))  # before anything else costs time
        value = from_json(content)
    except (PydanticSerializationError, ValueError) as error:
        raise Unserializable(f"{route.name} returned a value that JSON cannot represent", f": {error}") from error
    if is_too_deep(value, content):
        raise Unserializable(f"{route.name} returned a value that is nested too deeply", f". {TOO_DEEP}", is_ours=True)
    if (place := pointer_to_not_finite(value, content)) is not None:
        where = f" at {place}" if place else ""
        hint = ". JSON has no such number: return None instead."
        raise Unserializable(f"{route.name} returned NaN or infinity{where}", hint, is_ours=True)
    return compact(value, content)


def check_size(route: Route, size: int) -> None:
    """Raise ResultTooLarge if a result of this size, as JSON, cannot be stored."""
    has_bucket = route.surroundings.has_bucket
    if size > most_result_bytes(has_bucket=has_bucket):
        raise ResultTooLarge(size, has_bucket=has_bucket)
