"""Records every call that a program makes to the embedded AWS: the program, the action and the resource.

The access key of a program is its name: `tests/support/programs.py` sets it.
The workers of a run report their calls at the end: see `tests/conftest.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

PROGRAMS = ("service", "consumer")

# IAM has no actions for batches of messages.
_IAM_ACTIONS = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}
_FILE_ACTIONS = {
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "PUT": "s3:PutObject",
    "POST": "s3:PutObject",
    "DELETE": "s3:DeleteObject",
}
_PREFIXES = {"AmazonSQS": "sqs", "DynamoDB_20120810": "dynamodb", "GraniteServiceVersion20100801": "cloudwatch"}
_CBOR_PATH = re.compile(r"/service/[^/]+/operation/[^/]+")
_KEY = re.compile(r"Credential=([^/]+)/")
_S3 = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/s3/")
_SIGNED_URL = re.compile(r"X-Amz-Credential=([^/%&]+)(?:/|%2F)", re.IGNORECASE)
_FILE = re.compile(r"/[^/]+/([^/]+)/.+")  # in a bucket, with the folder that the roles name
_FORM_KEY = re.compile(rb'name="x-amz-credential"\s+([^/]+)/', re.IGNORECASE)
_FORM_FILE = re.compile(rb'name="key"\s+([^/]+)/', re.IGNORECASE)
_QUEUE = re.compile(rb'"QueueUrl": ?"[^"]*/([^"/]+)"')
_QUEUE_NAME = re.compile(rb'"QueueName": ?"([^"]+)"')
_TABLE = re.compile(rb'"TableName": ?"([^"]+)"|"RequestItems": ?\{"([^"]+)"')
_INDEX = re.compile(rb'"IndexName": ?"([^"]+)"')
_QUEUE_KIND = re.compile(r"^.*(-chunks-\w+|-dead-letters)$")  # for any name of an installation
_OWN_NAME = re.compile(r"^(?:test-[0-9a-f]{8}|penstock)(?=-|$)")


class Call(NamedTuple):
    """`resource` without the installation's name: `-chunks-normal`, `` for its table, `/index/due`; `*` for none.

    A file in the bucket is named by its folder: `/uploads/*`.
    """

    program: str
    action: str
    resource: str


@dataclass
class RecordedCalls:
    """The calls seen so far. The embedded AWS reports each call to `watch`."""

    seen: set[Call] = field(default_factory=set)

    def watch(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        call = read_call(method, path, headers, body)
        if call is not None:
            self.seen.add(call)


def read_call(method: str, path_and_query: str, headers: Mapping[str, str], body: bytes) -> Call | None:
    """Return None for a call that no program made, such as a call of a test."""
    authorization = headers.get("Authorization", "")
    path, _, query = path_and_query.partition("?")
    key = _KEY.search(authorization) or _SIGNED_URL.search(query)
    if key is None:
        return _read_upload(headers, body)
    if key[1] not in PROGRAMS:
        return None
    if _S3.search(authorization) or not authorization:
        return _read_file_call(key[1], method, path, query)
    action = _action(path, headers)
    return Call(key[1], _IAM_ACTIONS.get(action, action), _resource(action, body))


def _read_file_call(program: str, method: str, path: str, query: str) -> Call:
    """Return the call about a file of a bucket. All calls that write a file in parts need the same permission.

    A client that downloads from a signed URL uses the permission of the program that signed it.
    """
    file = _FILE.fullmatch(path)
    if file is None:
        return Call(program, "s3:ListBucket", "")  # a HEAD of the bucket itself
    action = "s3:AbortMultipartUpload" if method == "DELETE" and "uploadId=" in query else _FILE_ACTIONS[method]
    return Call(program, action, f"/{file[1]}/*")


def _read_upload(headers: Mapping[str, str], body: bytes) -> Call | None:
    """Return the upload of a client with a form, which uses the permissions of the program that signed the form."""
    if not headers.get("Content-Type", "").startswith("multipart/form-data"):
        return None
    key, file = _FORM_KEY.search(body), _FORM_FILE.search(body)
    if key is None or file is None or key[1].decode() not in PROGRAMS:
        return None
    return Call(key[1].decode(), "s3:PutObject", f"/{file[1].decode()}/*")


def _action(path: str, headers: Mapping[str, str]) -> str:
    """Return the action, which is in a header of JSON calls and in the path of CBOR calls; else the path as it is."""
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
