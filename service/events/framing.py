"""Writes server-sent events as the HTML standard defines them, and the ids that make a reconnect exact. Pure.

A client sends the id of the last event that it has received as `Last-Event-ID` when it connects again.

    progress    the version of the status. With outcomes it has no id, so that the cursor of the last outcome stays
    outcome     the cursor behind it
    end         `end.` and the version of the final status
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from penstock.service.json_answer import encode

MEDIA_TYPE = "text/event-stream"
RETRY = b"retry: 3000\n\n"  # milliseconds until a client connects again
PING = b": ping\n\n"

_LINE_END = re.compile(rb"\r\n|\r|\n")
_END = "end."
_UNTOLD = frozenset({"eta", "etaEarliest", "etaLatest", "cost"})  # they change even if nothing happens to the batch


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """Return an event. Its data may have several lines."""
    lines = b"\n".join(b"data: %b" % line for line in _LINE_END.split(data))
    id_line = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return b"%bevent: %b\n%b\n\n" % (id_line, event.encode(), lines)


def frame_outcome(chunk: int, index: int, line: bytes) -> bytes:
    """Return the event of an outcome, whose line is JSON without a line end. Its id is the cursor behind it."""
    return b"id: %d.%d\nevent: outcome\ndata: %b\n\n" % (chunk, index, line)


def version_of(status: Mapping[str, Any]) -> str:
    """Return a text that differs if anything in the status differs, except for estimates of its end and its cost."""
    facts = {name: value for name, value in status.items() if name not in _UNTOLD}
    return blake2b(encode(facts), digest_size=8).hexdigest()


def end_id(version: str) -> str:
    return _END + version


def ended_version(last_event_id: str) -> str | None:
    """Return the version of the final status that the client has, or None if its last event was not an end."""
    return last_event_id.removeprefix(_END) if last_event_id.startswith(_END) else None
