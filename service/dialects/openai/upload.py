"""POST /v1/files: keeps an input file as it comes, and as operations, and checks each of its lines meanwhile.

The answer is 200 even if lines are invalid: its status is `error` then, with details. Nothing is kept of an upload that
does not arrive whole. The file is in the catalog after its contents are in the bucket.
"""

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus

from aiohttp import web
from ulid import PureRandomPolicy, ULIDGenerator

from penstock.bucket import Bucket
from penstock.errors import LimitPassed
from penstock.file_writer import PART_BYTES, FileWriter
from penstock.service.audit import Action, auditing
from penstock.service.caller import tenant_of
from penstock.service.content import COPIES, NDJSON, READ_BYTES, within
from penstock.service.dialects.openai.checking import Checking
from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.dialects.openai.form import Part, read_form
from penstock.service.dialects.openai.input_file import LONGEST_NAME, PURPOSE, InputFile, content_key, operations_key
from penstock.service.intake.reading import STREAM_SECONDS
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS, SHARE
from penstock.service.uploads import most_upload_bytes

SHORTEST_EXPIRY_SECONDS = 3_600  # as OpenAI limits it
LONGEST_EXPIRY_SECONDS = 30 * 24 * 3_600

_FILE = "file"
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)
_WRITERS = 2  # each with a part in memory, and a copy of it while it is sent
_FILE_IDS = ULIDGenerator(policy=PureRandomPolicy())


async def create_file(request: web.Request) -> web.Response:
    bucket, file_id = require_bucket(request), f"file-{_FILE_IDS.generate()}"
    with Checking(request.app) as checking:
        upload = Upload(request, checking, file_id)
        async with within(STREAM_SECONDS):
            await upload.receive(bucket)
        file = upload.described(request)
    with auditing(request, Action.CREATE_UPLOAD, upload_id=file_id):
        await request.app[BACKEND].store.write_entry(file.entry())
    return json_answer(file.body())


def require_bucket(request: web.Request) -> Bucket:
    """Return the bucket. Raises an error as OpenAI writes it if there is none."""
    bucket = request.app[BACKEND].bucket
    if bucket is None:
        raise OpenAIError(
            "Files are not available here, because they need a bucket. An operator has to set PENSTOCK_BUCKET to the "
            "name of an S3 bucket, for all front ends and consumers.",
            code="not_configured",
            status=HTTPStatus.NOT_IMPLEMENTED,
        )
    return bucket


def check_fields(fields: Mapping[str, str]) -> None:
    """Raise an error if a field that has arrived is wrong. The file may still be on its way."""
    if (purpose := fields.get("purpose", PURPOSE)) != PURPOSE:
        raise OpenAIError(
            f"The purpose '{purpose}' is not offered here. Use '{PURPOSE}'.", param="purpose", code="invalid_value"
        )
    if fields.get(_ANCHOR, "created_at") != "created_at":
        raise OpenAIError("The anchor must be 'created_at'.", param=_ANCHOR, code="invalid_value")
    seconds = fields.get(_SECONDS, str(SHORTEST_EXPIRY_SECONDS))
    is_number = seconds.isascii() and seconds.isdecimal() and len(seconds) <= len(str(LONGEST_EXPIRY_SECONDS))
    if not is_number or not SHORTEST_EXPIRY_SECONDS <= int(seconds) <= LONGEST_EXPIRY_SECONDS:
        raise OpenAIError(
            f"'{_SECONDS}' must be a number from {SHORTEST_EXPIRY_SECONDS:,} to {LONGEST_EXPIRY_SECONDS:,}.",
            param=_SECONDS,
            code="invalid_value",
        )


class Upload:
    """An upload while its form arrives."""

    def __init__(self, request: web.Request, checking: Checking, file_id: str) -> None:
        self._request = request
        self._checking = checking
        self._file_id = file_id
        self._tenant = tenant_of(request)
        self._most_bytes = most_upload_bytes(request.app[SETTINGS])
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._size: int | None = None

    async def receive(self, bucket: Bucket) -> None:
        """Read the form, and write the file. Nothing appears in the bucket if the form is wrong or breaks off.

        Without the operations of all its lines, the file is only kept as it came.
        """
        content_place = content_key(self._tenant, self._file_id)
        operations_place = operations_key(self._tenant, self._file_id)
        async with FileWriter(bucket, content_place, "application/octet-stream") as content:
            with suppress(_InvalidLinesError):
                async with FileWriter(bucket, operations_place, NDJSON) as operations:
                    await self._read(content, operations)
                    if self._checking.error_count:
                        raise _InvalidLinesError

    async def _read(self, content: FileWriter, operations: FileWriter) -> None:
        async for part in read_form(self._request):
            if part.name == _FILE and self._size is None:
                self._filename = part.filename
                await self._read_file(part, content, operations)
                self._size = content.size
            elif part.name in _FIELDS and part.name not in self._fields:
                self._fields[part.name] = await part.text()
                check_fields(self._fields)
            else:
                message = f"The form has the field '{part.name[:LONGEST_NAME]}', which is unknown here, or twice."
                raise OpenAIError(message, param=part.name[:LONGEST_NAME], code="unknown_parameter")
        for name, given in (("purpose", self._fields.get("purpose")), (_FILE, self._size)):
            if given is None:
                message = f"Missing required parameter: '{name}'."
                raise OpenAIError(message, param=name, code="missing_required_parameter")
        for name, other in ((_ANCHOR, _SECONDS), (_SECONDS, _ANCHOR)):
            if name not in self._fields and other in self._fields:
                message = f"Missing required parameter: '{name}'."
                raise OpenAIError(message, param=name, code="missing_required_parameter")

    async def _read_file(self, part: Part, content: FileWriter, operations: FileWriter) -> None:
        share = self._request[SHARE]
        async for piece in part.pieces():
            await content.write(piece)
            if content.size > self._most_bytes:
                limit = {"maxBytes": self._most_bytes}
                raise LimitPassed(f"The file is larger than {self._most_bytes:,} bytes.", limit=limit)
            share.grow_to(COPIES * READ_BYTES + 2 * _WRITERS * min(content.size, PART_BYTES))
            await operations.write(await self._checking.feed(piece))
        await operations.write(await self._checking.end())

    def described(self, request: web.Request) -> InputFile:
        """Return the file that arrived."""
        now, checking = request.app[CLOCK].now(), self._checking
        longest = request.app[SETTINGS].retention_seconds
        return InputFile(
            self._file_id,
            self._tenant,
            _readable(self._filename),
            self._size or 0,
            created_at=now,
            expires_at=now + min(float(self._fields.get(_SECONDS, LONGEST_EXPIRY_SECONDS)), longest),
            total=checking.total,
            urls=checking.urls,
            model=checking.model,
            errors=tuple(checking.errors),
            error_count=checking.error_count,
        )


class _InvalidLinesError(Exception):
    """The file has invalid lines, so no batch is made of it."""


def _readable(filename: str | None) -> str:
    """Return the name of a file as text. Bytes that are not UTF-8 arrive as lone surrogates."""
    return (filename or _FILE).encode("utf-8", "replace").decode()[:LONGEST_NAME]
