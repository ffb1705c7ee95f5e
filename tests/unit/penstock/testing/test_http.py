"""Requests to an aiohttp application without sockets."""

import pytest
from aiohttp import web

from penstock.testing.http import ask


async def begin(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"first line\n")
    return answer


async def stream(request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    await answer.write_eof(b"last line\n")
    return answer


async def break_off(request: web.Request) -> web.StreamResponse:
    answer = await begin(request)
    assert request.transport is not None
    request.transport.abort()
    return answer


@pytest.fixture
def app() -> web.Application:
    app = web.Application()
    app.router.add_get("/stream", stream)
    app.router.add_get("/break-off", break_off)
    app.freeze()
    return app


async def test_stream_is_returned_as_a_whole(app: web.Application) -> None:
    answer = await ask(app, "GET", "/stream")
    assert (answer.status, answer.content) == (200, b"first line\nlast line\n")


async def test_answer_that_breaks_off_is_not_taken_for_a_whole_one(app: web.Application) -> None:
    with pytest.raises(ConnectionResetError, match="GET /break-off broke off after 11 bytes"):
        await ask(app, "GET", "/break-off")
