"""The options of a batch and of its changes, as a request writes them. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
"""The default of what a change may change. None is a value of its own: it removes a limit."""

Time = datetime | str
Seconds = timedelta | float


def batch_query(
    *,
    title: str | None = None,
    metadata: Mapping[str, str] | None = None,
    priority: str | None = None,
    not_before: Time | None = None,
    deadline: Seconds | None = None,
    max_failures: int | None = None,
    max_failed_percent: float | None = None,
    callback_url: str | None = None,
    atomic: bool = False,
) -> dict[str, str]:
    """Return the query of a request that submits a batch with these options."""
    options: dict[str, Any] = {
        "priority": priority,
        "notBefore": None if not_before is None else time_text(not_before),
        "deadlineSeconds": None if deadline is None else seconds_of(deadline),
        "maxFailures": max_failures,
        "maxFailedPercent": max_failed_percent,
        "callbackUrl": callback_url,
        "atomic": "true" if atomic else None,
    }
    named = {**(metadata or {}), **({} if title is None else {"title": title})}
    return {
        **{name: str(value) for name, value in options.items() if value is not None},
        **{f"metadata.{name}": value for name, value in named.items()},
    }


def time_text(time: Time) -> str:
    """Return a time as RFC 3339 writes it. Raises ValueError if it has no time zone."""
    if isinstance(time, str):
        return time
    if time.tzinfo is None:
        raise ValueError(f"The time {time} has no time zone. Use datetime.now(UTC), or .astimezone().")
    return time.isoformat()


def seconds_of(time: Seconds) -> float:
    return time.total_seconds() if isinstance(time, timedelta) else time
