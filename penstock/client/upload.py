"""Sends a file to the bucket of a server, past the server itself."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import aiohttp
import msgspec

from penstock.client.errors import AnswerLost, InvalidFile, NotPenstock, ServerUnreachable, Unavailable

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
_TEMPORARY = frozenset({500, 502, 503, 504})
_SHOWN = 200  # characters of what the bucket answers


class UploadForm(msgspec.Struct, rename="camel"):
    """The form that a file is sent with. It has all that the bucket needs to accept it."""

    upload_id: str
    url: str
    fields: Mapping[str, str]
    max_bytes: int


class BucketUnavailable(Unavailable):
    """The bucket cannot store the file at the moment. S3 says so also with the status 500."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, {"title": f"The bucket answered {status}", "detail": text})

    def __str__(self) -> str:
        return f"{self.sentence}."


def check_size(file: Path, most: int) -> None:
    """Raise InvalidFile if the file is too large or cannot be read."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise InvalidFile(f"{file}: cannot be read ({error.strerror}).") from error
    if size > most:
        raise InvalidFile(f"{file}: has {size:,} bytes. The limit for an upload is {most:,} bytes.")


async def send_form(form: UploadForm, file: Path) -> None:
    """Send the file to the bucket. Raises ClientError. The key of the API does not go there."""
    try:
        with file.open("rb") as opened:
            data = aiohttp.FormData(form.fields)
            data.add_field("file", opened, filename=file.name)  # the last field, as S3 wants it
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(form.url, data=data, allow_redirects=False) as response,
            ):
                if response.status >= 300:
                    text = (await response.text(errors="replace"))[:_SHOWN]
                    if response.status in _TEMPORARY:
                        raise BucketUnavailable(response.status, text)
                    raise NotPenstock(f"The bucket answered {response.status}: {text}")
    except aiohttp.ClientConnectorError as error:
        raise ServerUnreachable(form.url, str(error)) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise AnswerLost(f"The file did not reach the bucket ({str(error) or type(error).__name__}).") from error
