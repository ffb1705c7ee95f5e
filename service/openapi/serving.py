"""GET /openapi.json: answers the description of the listener."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from penstock.service.base_url import BASE
from penstock.service.json_answer import BodyAnswer, encode
from penstock.service.openapi.values import Fragment


class Description:
    """The description of a listener. It is written once, when it is first needed, which takes a while."""

    def __init__(self, describe: Callable[[], Fragment]) -> None:
        self._describe = describe
        self._content: bytes | None = None

    async def content(self) -> bytes:
        """Return the description as JSON. A thread writes it: with many handlers, that takes tenths of a second."""
        if self._content is None:
            self._content = await asyncio.to_thread(lambda: encode(self._describe()))
        return self._content


DESCRIPTION = web.AppKey("description", Description)


async def openapi(request: web.Request) -> web.Response:
    return BodyAnswer(body=await description_for(request), content_type="application/json")


async def description_for(request: web.Request) -> bytes:
    """Return the description of the listener. It names the server if anything comes in front of its paths."""
    base, content = BASE.get(), await request.app[DESCRIPTION].content()
    return b'{"servers":' + encode([{"url": base}]) + b"," + content[1:] if base else content
