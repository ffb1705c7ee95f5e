"""The port to a bucket: files that clients upload, and files that clients download. It is optional.

Every call may wait for the network and may raise Unavailable, and every call may be repeated. The adapter is
`aws/s3.py`; the bucket for tests is in `testing.py`. One contract suite (`tests/contract/test_bucket.py`) tests both.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from penstock.errors import UploadReplaced

MOST_UPLOAD_BYTES = 5 * 1024**3  # S3 accepts no larger file in one POST
PIECE_BYTES = 4 * 1024 * 1024  # of a file, in one read
LEAST_PART_BYTES = 5 * 1024 * 1024  # S3 accepts smaller parts of a file only as the last one
UPLOADS = "uploads/"  # the prefix of all files that clients upload; `infra/bucket.yaml` names it, too


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A permission to upload a file: a POST of a form with these `fields`, and the file as the last field `file`."""

    url: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the bucket, as it was when it was first seen. `etag` changes when the file is replaced."""

    key: str
    size: int
    etag: str


class Bucket(Protocol):
    async def offer_upload(self, key: str, most_bytes: int, seconds: int) -> UploadForm:
        """Return a permission to upload a file that is not empty and not larger than `most_bytes`. It makes no call."""

    async def offer_download(self, key: str, name: str, seconds: int) -> str:
        """Return a URL from which anybody can download a file. A browser saves it with this name. It makes no call."""

    async def find(self, key: str) -> StoredFile | None:
        """Return a file, or None if there is none with this key."""

    async def read(self, file: StoredFile, first: int, count: int) -> bytes:
        """Return up to `count` bytes of a file from byte `first` on. Return fewer only at its end.

        Raises UploadReplaced if the file was replaced or deleted since it was found.
        """

    async def load(self, key: str) -> bytes | None:
        """Return the whole content of a file that is small enough for memory, or None if there is none."""

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        """Write a file, and replace the one that has this key."""

    async def delete(self, key: str) -> None:
        """Delete a file. It is no error if there is none."""

    async def begin_parts(self, key: str, content_type: str) -> str:
        """Begin a file that is written in parts, and return an id for this. Nobody sees the file before its end."""

    async def write_part(self, key: str, parts_id: str, number: int, content: bytes) -> str:
        """Write a part and return its ETag. The first one has the number 1. Only the last one may be small."""

    async def finish_parts(self, key: str, parts_id: str, etags: Sequence[str]) -> None:
        """Write the file that has these parts in this order. It may be repeated if nobody else writes this key.

        Raises RejectedCall if the parts were dropped.
        """

    async def drop_parts(self, key: str, parts_id: str) -> None:
        """Delete the parts of a file that will not be finished. The bucket deletes what is forgotten after a day."""


def upload_key(tenant: str, upload_id: str) -> str:
    """Return where an upload of a tenant is. Another tenant's upload has another key, so it cannot be found."""
    return f"{UPLOADS}{quote(tenant, safe='')}/{upload_id}"


async def read_pieces(bucket: Bucket, file: StoredFile, start: int = 0) -> AsyncIterator[bytes]:
    """Yield a file from byte `start` on, in pieces of a few megabytes."""
    while start < file.size:
        piece = await bucket.read(file, start, min(PIECE_BYTES, file.size - start))
        if not piece:
            raise UploadReplaced
        start += len(piece)
        yield piece
