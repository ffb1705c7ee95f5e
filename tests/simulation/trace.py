"""Records what happened in a run, as lines for people."""

import re
from collections.abc import Mapping
from typing import Any

from tests.simulation.network import Fault
from tests.simulation.promises import words_of

Event = tuple[float, str, str, tuple[Any, ...]]

LONGEST = 220
_BATCH_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{20}([0-9A-HJKMNP-TV-Z]{6})\b")


def to_line(event: Event) -> str:
    at, who, what, details = event
    words = " ".join(_to_words(detail) for detail in details)
    text = _BATCH_ID.sub(r"~\1", f"{what} {words}")
    return f"{at:10.3f}  {who:<14} {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"


def _to_words(detail: Any) -> str:
    match detail:
        case Fault.NONE:
            return ""
        case Fault():
            return f"<{detail.name}>"
        case {"TableName": _} | {"RequestItems": _}:
            return _about_table(detail)
        case {"QueueUrl": _}:
            return _about_queue(detail)
        case dict():
            return " ".join(f"{name}={value!r}" for name, value in detail.items())
    return str(detail)


def _about_table(request: Mapping[str, Any]) -> str:
    match request:
        case {"RequestItems": tables}:
            return " ".join(_key(key) for wanted in tables.values() for key in wanted["Keys"])
        case {"Key": key, "UpdateExpression": update}:
            values = {
                name: next(iter(value.values())) for name, value in request.get("ExpressionAttributeValues", {}).items()
            }
            condition = f" IF {request['ConditionExpression']}" if "ConditionExpression" in request else ""
            return f"{_key(key)}: {update}{condition} {values}"
        case {"Key": key} | {"Item": key}:
            return _key(key)
    return str(request.get("KeyConditionExpression", ""))


def _about_queue(request: Mapping[str, Any]) -> str:
    queue = request["QueueUrl"]
    match request:
        case {"Entries": [{"MessageBody": _}, *_] as entries}:
            sent = [f"{words_of(entry['MessageBody'])} +{entry.get('DelaySeconds', 0)} s" for entry in entries]
            return f"{queue}: {', '.join(sent)}"
        case {"Entries": [{"VisibilityTimeout": _}, *_] as entries}:
            changed = [f"{entry['ReceiptHandle']} {entry['VisibilityTimeout']} s" for entry in entries]
            return f"{queue}: {', '.join(changed)}"
        case {"Entries": entries}:
            return f"{queue}: {', '.join(entry['ReceiptHandle'] for entry in entries)}"
    return f"{queue}: up to {request.get('MaxNumberOfMessages')}"


def _key(typed: Mapping[str, Any]) -> str:
    return f"{typed['pk']['S'].removeprefix('batch#')} {typed['sk']['S']}"
