"""GET /openapi.json: answers the description of the listener."""

from collections.abc import Callable
from functools import cached_property

from aiohttp import web

from penstock.service.base_url import BASE
from penstock.service.json_answer import BodyAnswer, encode
from penstock.service.openapi.values import Fragment


class Description:
    """The description of a listener. It is written once, when it is first needed, which takes a while."""

    def __init__(self, describe: Callable[[], Fragment]) -> None:
        self._describe = describe

    @cached_property
    def content(self) -> bytes:
        return encode(self._describe())


DESCRIPTION = web.AppKey("description", Description)


async def openapi(request: web.Request) -> web.Response:
    return BodyAnswer(body=description_for(request), content_type="application/json")


def description_for(request: web.Request) -> bytes:
    """Return the description of the listener. It names the server if anything comes in front of its paths."""
    base, content = BASE.get(), request.app[DESCRIPTION].content
    return b'{"servers":' + encode([{"url": base}]) + b"," + content[1:] if base else content
