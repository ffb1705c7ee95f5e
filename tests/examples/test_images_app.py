"""The images example: its operations on a folder of pictures, and the program that puts samples through Penstock."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from examples.images import __main__ as program
from examples.images import app, draw, pictures
from examples.images.schemas import Conversion, Filter, Key, Made, NewDownload, NewUpload, Thumbnail
from examples.images.storage import FolderStore
from penstock import Reject
from penstock.route import InvalidOperation
from tests.support.programs import free_port

EVERY_OPERATION: list[tuple[str, dict[str, Any]]] = [
    *(("thumbnail", {"size": size}) for size in range(16, 1025)),
    *(("filter", {"kind": kind}) for kind in pictures.FILTERS),
    *(("convert", {"format": to}) for to in ("jpeg", "png", "webp")),
    *(("convert", {"format": to, "quality": quality}) for to in ("jpeg", "webp") for quality in range(1, 96)),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of this test: the samples, uploaded."""
    monkeypatch.setattr(app, "store", FolderStore(tmp_path))
    tmp_path.joinpath("uploads").mkdir()
    for sample in draw.FOLDER.iterdir():
        tmp_path.joinpath("uploads", sample.name).write_bytes(sample.read_bytes())
    return tmp_path


def perform(path: str, body: dict[str, Any]) -> Made:
    """As a worker does it: the handler is given what its path and body come to."""
    route = app.operations.match("POST", path)
    made: Made = route.handler(**route.arguments(path, body))
    return made


def flaws(path: str, body: Any) -> list[str]:
    try:
        app.operations.match("POST", path).arguments(path, body)
    except InvalidOperation as error:
        return [flaw.pointer for flaw in error.flaws]
    return []


# What the handlers do


@pytest.mark.parametrize(
    ("path", "body", "expected", "transform"),
    [
        (
            "/images/phone.jpg/thumbnail",
            {"size": 64},
            Made(key="made/phone.jpg/thumbnail-64.jpg", format="jpeg", width=43, height=64, size_bytes=0),
            lambda content: pictures.thumbnail(content, 64),
        ),
        (
            "/images/badge.gif/filter",
            {"kind": "blur"},
            Made(key="made/badge.gif/filter-blur.png", format="png", width=128, height=128, size_bytes=0),
            lambda content: pictures.filtered(content, "blur"),
        ),
        (
            "/images/badge.png/convert",
            {"format": "webp", "quality": 50},
            Made(key="made/badge.png/convert-q50.webp", format="webp", width=256, height=256, size_bytes=0),
            lambda content: pictures.converted(content, "webp", 50),
        ),
    ],
)
def test_a_picture_is_made_and_stored_where_the_result_says(
    folder: Path, path: str, body: dict[str, Any], expected: Made, transform: Callable[[bytes], pictures.Picture]
) -> None:
    made = perform(path, body)

    stored = folder.joinpath(made.key).read_bytes()
    assert stored == transform(folder.joinpath("uploads", path.split("/")[2]).read_bytes()).content
    assert made == expected.model_copy(update={"size_bytes": len(stored)})


def test_an_operation_run_again_writes_the_same_bytes_to_the_same_place(folder: Path) -> None:
    first = perform("/images/shore.jpg/filter", {"kind": "sharpen"})
    files = contents(folder)
    assert perform("/images/shore.jpg/filter", {"kind": "sharpen"}) == first
    assert contents(folder) == files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_no_two_operations_write_to_the_same_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any write where it could not be downloaded from. What the pictures are is of no matter here."""
    dot = pictures.converted(draw.FOLDER.joinpath("dot.png").read_bytes(), "png")
    for name in ("thumbnail", "filtered"):
        monkeypatch.setattr(pictures, name, lambda *_: dot)
    monkeypatch.setattr(pictures, "converted", lambda _content, to, _quality: pictures.Picture(dot.content, to, 1, 1))

    keys = [perform(f"/images/dot.png/{how}", body).key for how, body in EVERY_OPERATION]

    assert len(set(keys)) == len(keys)
    for key in keys:
        assert TypeAdapter(Key).validate_python(key) == key


@pytest.mark.parametrize(("name", "status"), program.REJECTED.items())
@pytest.mark.parametrize(
    ("how", "body"), [("thumbnail", {"size": 64}), ("filter", {"kind": "blur"}), ("convert", {"format": "png"})]
)
def test_what_is_not_taken_is_rejected_and_leaves_nothing(
    folder: Path, name: str, status: int, how: str, body: dict[str, Any]
) -> None:
    with pytest.raises(Reject) as caught:
        perform(f"/images/{name}/{how}", body)
    assert caught.value.status == status
    assert not folder.joinpath("made").exists()


def test_a_picture_of_too_many_bytes_is_rejected_unread(folder: Path) -> None:
    with folder.joinpath("uploads", "heavy.jpg").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(Reject, match=r"^Send at most 10,000,000 bytes: heavy.jpg has 4,398,046,511,104\.$") as caught:
        perform("/images/heavy.jpg/thumbnail", {"size": 64})
    assert caught.value.status == 413


def test_a_folder_offers_downloads_and_no_uploads(folder: Path) -> None:
    made = perform("/images/shore.jpg/thumbnail", {"size": 64})
    assert app.offer_download(NewDownload(key=made.key)).url == folder.joinpath(made.key).as_uri()
    with pytest.raises(Reject, match=r"^A folder does not support uploads") as caught:
        app.offer_upload(NewUpload(name="mine.jpg"))
    assert caught.value.status == 501


# What is refused before anything runs


@pytest.mark.parametrize(
    ("path", "body", "pointers"),
    [
        ("/images/a.jpg/thumbnail", {"size": 16}, []),
        ("/images/a.jpg/thumbnail", {"size": 1024}, []),
        ("/images/a.jpg/thumbnail", {"size": 15}, ["/body/size"]),
        ("/images/a.jpg/thumbnail", {"size": 1025}, ["/body/size"]),
        ("/images/a.jpg/thumbnail", {}, ["/body/size"]),
        ("/images/a.jpg/thumbnail", {"size": 64, "key": "made/b"}, ["/body/key"]),
        ("/images/a.jpg/filter", {"kind": "posterize"}, ["/body/kind"]),
        ("/images/a.jpg/convert", {"format": "gif"}, ["/body/format"]),
        ("/images/a.jpg/convert", {"format": "jpeg", "quality": 96}, ["/body/quality"]),
        ("/images/a.jpg/convert", {"format": "png", "quality": 90}, ["/body"]),
        ("/uploads", {"name": "a.jpg"}, []),
        ("/uploads", {"name": "../a.jpg"}, ["/body/name"]),
        ("/uploads", {"name": "a/b.jpg"}, ["/body/name"]),
        ("/uploads", {"name": ".a"}, ["/body/name"]),
        ("/uploads", {"name": "a.jpg\n"}, ["/body/name"]),
        ("/uploads", {"name": ""}, ["/body/name"]),
        ("/uploads", {"name": "a" * 101}, ["/body/name"]),
        ("/downloads", {"key": "made/a.jpg/thumbnail-64.jpg"}, []),
        ("/downloads", {"key": "uploads/a.jpg"}, ["/body/key"]),  # nobody but who uploaded it
        ("/downloads", {"key": "made/../uploads/a.jpg"}, ["/body/key"]),
        ("/images/..%2Fsecret.jpg/thumbnail", {"size": 64}, ["/path"]),
        ("/images/%2e%2e/thumbnail", {"size": 64}, ["/path"]),
        ("/images/a%00.jpg/thumbnail", {"size": 64}, ["/path"]),
        ("/images/a%0a/thumbnail", {"size": 64}, ["/path"]),
    ],
)
def test_what_the_request_alone_can_tell_refuses_it(path: str, body: Any, pointers: list[str]) -> None:
    assert flaws(path, body) == pointers


def test_the_models_and_the_pictures_know_the_same_words() -> None:
    for kind in pictures.FILTERS:
        assert Filter(kind=kind).kind == kind
    for to in pictures.ENCODING:
        assert Conversion(format=to).format == to
    assert set(pictures.ENCODING) == set(app.ENDINGS) == set(app.CONTENT_TYPES)
    assert Thumbnail(size=64).size == 64


def test_what_is_work_for_the_processor_runs_in_processes() -> None:
    in_processes = {route.path for route in app.operations.routes if route.policy.cpu_bound}
    assert in_processes == {f"/images/{{name}}/{how}" for how in ("thumbnail", "filter", "convert")}


# What `python -m examples.images` starts

ROOT = Path(__file__).parents[2]  # where the examples can be imported; they are not installed
RUN_WITH_LESS = """
import sys, typer
from examples.images import __main__ as program
program.WORK = {"thumbnail": [{"size": 64}, {"size": 128}, {"size": 256}], "filter": [{"kind": "blur"}],
                "convert": [{"format": "png"}]}
exec(sys.argv.pop(1))
typer.run(program.main)
"""


async def run(change: str, *arguments: str, cwd: Path) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN_WITH_LESS, change, *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.full
async def test_all_samples_go_through_penstock_and_what_is_made_can_be_downloaded(tmp_path: Path) -> None:
    """Uploads, a batch that consumers' processes work on, the embedded S3, downloads: all of it, from outside."""
    code, output, errors = await run("", "--once", "--port", str(free_port()), cwd=tmp_path)

    assert code == 0, output + errors
    assert "S3 itself rejected a file of 10,000,001 bytes: 400 EntityTooLarge." in output
    total = 5 * (len(draw.TAKEN) + len(program.REJECTED))
    assert f"as expected: {total} of {total}" in output
    for name, status in program.REJECTED.items():
        assert f"    5 x {name:<14} {status}  " in output
    assert f"{5 * len(draw.TAKEN)} pictures are in .run/images: all results, with the right sizes." in output
    for name, how, transform in SOME_MADE:
        downloaded = tmp_path.joinpath(".run", "images", f"{name}--{how}").read_bytes()
        assert downloaded == transform(draw.FOLDER.joinpath(name).read_bytes()).content


SOME_MADE: list[tuple[str, str, Callable[[bytes], pictures.Picture]]] = [
    ("phone.jpg", "thumbnail-128.jpg", lambda content: pictures.thumbnail(content, 128)),
    ("badge.webp", "filter-blur.webp", lambda content: pictures.filtered(content, "blur")),
    ("press.jpg", "convert.png", lambda content: pictures.converted(content, "png")),
]


@pytest.mark.full
async def test_the_example_ends_badly_when_an_operation_did_not_end_as_meant(tmp_path: Path) -> None:
    wrong = 'program.REJECTED["bomb.webp"] = 415; program.WORK = {"thumbnail": [{"size": 64}]}'
    code, output, errors = await run(wrong, "--once", "--port", str(free_port()), cwd=tmp_path)
    assert code == 1, output + errors
    assert "413, expected 415" in output
