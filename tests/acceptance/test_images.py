"""The images example in the real programs: it keeps no state, and running an operation again changes nothing."""

import asyncio
from pathlib import Path

from examples.images import draw, pictures
from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation

IMAGES = "examples.images.app:operations"
SIZES = range(32, 132, 10)


def thumbnail(name: str, size: int) -> Operation:
    return {"method": "POST", "path": f"/images/{name}/thumbnail", "body": {"size": size}}


def upload_samples(folder: Path) -> None:
    folder.joinpath("uploads").mkdir(parents=True)
    for name in draw.TAKEN:
        folder.joinpath("uploads", name).write_bytes(draw.FOLDER.joinpath(name).read_bytes())


def expected(name: str, size: int) -> tuple[str, bytes]:
    made = pictures.thumbnail(draw.FOLDER.joinpath(name).read_bytes(), size)
    return f"{name}/thumbnail-{size}.{made.format.replace('jpeg', 'jpg')}", made.content


@on_any_aws
async def test_killed_consumers_leave_every_picture_whole_and_as_meant(install: Install, tmp_path: Path) -> None:
    """Handlers run again after a death, in part over files that are there; none is different for it, or missing."""
    folder = tmp_path / "pictures"
    upload_samples(folder)
    penstock = await install(APP=IMAGES, VISIBILITY_SECONDS="2", CHUNK_OPERATIONS="10")
    store = {"IMAGES_STORE_URL": folder.as_uri()}
    await penstock.serve(**store)
    wanted = [(name, size) for name in draw.TAKEN for size in SIZES]
    batch_id = await penstock.api.submit([thumbnail(name, size) for name, size in wanted])

    for share in (10, 50):
        doomed = await penstock.consume(**store)
        await penstock.api.completed(batch_id, share)
        doomed.kill()
        await doomed.ended()
    await asyncio.gather(penstock.consume(**store), penstock.consume(**store))
    status = await penstock.api.ended(batch_id)

    assert (status.status, status.succeeded) == ("completed", len(wanted))
    made = folder / "made"
    files = {str(file.relative_to(made)): file.read_bytes() for file in made.glob("*/[!.]*")}
    assert files == dict(expected(name, size) for name, size in wanted)
