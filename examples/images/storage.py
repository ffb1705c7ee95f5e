"""The store for pictures: S3 or a folder, as IMAGES_STORE_URL says. Keys are the same in both: `uploads/beach.jpg`.

All calls block, so they are for handlers that run in threads and processes, not on the event loop.
"""

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CreateBucketConfigurationTypeDef

URL_VARIABLE = "IMAGES_STORE_URL"
DEFAULT_URL = "s3://penstock-images"

#: Segments that start with a letter or a digit: none is empty, hidden, `.` or `..`, and none names a drive or a user.
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

#: Validity of a permission to upload or download. If it is signed with a role's credentials, it ends with them.
LEAVE_SECONDS = 3600

HOME_REGION = {"us-east-1", "aws-global"}  # the only region that must not be named when a bucket is created in it


class NotThere(Exception):
    """There is no object with this key."""


class TooLarge(Exception):
    """The object is larger than the limit. It was not read."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"It has {size_bytes:,} bytes.")
        self.size_bytes = size_bytes


class NotOffered(Exception):
    """This store does not support uploads by clients."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A permission to call `url` until it expires. An upload is a POST of a form with these `fields`."""

    url: str
    expires_at: datetime
    fields: Mapping[str, str]


class Store(Protocol):
    """A store for pictures. Each call may be repeated. A key that could leave the store raises ValueError."""

    def read(self, key: str, max_bytes: int) -> bytes:
        """Return the content of an object. Raises NotThere, or TooLarge before anything is read."""

    def write(self, key: str, content: bytes, content_type: str) -> None:
        """Write an object atomically: readers get the old bytes or the new ones. The last writer wins."""

    def offer_upload(self, key: str, max_bytes: int) -> Leave:
        """Return a permission to upload an object. Raises NotOffered."""

    def offer_download(self, key: str) -> Leave:
        """Return a permission to download an object. It does not check that the object exists."""


def store_url() -> str:
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL


def open_store(url: str) -> Store:
    """Return the store that a URL names, without connecting to it. Raises ValueError if the URL is invalid."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.query or parts.fragment:
        raise ValueError(f"{URL_VARIABLE} is {url!r}. Write it without ? and #.")
    if parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc) and (not prefix or KEY.fullmatch(prefix)):
        return S3Store(parts.netloc, f"{prefix}/" if prefix else "")
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and prefix:
        return FolderStore(Path(unquote(parts.path)))
    raise ValueError(f"{URL_VARIABLE} is {url!r}. Write s3://bucket, s3://bucket/prefix or file:///folder.")


def checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a valid key: it could leave the store.")
    return key


def expiry() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=LEAVE_SECONDS)


class FolderStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str, max_bytes: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes > max_bytes:
                    raise TooLarge(size_bytes)
                return file.read(max_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotThere(key) from error

    def write(self, key: str, content: bytes, content_type: str) -> None:  # noqa: ARG002 - files have no type
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{secrets.token_hex(8)}")  # cannot collide with a key, since keys have no leading dot
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:  # a process that is killed before this leaves only the draft file
            draft.unlink(missing_ok=True)

    def offer_upload(self, key: str, max_bytes: int) -> Leave:  # noqa: ARG002 - a folder has no limit
        raise NotOffered(f"A folder does not support uploads. Put the file there yourself, as {self._path(key)}.")

    def offer_download(self, key: str) -> Leave:
        return Leave(self._path(key).absolute().as_uri(), expiry(), {})

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)


class S3Store:
    """A store in an S3 bucket, configured by the AWS variables. The first offered upload creates a missing bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix

    def read(self, key: str, max_bytes: int) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchBucket"}:
                raise NotThere(key) from error
            raise
        with closing(answer["Body"]) as body:  # only the headers have been received so far
            if answer["ContentLength"] > max_bytes:
                raise TooLarge(answer["ContentLength"])
            return body.read()

    def write(self, key: str, content: bytes, content_type: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, ContentType=content_type)

    def offer_upload(self, key: str, max_bytes: int) -> Leave:
        """Return a presigned POST, since S3 enforces its policy. A presigned PUT cannot limit the size."""
        self._make_bucket()
        expires_at = expiry()
        offer = self._client.generate_presigned_post(
            self._bucket,
            self._key(key),
            Conditions=[["content-length-range", 1, max_bytes]],
            ExpiresIn=LEAVE_SECONDS,
        )
        return Leave(offer["url"], expires_at, offer["fields"])

    def offer_download(self, key: str) -> Leave:
        expires_at = expiry()
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        url = self._client.generate_presigned_url("get_object", Params=where, ExpiresIn=LEAVE_SECONDS)
        return Leave(url, expires_at, {})

    def _key(self, key: str) -> str:
        return self._prefix + checked(key)

    @cached_property
    def _client(self) -> "S3Client":
        """Return the client of this process. It is created at the first use, which takes longer than most calls.

        It has its own session, since boto3's default session must not be used by two threads at once. If two threads
        come here at the same time, each may create a client, and one of the two is discarded.
        """
        return boto3.session.Session().client(
            "s3",
            region_name=os.environ.get("AWS_REGION"),
            config=Config(
                signature_version="s3v4",  # newer regions accept no other, and boto3 would presign with an older one
                s3={"addressing_style": "virtual"},  # otherwise presigned URLs name the global endpoint
                connect_timeout=5,
                read_timeout=15,  # three attempts fit into the timeout of a handler
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )

    def _make_bucket(self) -> None:
        """Create the bucket if it is missing, once per process. Without permission to check, the first upload fails."""
        if self._has_bucket:
            return
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                self._create_bucket()
        self._has_bucket = True

    _has_bucket = False

    def _create_bucket(self) -> None:
        region = self._client.meta.region_name
        try:
            if region in HOME_REGION:
                self._client.create_bucket(Bucket=self._bucket)
            else:
                where = cast("CreateBucketConfigurationTypeDef", {"LocationConstraint": region})
                self._client.create_bucket(Bucket=self._bucket, CreateBucketConfiguration=where)
        except self._client.exceptions.BucketAlreadyOwnedByYou:
            return  # another process was faster
