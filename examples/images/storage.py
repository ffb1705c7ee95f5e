"""Where pictures lie: S3, or a folder, as IMAGES_STORE_URL says. Keys look alike in both: `uploads/beach.jpg`.

Everything here blocks: it is for handlers that run in threads and processes, not on the event loop.
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

#: Steps that begin with a letter or a digit: none is empty, hidden, `.` or `..`, and none names a drive or a user.
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

#: How long an upload or a download that was offered may wait. What is signed with a role's credentials ends with them,
#: if that is sooner.
LEAVE_SECONDS = 3600

HOME_REGION = {"us-east-1", "aws-global"}  # the one region that must not be named when a bucket is made in it


class NotThere(Exception):
    """Nothing lies under this key."""


class TooLarge(Exception):
    """It has more bytes than asked for; it was not read."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"It has {size_bytes:,} bytes.")
        self.size_bytes = size_bytes


class NotOffered(Exception):
    """This store cannot let clients in by themselves."""


@dataclass(frozen=True, slots=True)
class Leave:
    """To call `url` once or more, until it expires; an upload is a POST of a form with these `fields`."""

    url: str
    expires_at: datetime
    fields: Mapping[str, str]


class Store(Protocol):
    """Each call may be repeated. A key that could lead elsewhere is a ValueError, and the store is not touched."""

    def read(self, key: str, max_bytes: int) -> bytes:
        """Raises NotThere, and TooLarge before anything is read."""

    def write(self, key: str, content: bytes, content_type: str) -> None:
        """Whole or not at all: who reads meanwhile gets the old bytes or the new ones. The last writer stays."""

    def offer_upload(self, key: str, max_bytes: int) -> Leave:
        """Raises NotOffered."""

    def offer_download(self, key: str) -> Leave:
        """Whether anything lies there is not looked at."""


def store_url() -> str:
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL


def open_store(url: str) -> Store:
    """Touches nothing yet. Raises ValueError for a URL that names no store."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.query or parts.fragment:
        raise ValueError(f"Write {URL_VARIABLE} without ? and #, not {url!r}.")
    if parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc) and (not prefix or KEY.fullmatch(prefix)):
        return S3Store(parts.netloc, f"{prefix}/" if prefix else "")
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and prefix:
        return FolderStore(Path(unquote(parts.path)))
    raise ValueError(f"Write {URL_VARIABLE} as s3://bucket, s3://bucket/prefix or file:///folder, not {url!r}.")


def checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key: it could lead out of the store.")
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
        draft = path.with_name(f".{secrets.token_hex(8)}")  # no key is ever its name, since keys have no leading dots
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:  # whoever is killed before this leaves a draft, and nothing else
            draft.unlink(missing_ok=True)

    def offer_upload(self, key: str, max_bytes: int) -> Leave:  # noqa: ARG002 - nothing to be limited
        raise NotOffered(f"Put the file there yourself, as {self._path(key)}: a folder takes no uploads.")

    def offer_download(self, key: str) -> Leave:
        return Leave(self._path(key).absolute().as_uri(), expiry(), {})

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)


class S3Store:
    """Talks to what the AWS variables name. A missing bucket is made when the first upload is offered."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix

    def read(self, key: str, max_bytes: int) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchBucket"}:
                raise NotThere(key) from error
            raise
        with closing(answer["Body"]) as body:  # the headers are here, the bytes have yet to be asked for
            if answer["ContentLength"] > max_bytes:
                raise TooLarge(answer["ContentLength"])
            return body.read()

    def write(self, key: str, content: bytes, content_type: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, ContentType=content_type)

    def offer_upload(self, key: str, max_bytes: int) -> Leave:
        """A POST, since S3 holds its policy against what comes: a presigned PUT cannot say "at most so many bytes"."""
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
        """One for each process, made when it is first wanted: that takes longer than most calls.

        From a session of its own, since the one that boto3 shares must not be used by two threads at once. Of two
        threads that come here together each may make a client; one of them is thrown away.
        """
        return boto3.session.Session().client(
            "s3",
            region_name=os.environ.get("AWS_REGION"),
            config=Config(
                signature_version="s3v4",  # regions younger than 2014 take no other, and boto3 would presign with one
                s3={"addressing_style": "virtual"},  # or presigned URLs name the global endpoint, not the region's
                connect_timeout=5,
                read_timeout=15,  # three attempts fit into what a handler may take
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )

    def _make_bucket(self) -> None:
        """Once for each process, where the account lets us look: who may not look is told so by the first upload."""
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
