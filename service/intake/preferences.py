"""Reads the preferences of a client (RFC 7240): `respond-async` and `wait=<seconds>`. Pure."""

import re
from dataclasses import dataclass

_PREFERENCE = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("[^"]*"|[^\s;,"]*))?[^,]*""")
_WAIT = re.compile(r"[0-9]{1,9}")
MOST_READ = 100  # preferences of a request, which can have a megabyte of them


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences of a client. `wait_seconds` is how long it wants to wait for the results."""

    respond_async: bool = False
    wait_seconds: int | None = None


def read_preferences(header: str) -> Preferences:
    """Read the header. Unknown and invalid preferences are ignored."""
    found = parse_preferences(header)
    wait = found.get("wait", "")
    return Preferences("respond-async" in found, int(wait) if _WAIT.fullmatch(wait) else None)


def parse_preferences(header: str) -> dict[str, str]:
    """Return the value of each preference, by its name in lower case. The first one of a name counts (RFC 7240)."""
    found: dict[str, str] = {}
    for part in header.split(",", MOST_READ)[:MOST_READ]:
        match = _PREFERENCE.fullmatch(part)
        if match:
            found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    return found
