"""Verifies the signature of an event, by the rules of Standard Webhooks 1.0."""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from penstock.client.errors import InvalidWebhook

TOLERANCE_SECONDS = 5 * 60
_PREFIX = "whsec_"
_LONGEST_TIMESTAMP = 12  # digits; longer numbers overflow


class Headers(Protocol):
    """The headers of a request, in any case: a dict, or what a web framework has for them."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def verify_webhook(
    body: bytes | str, headers: Headers, secret: str, *, now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Return the event in the body of a request if it was signed with the secret in the last five minutes.

    Raises InvalidWebhook otherwise: then answer the request with 401. Pass the body as it arrived, because the
    signature is that of its bytes. An event may arrive more than once: remember the `id` of those that you handled.
    """
    content = body.encode() if isinstance(body, str) else body
    given = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = _header(given, "webhook-id"), _header(given, "webhook-timestamp")
    _check_time(timestamp, now())
    signed = b".".join((message_id.encode(), timestamp.encode(), content))
    expected = hmac.digest(_key(secret), signed, hashlib.sha256)
    # Each signature is compared in constant time, so that the time does not show how much of it was right.
    matches = [hmac.compare_digest(expected, one) for one in _signatures(_header(given, "webhook-signature"))]
    if not any(matches):
        raise InvalidWebhook("No signature of the event was made with this secret.")
    return _event(content)


def _header(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise InvalidWebhook(f"The request has no header {name}.")
    if not headers[name].isascii():
        raise InvalidWebhook(f"The header {name} has characters that are not ASCII.")
    return headers[name]


def _check_time(timestamp: str, now: float) -> None:
    if not timestamp.isdecimal() or len(timestamp) > _LONGEST_TIMESTAMP:
        raise InvalidWebhook("The header webhook-timestamp is not a number of seconds.")
    age = now - int(timestamp)
    if abs(age) > TOLERANCE_SECONDS:
        when = "old" if age > 0 else "far in the future"
        raise InvalidWebhook(f"The event is too {when}. It was sent at {timestamp}, and here it is {now:.0f}.")


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("The secret should look like whsec_..., as your endpoint shows it.") from None


def _signatures(header: str) -> Iterator[bytes]:
    for part in header.split():
        version, _, text = part.partition(",")
        if version == "v1":
            try:
                yield base64.b64decode(text, validate=True)
            except binascii.Error:
                continue


def _event(content: bytes) -> dict[str, Any]:
    try:
        event = json.loads(content)
    except ValueError as error:
        raise InvalidWebhook("The event is signed, but it is not JSON.") from error
    if not isinstance(event, dict):
        raise InvalidWebhook("The event is signed, but it is not a JSON object.")
    return event
