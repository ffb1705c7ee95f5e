"""Where the images example keeps its pictures: one contract, for a folder and for S3 with and without a prefix."""

import asyncio
import itertools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import pytest

from examples.images.storage import FolderStore, NotOffered, NotThere, S3Store, Store, TooLarge, open_store
from tests.support.aws import CREDENTIALS

KEY = "made/beach.jpg/thumbnail-64.jpg"
CONTENT = bytes(range(256))
ESCAPES = [
    "", "/", "/etc/passwd", "..", "../secret", "a/../../secret", "a/..", "a//b", "a/", "./a", ".hidden", "a/.b",
    "~root", "C:\\a", "a\\..\\b", "a b", "a\0b", "a\nb", "a\n", "é", "a?b", "a#b", "a%2fb", "a/*",
]  # fmt: skip

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    """A process of its own: the embedded AWS of other tests may live in this one."""
    command = [sys.executable, "-m", "penstock.infra.embedded", "--port", "0", "--exit-with-parent", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture
def s3_environment(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": aws_url}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["folder", "bucket", "prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Empty, and the test's own."""
    if request.param == "folder":
        return open_store(tmp_path.joinpath("not", "there yet").as_uri())
    request.getfixturevalue("s3_environment")
    bucket = f"s3://images-{secrets.token_hex(4)}"
    store = open_store(bucket if request.param == "bucket" else f"{bucket}/some/prefix")
    store.offer_upload("any", 1)  # which makes the bucket
    return store


# The contract


def test_what_is_written_is_read(store: Store) -> None:
    store.write(KEY, CONTENT, "image/jpeg")
    assert store.read(KEY, len(CONTENT)) == CONTENT


def test_the_last_writer_stays(store: Store) -> None:
    for content in (CONTENT, b"", b"newer"):
        store.write(KEY, content, "image/jpeg")
        assert store.read(KEY, 1_000) == content


def test_what_was_not_written_is_not_there(store: Store) -> None:
    store.write(KEY, CONTENT, "image/jpeg")
    for key in ("made", "made/beach.jpg", "made/other.jpg/thumbnail-64.jpg", f"{KEY}/more"):
        with pytest.raises(NotThere):
            store.read(key, 1_000)


def test_what_is_too_large_is_said_to_be_so(store: Store) -> None:
    store.write(KEY, CONTENT, "image/jpeg")
    with pytest.raises(TooLarge, match="256 bytes") as caught:
        store.read(KEY, len(CONTENT) - 1)
    assert caught.value.size_bytes == len(CONTENT)


def test_a_key_that_could_lead_elsewhere_is_refused(store: Store) -> None:
    calls: list[Callable[[str], Any]] = [
        lambda key: store.read(key, 1),
        lambda key: store.write(key, b"", "image/png"),
        lambda key: store.offer_upload(key, 1),
        store.offer_download,
    ]
    for key, call in itertools.product(ESCAPES, calls):
        with pytest.raises(ValueError, match="could leave the store"):
            call(key)


async def test_a_download_that_is_offered_can_be_had(store: Store) -> None:
    store.write(KEY, CONTENT, "image/jpeg")
    leave = store.offer_download(KEY)
    assert await download(leave.url) == (CONTENT, "image/jpeg")
    assert timedelta(minutes=50) < leave.expires_at - datetime.now(UTC) <= timedelta(hours=1)


async def download(url: str) -> tuple[bytes, str]:
    if url.startswith("file:"):
        return await asyncio.to_thread(Path(unquote(urlsplit(url).path)).read_bytes), "image/jpeg"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.read(), answer.content_type


# A folder


def test_a_write_that_fails_leaves_the_old_bytes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    store.write("a.png", CONTENT, "image/png")

    def no_space_left(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", no_space_left)
    with pytest.raises(OSError, match="No space left"):
        store.write("a.png", b"newer", "image/png")

    assert store.read("a.png", 1_000) == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_file_may_be_read_by_whom_new_files_may(tmp_path: Path) -> None:
    FolderStore(tmp_path).write("a.png", CONTENT, "image/png")
    tmp_path.joinpath("any").touch()
    assert tmp_path.joinpath("a.png").stat().st_mode == tmp_path.joinpath("any").stat().st_mode


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with tmp_path.joinpath("huge.png").open("wb") as file:
        file.truncate(1 << 42)  # four terabytes of nothing: reading it would not end
    with pytest.raises(TooLarge):
        FolderStore(tmp_path).read("huge.png", 1_000)


def test_a_folder_takes_no_uploads_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        NotOffered,
        match=f"^A folder does not support uploads. Put the file there yourself, as {tmp_path}/uploads/a.png",
    ):
        FolderStore(tmp_path).offer_upload("uploads/a.png", 1_000)


# S3


@pytest.fixture
def bucket(s3_environment: None) -> str:
    return f"images-{secrets.token_hex(4)}"


@pytest.mark.parametrize(
    ("size", "refusal"),
    [(1, None), (1_000, None), (1_001, "EntityTooLarge"), (2_000_000, "EntityTooLarge"), (0, "EntityTooSmall")],
)
async def test_s3_itself_refuses_what_is_larger_than_was_offered(bucket: str, size: int, refusal: str | None) -> None:
    """Here the embedded AWS does, which is mended to hold uploads to their policy; moto by itself takes any size."""
    store = S3Store(bucket, "")
    leave = store.offer_upload("uploads/a.png", 1_000)

    status, said = await upload(leave.url, leave.fields, b"x" * size)

    if refusal is None:
        assert status == 204
        assert store.read("uploads/a.png", 1_000) == b"x" * size
    else:
        assert (status, f"<Code>{refusal}</Code>" in said) == (400, True)
        with pytest.raises(NotThere):
            store.read("uploads/a.png", 1_000)


async def test_an_upload_goes_only_where_it_was_offered(bucket: str) -> None:
    leave = S3Store(bucket, "").offer_upload("uploads/a.png", 1_000)
    status, _ = await upload(leave.url, {**leave.fields, "key": "made/a.png/thumbnail-64.png"}, CONTENT)
    assert status == 403


async def test_an_upload_cannot_choose_a_type_that_browsers_would_run(bucket: str) -> None:
    leave = S3Store(bucket, "").offer_upload("uploads/a.png", 1_000)
    status, _ = await upload(leave.url, {**leave.fields, "Content-Type": "text/html"}, CONTENT)
    assert status == 403


async def upload(url: str, fields: Any, content: bytes) -> tuple[int, str]:
    form = aiohttp.FormData(dict(fields))
    form.add_field("file", content, filename="any.png")
    async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("region", ["us-east-1", "eu-north-1"])
def test_processes_that_start_at_once_make_one_bucket(
    bucket: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    stores = [S3Store(bucket, "") for _ in range(3)]
    for store in stores:
        store._create_bucket()  # as if each had found none
    stores[0].write("a.png", CONTENT, "image/png")
    assert stores[2].read("a.png", 1_000) == CONTENT


def test_without_a_bucket_nothing_is_there(bucket: str) -> None:
    with pytest.raises(NotThere):
        S3Store(bucket, "").read("uploads/a.png", 1_000)


def test_what_is_signed_names_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of AWS itself: the global endpoint redirects a POST, and refuses the signatures of younger regions."""
    for name, value in {**CREDENTIALS, "AWS_REGION": "eu-north-1"}.items():
        monkeypatch.setenv(name, value)
    store = S3Store("some-bucket", "prefix/")
    store._has_bucket = True
    assert store.offer_upload("a.png", 1).url == "https://some-bucket.s3.eu-north-1.amazonaws.com/"
    assert store.offer_download("a.png").url.startswith("https://some-bucket.s3.eu-north-1.amazonaws.com/prefix/a.png?")


# URLs


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://images", S3Store),
        ("s3://images/", S3Store),
        ("s3://my-images.example/some/prefix", S3Store),
        ("file:///var/images", FolderStore),
        ("file:///var/some%20images/", FolderStore),
    ],
)
def test_a_url_names_a_store(url: str, kind: type) -> None:
    assert isinstance(open_store(url), kind)


@pytest.mark.parametrize(
    "url",
    [
        "", "images", "/var/images", "s3:images", "s3://", "s3:///images", "s3://Images", "s3://a", "s3://images/../x",
        "s3://images?x=1", "file://var/images", "file:///", "file:var", "https://images.example", "s3://images/a b",
    ],
)  # fmt: skip
def test_a_url_that_names_no_store_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=r"^IMAGES_STORE_URL is .* Write"):
        open_store(url)
