"""The contract of every bucket: the one in memory, and the S3 adapter on the embedded AWS."""

import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from penstock.aws.backend import open_backend
from penstock.bucket import LEAST_PART_BYTES, Bucket, StoredFile, read_pieces, upload_key
from penstock.errors import Misconfigured, RejectedCall, UploadReplaced
from penstock.infra.provision import provision
from penstock.settings import Settings
from penstock.testing import MemoryBucket
from tests.conftest import MakeSettings
from tests.support.aws import Aws

pytestmark = pytest.mark.asyncio(loop_scope="module")

on_all = pytest.mark.parametrize("aws", ["memory", "embedded"], indirect=True)
on_s3 = pytest.mark.parametrize("aws", ["embedded"], indirect=True)

CONTENT = bytes(range(256)) * 4
KEY = upload_key("acme/one", "01ARZ3NDEKTSV4RRFFQ69G5FAV")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bucket(aws: Aws, environment: None) -> AsyncIterator[Bucket]:
    if aws.kind == "memory":
        yield MemoryBucket()
        return
    settings = Settings(name=f"bucket-{secrets.token_hex(4)}", bucket=f"bucket-{secrets.token_hex(4)}")
    lines = provision(settings)
    assert f"bucket {settings.bucket}" in lines
    assert provision(settings) == lines
    async with open_backend(settings) as backend:
        yield backend.require_bucket()


async def written(bucket: Bucket, content: bytes = CONTENT) -> StoredFile:
    await bucket.write(KEY, content, "text/csv")
    file = await bucket.find(KEY)
    assert file is not None
    return file


@on_all
async def test_a_file_is_found_with_its_size(bucket: Bucket) -> None:
    assert (await written(bucket)).size == len(CONTENT)
    assert await bucket.find(f"{KEY}-other") is None


@on_all
@pytest.mark.parametrize(
    ("first", "count", "content"), [(0, 1024, CONTENT), (10, 1, CONTENT[10:11]), (1000, 4096, CONTENT[1000:])]
)
async def test_a_part_of_a_file_is_read(bucket: Bucket, first: int, count: int, content: bytes) -> None:
    assert await bucket.read(await written(bucket), first, count) == content


@on_all
async def test_a_small_file_is_read_at_once(bucket: Bucket) -> None:
    await written(bucket)
    assert await bucket.load(KEY) == CONTENT
    assert await bucket.load(f"{KEY}-other") is None


@on_all
async def test_a_file_is_read_in_pieces_from_any_byte(bucket: Bucket) -> None:
    pieces = [piece async for piece in read_pieces(bucket, await written(bucket), 1000)]

    assert b"".join(pieces) == CONTENT[1000:]


@on_all
async def test_a_deleted_file_is_not_found(bucket: Bucket) -> None:
    file = await written(bucket)
    for _ in range(2):  # repeated, because the first answer may have been lost
        await bucket.delete(KEY)

    assert await bucket.find(KEY) is None
    with pytest.raises(UploadReplaced):
        await bucket.read(file, 0, 1)


@on_all
async def test_a_file_that_was_replaced_is_not_read(bucket: Bucket) -> None:
    file = await written(bucket)
    await written(bucket, b"another content")

    with pytest.raises(UploadReplaced):
        await bucket.read(file, 0, 1)


@on_all
async def test_a_file_that_was_deleted_is_not_read(bucket: Bucket) -> None:
    with pytest.raises(UploadReplaced):
        await bucket.read(StoredFile("uploads/none", 1, '"0"'), 0, 1)


PARTS = [b"a" * LEAST_PART_BYTES, b"end"]


async def begun(bucket: Bucket, key: str) -> tuple[str, list[str]]:
    """Begin a file, write its parts, and return the ids of all that."""
    parts_id = await bucket.begin_parts(key, "text/csv")
    return parts_id, [await bucket.write_part(key, parts_id, number, part) for number, part in enumerate(PARTS, 1)]


@on_all
async def test_a_file_of_parts_appears_as_a_whole_when_it_is_finished(bucket: Bucket) -> None:
    key = f"{KEY}-parts"
    parts_id, etags = await begun(bucket, key)
    assert await bucket.find(key) is None

    await bucket.finish_parts(key, parts_id, etags)
    await bucket.finish_parts(key, parts_id, etags)

    file = await bucket.find(key)
    assert file is not None
    assert b"".join([piece async for piece in read_pieces(bucket, file)]) == b"".join(PARTS)


@on_all
async def test_parts_that_were_dropped_make_no_file(bucket: Bucket) -> None:
    key = f"{KEY}-dropped"
    parts_id, etags = await begun(bucket, key)

    await bucket.drop_parts(key, parts_id)
    await bucket.drop_parts(key, parts_id)

    with pytest.raises(RejectedCall):
        await bucket.finish_parts(key, parts_id, etags)


@on_s3
@pytest.mark.parametrize(("size", "status"), [(0, 400), (1024, 204), (1025, 400)])
async def test_a_client_can_upload_a_file_that_is_not_too_large(bucket: Bucket, size: int, status: int) -> None:
    key = f"{KEY}-{size}"
    form = await bucket.offer_upload(key, 1024, 60)

    body = aiohttp.FormData(form.fields)
    body.add_field("file", b"x" * size, filename="any.csv")
    async with aiohttp.ClientSession() as session, session.post(form.url, data=body) as answer:
        assert answer.status == status

    file = await bucket.find(key)
    assert (None if file is None else file.size) == (size if status == 204 else None)


@on_s3
async def test_anybody_can_download_a_file_from_its_url(bucket: Bucket) -> None:
    await written(bucket)
    url = await bucket.offer_download(KEY, "results.csv", 60)

    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.read() == CONTENT
        assert answer.headers["Content-Disposition"] == 'attachment; filename="results.csv"'


@on_s3
async def test_a_bucket_that_does_not_exist_is_named(make_settings: MakeSettings) -> None:
    settings = make_settings()
    provision(settings)
    async with open_backend(settings.model_copy(update={"bucket": "nowhere"})) as backend:
        for asked in (backend.require_bucket().write("a", b"", "text/csv"), backend.require_bucket().find("a")):
            with pytest.raises(Misconfigured, match="PENSTOCK_BUCKET is 'nowhere'"):
                await asked
