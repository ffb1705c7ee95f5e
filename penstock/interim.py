"""Bounds what a server may send before its response: one interim response (1xx) after the other.

aiohttp skips them without a limit. They cost the server nothing, and the program that reads them its event loop.
"""

import itertools
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import http_exceptions
from aiohttp.connector import Connection

MOST_INTERIM = 100  # responses such as 100 Continue before the response itself


class TooManyInterim(http_exceptions.HttpProcessingError):
    """The server sends one interim response (1xx) after the other."""


class BoundedResponse(aiohttp.ClientResponse):
    """A response that is read only if at most MOST_INTERIM interim responses come before it."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        assert protocol is not None
        numbers, read = itertools.count(), protocol.read

        async def read_bounded() -> Any:
            if next(numbers) > MOST_INTERIM:
                raise TooManyInterim(code=HTTPStatus.BAD_GATEWAY, message="Too many interim responses")
            return await read()

        vars(protocol)["read"] = read_bounded
        try:
            return await super().start(connection)
        finally:
            del vars(protocol)["read"]
