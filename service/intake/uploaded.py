"""Reads an uploaded file as if it were the body of the request."""

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import web
from multidict import MultiDict, MultiMapping

from penstock.bucket import PIECE_BYTES, Bucket, StoredFile, read_pieces, upload_key
from penstock.errors import LimitPassed, MalformedRequest, UnknownUpload
from penstock.service.caller import tenant_of
from penstock.service.content import COPIES, READ_BYTES, read_content
from penstock.service.keys import BACKEND, SETTINGS, SHARE, TURNS
from penstock.service.paging import read_once

UPLOAD = "upload"  # the parameter of the query
UPLOADED = web.RequestKey("uploaded", StoredFile)
_UPLOAD_ID = re.compile(r"[0-9A-Z]{26}")


def without_upload(query: MultiMapping[str]) -> MultiMapping[str]:
    """Return a query without the name of an upload, which is no option of the batch."""
    return MultiDict((name, value) for name, value in query.items() if name != UPLOAD)


async def find_upload(request: web.Request) -> StoredFile | None:
    """Return the file that the query of a request names. Return None if it names none.

    Raises UnknownUpload if the tenant has no such file, and NotConfigured if there is no bucket.
    """
    if UPLOADED in request:
        return request[UPLOADED]
    upload_id = read_once(request, UPLOAD)
    if upload_id is None:
        return None
    bucket = request.app[BACKEND].require_bucket()
    if request.can_read_body and await read_content(request, READ_BYTES):
        raise MalformedRequest("The query names an upload, so the request must have no body.")
    file = await bucket.find(upload_key(tenant_of(request), upload_id)) if _UPLOAD_ID.fullmatch(upload_id) else None
    if file is None:
        raise UnknownUpload
    request[UPLOADED] = file
    return file


async def open_upload(request: web.Request) -> "UploadBody | None":
    """Return the file that the query of a request names as its body. Return None if it names none."""
    file = await find_upload(request)
    if file is None:
        return None
    check_size(file, request.app[SETTINGS].max_stream_bytes)
    return UploadBody(request, request.app[BACKEND].require_bucket(), file)


def check_size(file: StoredFile, most: int) -> None:
    """Raise LimitPassed if a file has more than `most` bytes."""
    if file.size > most:
        raise LimitPassed(f"The file has {file.size:,} bytes. The limit is {most:,} bytes.", limit={"maxBytes": most})


class UploadBody:
    """An uploaded file, with what readers of a body use of `RequestBody`."""

    def __init__(self, request: web.Request, bucket: Bucket, file: StoredFile) -> None:
        self.decompressed_bytes = 0
        self._bucket = bucket
        self._file = file
        self._is_validated_later = file.size > request.app[SETTINGS].background_upload_bytes
        self._share = request[SHARE]
        self._turns = request.app[TURNS]
        self._most_kept = request.app[SETTINGS].max_body_bytes  # a larger file is not kept in memory

    @property
    def is_validated_later(self) -> bool:
        """Return True if a consumer validates the file, unless it is only checked."""
        return self._is_validated_later

    @property
    def received_bytes(self) -> int:
        return self.decompressed_bytes

    @property
    def share(self) -> float:
        """The share of the file that was read before the current piece."""
        return self.decompressed_bytes / self._file.size

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file in small pieces. Raises UploadReplaced if it is replaced meanwhile."""
        self._share.grow_to(PIECE_BYTES)
        async for read in read_pieces(self._bucket, self._file):
            for start in range(0, len(read), READ_BYTES):
                piece = read[start : start + READ_BYTES]
                self._share.grow_to(PIECE_BYTES + COPIES * min(self.decompressed_bytes + len(piece), self._most_kept))
                yield piece
                self.decompressed_bytes += len(piece)
                await self._let_others_run()

    async def _let_others_run(self) -> None:
        if self.decompressed_bytes > READ_BYTES:
            await self._turns.next()
        else:
            await asyncio.sleep(0)
