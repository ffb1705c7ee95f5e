"""Patches for moto's S3: a presigned POST must satisfy its policy, overwritten objects are deleted, parts need an id.

moto accepts every upload, even if its policy limits the size. The signature of the policy is not checked: moto accepts
any credentials, so there is no secret to check it with.
"""

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.s3.exceptions import NoSuchUpload, S3ClientError
from moto.s3.models import FakeKey, S3Backend
from moto.s3.responses import S3Response

from penstock.infra.embedded.requests import untracked

_moto_bucket_response_post = S3Response._bucket_response_post  # noqa: SLF001 - moto has no other hook here

_moto_complete_multipart_upload = S3Backend.complete_multipart_upload
_moto_upload_part = S3Backend.upload_part

# These fields need not be in the policy, since they are not about the object.
_FREE_FIELDS = {"policy", "file", "signature", "awsaccesskeyid", "x-amz-signature"}
_FREE_PREFIX = "x-ignore-"


def _bucket_response_post(response: Any, request: Any, bucket_name: str) -> Any:
    form = {name.lower(): value for name, value in response.form_data.items()}
    if "policy" in form:
        failure = next(_failures(form | {"bucket": bucket_name}, len(response.body)), None)
        if failure is not None:
            return _rejection(response, *failure)
    return _moto_bucket_response_post(response, request, bucket_name)


def _failures(form: Mapping[str, str], size_bytes: int) -> Iterator[tuple[int, str, str]]:
    """Yield the status, code and message, in AWS's words, for each way in which an upload violates its policy."""
    try:
        policy = json.loads(b64decode(form["policy"]))
        expires_at = datetime.fromisoformat(policy["expiration"])
        conditions = [_condition(one) for one in policy["conditions"]]
    except (ValueError, KeyError, TypeError) as error:
        yield 400, "InvalidPolicyDocument", f"Invalid Policy: {error}"
        return
    if datetime.now(UTC) > expires_at:
        yield 403, "AccessDenied", "Invalid according to Policy: Policy expired."
    known = {name for _, name, _ in conditions}
    for name in form.keys() - known - _FREE_FIELDS - {"bucket"}:
        if not name.startswith(_FREE_PREFIX):
            yield 403, "AccessDenied", f"Invalid according to Policy: Extra input fields: {name}"
    for operator, name, value in conditions:
        if operator == "content-length-range":
            yield from _wrong_sizes(int(name), int(value), size_bytes)
        elif not _holds(operator, form.get(name, ""), value):
            condition = json.dumps([operator, f"${name}", value])
            yield 403, "AccessDenied", f"Invalid according to Policy: Policy Condition failed: {condition}"


def _condition(written: Any) -> tuple[str, str, str]:
    """Parse a condition of a policy. `{"key": "a"}` is short for `["eq", "$key", "a"]`."""
    if isinstance(written, dict):
        [(name, value)] = written.items()
        return "eq", name.lower(), value
    operator, name, value = map(str, written)
    return operator, name.removeprefix("$").lower(), value


def _holds(operator: str, given: str, value: str) -> bool:
    return given.startswith(value) if operator == "starts-with" else given == value


def _wrong_sizes(least: int, most: int, size_bytes: int) -> Iterator[tuple[int, str, str]]:
    if size_bytes < least:
        yield 400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"
    if size_bytes > most:
        yield 400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size"


def _rejection(response: Any, status: int, code: str, message: str) -> tuple[int, dict[str, str], str]:
    """Return an error response with this status. moto would use 400 for errors that are not in its model of S3."""
    _, headers, body = response.serialized(ActionResult(S3ClientError(code, message)))
    return status, headers, body


def _complete_multipart_upload(self: Any, bucket_name: str, multipart_id: str, body: Any) -> Any:
    _check_upload(self, bucket_name, multipart_id)
    return _moto_complete_multipart_upload(self, bucket_name, multipart_id, body)


def _upload_part(self: Any, bucket_name: str, multipart_id: str, part_id: int, value: bytes) -> Any:
    _check_upload(self, bucket_name, multipart_id)
    return _moto_upload_part(self, bucket_name, multipart_id, part_id, value)


def _check_upload(backend: Any, bucket_name: str, multipart_id: str) -> None:
    """Raise what AWS answers for an upload that was completed or aborted. moto would fail with a KeyError."""
    if multipart_id not in backend.get_bucket(bucket_name).multiparts:
        raise NoSuchUpload(upload_id=multipart_id)


PATCHES: tuple[tuple[object, str, object], ...] = (
    (S3Response, "_bucket_response_post", _bucket_response_post),
    (S3Backend, "complete_multipart_upload", _complete_multipart_upload),
    (S3Backend, "upload_part", _upload_part),
    (FakeKey, "__new__", staticmethod(untracked)),
)
