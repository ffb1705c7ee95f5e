"""An export: files with all outcomes of a batch, which are downloaded from the bucket of the server."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import aiohttp
import msgspec

from penstock.client.download import replacing
from penstock.client.errors import AnswerLost, ClientError

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


class ExportFile(msgspec.Struct, frozen=True):
    """A file of an export. `sha256` is that of its content.

    Its URL needs no key, and is valid for at least 50 minutes. It is empty while the export is made.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    url: str = ""


class Export(msgspec.Struct, frozen=True, rename="camel"):
    """An export of a batch, and its finished files. `manifest_url` has a list of them as JSON."""

    batch_id: str
    export_id: str
    status: str
    format: str
    rows: int
    total: int
    bytes: int
    parts: Sequence[ExportFile]
    compression: str | None = None
    manifest_url: str | None = None
    expires_at: datetime | None = None
    error: dict[str, str] | None = None

    @property
    def is_running(self) -> bool:
        return self.status == "running"


class ExportFailed(ClientError):
    """The server could not write the files. Ask for the export again."""


def made_folder(path: Path | str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def save_file(file: ExportFile, path: Path) -> None:
    """Download a file. What was at `path` stays there unless the whole file has arrived, and is what was written.

    Raises AnswerLost.
    """
    digest = hashlib.sha256()
    try:
        with replacing(path) as written:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session,
                session.get(file.url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise AnswerLost(f"The bucket answered {response.status} for {file.name}.")
                async for piece in response.content.iter_any():
                    digest.update(piece)
                    written.write(piece)
            if digest.hexdigest() != file.sha256:
                raise AnswerLost(f"{file.name} did not arrive completely.")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise AnswerLost(f"{file.name} did not arrive ({str(error) or type(error).__name__}).") from error
