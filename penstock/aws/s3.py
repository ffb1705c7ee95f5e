"""The bucket port on S3."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from penstock.aws.clients import error_code, explained
from penstock.bucket import StoredFile, UploadForm
from penstock.errors import Misconfigured, RejectedCall, UploadReplaced

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedMultipartUploadTypeDef

_MISSING = {"404", "NoSuchKey", "NotFound"}  # a HEAD has no body, so its error has only the status
_NO_PARTS = {"NoSuchUpload", "404", "NotFound"}
_REPLACED = {*_MISSING, "412", "PreconditionFailed"}


class S3Bucket:
    def __init__(self, client: "S3Client", name: str) -> None:
        self._client = client
        self._name = name

    async def offer_upload(self, key: str, most_bytes: int, seconds: int) -> UploadForm:
        """Return a presigned POST, because S3 keeps to its policy. A presigned PUT could not limit the size."""
        conditions = [["content-length-range", 1, most_bytes]]
        with self._explained():
            offer = await self._client.generate_presigned_post(
                self._name, key, Conditions=conditions, ExpiresIn=seconds
            )
        return UploadForm(offer["url"], offer["fields"])

    async def offer_download(self, key: str, name: str, seconds: int) -> str:
        saved_as = f'attachment; filename="{name}"'
        where = {"Bucket": self._name, "Key": key, "ResponseContentDisposition": saved_as}
        with self._explained():
            return await self._client.generate_presigned_url("get_object", Params=where, ExpiresIn=seconds)

    async def find(self, key: str) -> StoredFile | None:
        try:
            with self._explained(_MISSING):
                found = await self._client.head_object(Bucket=self._name, Key=key)
        except ClientError:
            await self._check_bucket()
            return None
        return StoredFile(key, found["ContentLength"], found["ETag"])

    async def _check_bucket(self) -> None:
        """Raise Misconfigured if there is no bucket. A HEAD of a file in it has the same error as one of no file."""
        try:
            with self._explained(_MISSING):
                await self._client.head_bucket(Bucket=self._name)
        except ClientError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> Misconfigured:
        return Misconfigured(f"PENSTOCK_BUCKET is {self._name!r}, and there is no such bucket.")

    async def read(self, file: StoredFile, first: int, count: int) -> bytes:
        wanted = f"bytes={first}-{first + count - 1}"
        try:
            with self._explained(_REPLACED):
                answer = await self._client.get_object(Bucket=self._name, Key=file.key, Range=wanted, IfMatch=file.etag)
                async with answer["Body"] as body:
                    content: bytes = await body.read()
                return content
        except ClientError as error:
            raise UploadReplaced from error

    async def load(self, key: str) -> bytes | None:
        try:
            with self._explained(_MISSING):
                answer = await self._client.get_object(Bucket=self._name, Key=key)
                async with answer["Body"] as body:
                    content: bytes = await body.read()
                return content
        except ClientError:
            return None

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        with self._explained():
            await self._client.put_object(Bucket=self._name, Key=key, Body=content, ContentType=content_type)

    async def delete(self, key: str) -> None:
        with self._explained():
            await self._client.delete_object(Bucket=self._name, Key=key)

    async def begin_parts(self, key: str, content_type: str) -> str:
        with self._explained():
            begun = await self._client.create_multipart_upload(Bucket=self._name, Key=key, ContentType=content_type)
        return begun["UploadId"]

    async def write_part(self, key: str, parts_id: str, number: int, content: bytes) -> str:
        with self._explained():
            written = await self._client.upload_part(
                Bucket=self._name, Key=key, UploadId=parts_id, PartNumber=number, Body=content
            )
        return written["ETag"]

    async def finish_parts(self, key: str, parts_id: str, etags: Sequence[str]) -> None:
        """S3 does not know the parts any more once they are a file, so a repeated call looks for the file."""
        parts: CompletedMultipartUploadTypeDef = {
            "Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        }
        try:
            with self._explained(_NO_PARTS):
                await self._client.complete_multipart_upload(
                    Bucket=self._name, Key=key, UploadId=parts_id, MultipartUpload=parts
                )
        except ClientError as error:
            if await self.find(key) is None:
                raise RejectedCall(f"The parts of {key} were dropped before they became a file.") from error

    async def drop_parts(self, key: str, parts_id: str) -> None:
        with suppress(ClientError), self._explained(_NO_PARTS):
            await self._client.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=parts_id)

    @contextmanager
    def _explained(self, expected: frozenset[str] | set[str] = frozenset()) -> Iterator[None]:
        """Raise AWS's exceptions as ours, except for the codes that the caller expects."""
        known: ClientError | None = None
        with explained():
            try:
                yield
            except ClientError as error:
                if error_code(error) == "NoSuchBucket":
                    raise self._no_bucket() from error
                if error_code(error) not in expected:
                    raise
                known = error
        if known is not None:
            raise known
