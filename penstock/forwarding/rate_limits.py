"""Reads from the headers of a response how long the upstream wants no more requests. Pure.

The fields are `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), `Retry-After` (RFC 9110),
and `X-RateLimit-Remaining` with `X-RateLimit-Reset`, which many upstreams send. A field that is broken or very long is
ignored.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import http_sf
from multidict import MultiMapping

from penstock.context import LONGEST_TURN_SECONDS, LONGEST_WAIT_SECONDS

MOST_CHARACTERS = 1_000  # of a field: an upstream has a few policies
LEAST_EPOCH, MOST_EPOCH = 1e9, 1e11  # a reset between these is a Unix time in seconds, and one above is not readable
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)


def turned_away_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Return the delay after which a request that was turned away may be repeated, or None if no field says it.

    `RateLimit` and `Retry-After` may both be present. Then the longer delay applies. It is at most an hour.
    """
    asked = (_seconds_until_quota(headers), read_retry_after(headers.get("Retry-After"), now))
    known = [seconds for seconds in asked if seconds is not None]
    return _bounded(max(known) if known else _seconds_until_reset(headers, now))


def pause_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Return the delay before the next request, or None if the response does not say that nothing is left.

    A response of any status may say so. The delay is at most an hour.
    """
    seconds = _seconds_until_quota(headers)
    if seconds is None and "X-RateLimit-Remaining" in headers:
        seconds = _seconds_until_reset(headers, now)
    return _bounded(seconds)


def read_retry_after(text: str | None, now: float) -> float | None:
    """Return the delay in seconds from a `Retry-After` header, or None if it is missing or unreadable.

    The header is a number of seconds or a date. The delay is at most LONGEST_WAIT_SECONDS.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:10]), LONGEST_WAIT_SECONDS))
    try:
        date = parsedate_to_datetime(text)
        until = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until - now, 0.0), float(LONGEST_WAIT_SECONDS))


def _seconds_until_quota(headers: Mapping[str, str]) -> float | None:
    """Return the longest delay that `RateLimit` gives for a policy of which nothing is left.

    If it gives none, the delay is the time window of the policy.
    """
    spent = {name: values.get("t") for name, values in _read_policies(headers, "RateLimit") if values.get("r") == 0}
    if not spent:
        return None
    windows = {name: values.get("w") for name, values in _read_policies(headers, "RateLimit-Policy")}
    waits = [_as_seconds(windows.get(name) if wait is None else wait) for name, wait in spent.items()]
    return max((wait for wait in waits if wait is not None), default=None)


def _read_policies(headers: Mapping[str, str], field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each policy in a field, with its parameters."""
    text = _read_field(headers, field)
    if not text:
        return
    try:
        items = http_sf.parse(text.encode("ascii"), tltype="list")
    except ValueError:
        return
    assert isinstance(items, list)
    for item in items:
        if isinstance(item, tuple) and not isinstance(item[0], list):
            yield str(item[0]), item[1]


def _read_field(headers: Mapping[str, str], field: str) -> str:
    """Return the field. If a response has several fields of this name, they are one list."""
    if field not in headers:
        return ""
    text = ",".join(headers.getall(field)) if isinstance(headers, MultiMapping) else headers[field]
    return text if len(text) <= MOST_CHARACTERS else ""


def _as_seconds(value: object) -> float | None:
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return None
    return float(value) if value >= 0 else None


def _seconds_until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Return the delay that `X-RateLimit-Reset` gives, or None if something is left until then."""
    reset = _read_number(headers, "X-RateLimit-Reset")
    if reset is None or reset > MOST_EPOCH or headers.get("X-RateLimit-Remaining", "0").strip() != "0":
        return None
    return max(reset - now, 0.0) if reset > LEAST_EPOCH else reset


def _read_number(headers: Mapping[str, str], field: str) -> float | None:
    text = headers.get(field, "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, float(LONGEST_TURN_SECONDS))
