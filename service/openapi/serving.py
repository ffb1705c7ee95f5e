"""GET /openapi.json: answers the description of the listener."""

from collections.abc import Callable
from functools import cached_property

from aiohttp import web

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
    return BodyAnswer(body=request.app[DESCRIPTION].content, content_type="application/json")
