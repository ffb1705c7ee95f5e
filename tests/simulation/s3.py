"""An S3 bucket as a server: a file has the whole content of one write, and every read sees the last one.

A read with an ETag fails if the file was replaced or deleted meanwhile. An unknown parameter is an error, so that none
is ignored. What clients upload, and what the lifecycle of the bucket deletes, does not come from a program: `put` and
`expire` do it.
"""

import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Any, Self

from penstock.bucket import LEAST_PART_BYTES
from tests.simulation.dynamodb import refusal
from tests.simulation.expressions import Unsupported

Request = Mapping[str, Any]

LARGEST_PUT_BYTES = 5 * 1024**3
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Body:
    """The body of an answer, as aiobotocore returns it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None: ...

    async def read(self) -> bytes:
        return self._content


class Files:
    """A bucket. `contents` has its files by their keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.contents: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # of files that are not finished, by the id of the upload
        self._numbers = itertools.count(1)

    def put(self, key: str, content: bytes) -> None:
        """Write a file as a client that uploads it."""
        self.contents[key] = content

    def expire(self, key: str) -> None:
        """Delete a file as the lifecycle of the bucket does."""
        self.contents.pop(key, None)

    # the calls of S3

    def head_bucket(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket"})
        if request["Bucket"] != self.name:
            raise refusal("404", "HeadBucket", "Not Found", status=404)
        return {}

    def head_object(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key"})
        content = self.contents.get(request["Key"]) if request["Bucket"] == self.name else None
        if content is None:
            raise refusal("404", "HeadObject", "Not Found", status=404)
        return {"ContentLength": len(content), "ETag": etag(content)}

    def get_object(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "Range", "IfMatch"})
        self._check_name(request, "GetObject")
        content = self.contents.get(request["Key"])
        if content is None:
            raise refusal("NoSuchKey", "GetObject", "The specified key does not exist.", status=404)
        if request.get("IfMatch", etag(content)) != etag(content):
            raise refusal("PreconditionFailed", "GetObject", "IfMatch", status=412)
        return {"Body": Body(_part(content, request.get("Range"))), "ETag": etag(content)}

    def put_object(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "Body", "ContentType"})
        self._check_name(request, "PutObject")
        if len(request["Body"]) > LARGEST_PUT_BYTES:
            raise refusal("EntityTooLarge", "PutObject", "too large")
        self.contents[request["Key"]] = bytes(request["Body"])
        return {"ETag": etag(request["Body"])}

    def delete_object(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key"})
        self._check_name(request, "DeleteObject")
        self.contents.pop(request["Key"], None)
        return {}

    def create_multipart_upload(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "ContentType"})
        self._check_name(request, "CreateMultipartUpload")
        upload_id = f"parts-{next(self._numbers)}"
        self.parts[upload_id] = {}
        return {"UploadId": upload_id}

    def upload_part(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "UploadId", "PartNumber", "Body"})
        self._parts_of(request, "UploadPart")[request["PartNumber"]] = bytes(request["Body"])
        return {"ETag": etag(request["Body"])}

    def complete_multipart_upload(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "UploadId", "MultipartUpload"})
        parts = self._parts_of(request, "CompleteMultipartUpload")
        contents = []
        for wanted in request["MultipartUpload"]["Parts"]:
            content = parts.get(wanted["PartNumber"])
            if content is None or etag(content) != wanted["ETag"]:
                raise refusal("InvalidPart", "CompleteMultipartUpload", str(wanted))
            contents.append(content)
        if any(len(content) < LEAST_PART_BYTES for content in contents[:-1]):
            raise refusal("EntityTooSmall", "CompleteMultipartUpload", "a part is too small")
        del self.parts[request["UploadId"]]
        self.contents[request["Key"]] = b"".join(contents)
        return {}

    def abort_multipart_upload(self, request: Request) -> dict[str, Any]:
        _know(request, {"Bucket", "Key", "UploadId"})
        self._parts_of(request, "AbortMultipartUpload")
        del self.parts[request["UploadId"]]
        return {}

    def _parts_of(self, request: Request, action: str) -> dict[int, bytes]:
        parts = self.parts.get(request["UploadId"])
        if parts is None:
            raise refusal("NoSuchUpload", action, "The specified multipart upload does not exist.", status=404)
        return parts

    def _check_name(self, request: Request, action: str) -> None:
        if request["Bucket"] != self.name:
            raise refusal("NoSuchBucket", action, "The specified bucket does not exist", status=404)


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _part(content: bytes, wanted: str | None) -> bytes:
    if wanted is None:
        return content
    found = _RANGE.fullmatch(wanted)
    if found is None:
        raise Unsupported(f"the range {wanted!r}")
    first, last = map(int, found.groups())
    if first >= len(content):
        raise refusal("InvalidRange", "GetObject", "The requested range is not satisfiable", status=416)
    return content[first : last + 1]


def _know(request: Request, known: set[str]) -> None:
    unknown = request.keys() - known
    if unknown:
        raise Unsupported(f"the parameters {sorted(unknown)}")
