"""Texts of the pages: numbers and times as people read them, and the messages after a change. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))

# What the page says after a change. The URL has only the name and a number, so nobody can put words here.
_DONE = {
    "accepted": "The file is valid and was accepted. Its rows run now.",
    "cancelled": "The batch is cancelled. Operations that are running still finish.",
    "retried": "Failed operations that run again: {count}.",
    "nothing-to-retry": "No failed operation can run again.",
    "redriven": "Dead letters that were moved back to the queue: {count}.",
    "redriven-in-part": "Dead letters that were moved back to the queue: {count}. Some are left: run them again, too.",
    "revoked": "The key is revoked. Front ends that remember it accept it for up to 60 seconds.",
    "paused": "The batch is paused. Operations that are running still finish.",
    "resumed": "The batch goes on.",
    "exported": "The files of the export are below, or appear there.",
    "changed": "The change is saved. It acts within two seconds.",
    "queue-paused": "The queue is paused for all batches.",
    "queue-resumed": "The queue goes on.",
    "signed-out": "This browser has forgotten the key.",
}


def message_of(query: Mapping[str, str]) -> str | None:
    """Return the message after a change, or None."""
    text = _DONE.get(query.get("done", ""))
    count = query.get("count", "")
    is_count = count.isascii() and count.isdecimal() and len(count) < 16
    return None if text is None else text.format(count=number(int(count)) if is_count else "some")


def number(value: float) -> str:
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """Return a share as a percentage that is rounded down: only a share of 1 is 100 %."""
    tenths = int(share * 1000 + 1e-9)
    return f"{tenths // 10}\u00a0%" if tenths % 10 == 0 else f"{tenths / 10:.1f}\u00a0%"


def rate(per_second: float | None) -> str:
    if per_second is None:
        return "-"
    if per_second >= 10:
        return f"{per_second:,.0f} /s"
    return f"{per_second:.1f} /s" if per_second >= 0.05 or per_second == 0 else f"{per_second * 60:.1f} /min"


def size(count: int) -> str:
    """Return a number of bytes as file managers show it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def dollars(usd: float) -> str:
    """Return a cost. A small one keeps two digits that say something."""
    return f"{usd:,.2f} USD" if usd >= 1 else f"{usd:.2g} USD" if usd >= 0.0001 else "< 0.0001 USD"


def milliseconds(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:,.1f} s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, and the next one: 1 hour 5 minutes."""
    rest = max(0, round(seconds))
    words = []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}" if count == 1 else f"{count} {unit}s")
        if words and (len(words) == 2 or not count):
            break
    return " ".join(words) or "less than a second"


def ago(time: str, now: float) -> str:
    """Return how long ago a time is, or in what time it will be."""
    seconds = now - to_seconds(time)
    if abs(seconds) < 1:
        return "now"
    return f"{_about(seconds)} ago" if seconds > 0 else f"in {_about(seconds)}"


def _about(seconds: float) -> str:
    """Return a duration in its largest unit, and with the next one if that says much more: 1 hour 20 minutes."""
    words = duration(abs(seconds)).split()
    return " ".join(words[:2]) if len(words) != 4 or words[0] not in {"1", "2"} else " ".join(words)


def until(earliest: str, latest: str, now: float) -> str:
    """Return in what time something will be at the earliest and at the latest: 30 to 50 minutes."""
    first, last = _about(to_seconds(earliest) - now), _about(to_seconds(latest) - now)
    if first == last:
        return f"in {last}"
    number, _, unit = first.partition(" ")
    return f"in {number if last.endswith(f' {unit}') and len(last.split()) == 2 else first} to {last}"


def quota(limit: str) -> str:
    """Return a limit such as 100000/3600 as people read it: 100,000 in 1 hour."""
    operations, _, seconds = limit.partition("/")
    return f"{number(int(operations))} in {duration(int(seconds))}"


def moment(time: str) -> str:
    """Return a time as people read it, in UTC."""
    at = datetime.fromtimestamp(to_seconds(time), UTC)
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def to_seconds(time: str) -> float:
    """Return a time of an answer in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def place_of(pointer: str) -> str:
    """Return the place of an error in an operation, as people write it: `body/email` without its beginning."""
    parts = pointer.split("/")[1:]
    if parts[:1] == ["operations"]:
        parts = parts[2:]
    if parts[:1] == ["body"] and len(parts) > 1:
        parts = parts[1:]
    return ".".join(part.replace("~1", "/").replace("~0", "~") for part in parts)
