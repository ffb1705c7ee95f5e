"""Every AWS call that a program makes in the tests on the embedded AWS: who, what, of which resource.

Programs are told apart by their access keys, which are their names: `tests/support/programs.py` gives each its own.
The workers of a run tell what they have seen at its end: see `tests/conftest.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

PROGRAMS = ("service", "consumer")

# IAM knows no batches of messages.
_IAM_ACTIONS = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}
_PREFIXES = {"AmazonSQS": "sqs", "DynamoDB_20120810": "dynamodb", "GraniteServiceVersion20100801": "cloudwatch"}
_CBOR_PATH = re.compile(r"/service/[^/]+/operation/[^/]+")
_KEY = re.compile(r"Credential=([^/]+)/")
_QUEUE = re.compile(rb'"QueueUrl": ?"[^"]*/([^"/]+)"')
_QUEUE_NAME = re.compile(rb'"QueueName": ?"([^"]+)"')
_TABLE = re.compile(rb'"TableName": ?"([^"]+)"|"RequestItems": ?\{"([^"]+)"')
_INDEX = re.compile(rb'"IndexName": ?"([^"]+)"')
_QUEUE_KIND = re.compile(r"^.*(-chunks-\w+|-dead-letters)$")  # whatever the installation is called, also one not there
_OWN_NAME = re.compile(r"^(?:test-[0-9a-f]{8}|penstock)(?=-|$)")


class Call(NamedTuple):
    """`resource` without the installation's name: `-chunks-normal`, `` for its table, `/index/due`; `*` for none."""

    program: str
    action: str
    resource: str


@dataclass
class RecordedCalls:
    """Give `watch` to the embedded AWS."""

    seen: set[Call] = field(default_factory=set)

    def watch(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        call = read_call(path, headers, body)
        if call is not None:
            self.seen.add(call)


def read_call(path: str, headers: Mapping[str, str], body: bytes) -> Call | None:
    """None for a call of something else than a program: of a test, say."""
    key = _KEY.search(headers.get("Authorization", ""))
    if key is None or key[1] not in PROGRAMS:
        return None
    action = _action(path, headers)
    return Call(key[1], _IAM_ACTIONS.get(action, action), _resource(action, body))


def _action(path: str, headers: Mapping[str, str]) -> str:
    """JSON names the action in a header, CBOR in the path; what else there may be is told as it came."""
    service, _, name = headers.get("X-Amz-Target", "").rpartition(".")
    if not service:
        _, _, service, _, name = path.split("/", 4) if _CBOR_PATH.fullmatch(path) else ("", "", path, "", "?")
    return f"{_PREFIXES.get(service, service)}:{name}"


def _resource(action: str, body: bytes) -> str:
    if action.startswith("sqs:"):
        found = _QUEUE.search(body) or _QUEUE_NAME.search(body)
        return _QUEUE_KIND.sub(r"\1", found[1].decode()) if found else "*"
    found = _TABLE.search(body)
    if found is None:
        return "*"
    table = _OWN_NAME.sub("", (found[1] or found[2]).decode())
    index = _INDEX.search(body)
    return f"{table}/index/{index[1].decode()}" if index else table
