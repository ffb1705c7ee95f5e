"""A client that never reads its answer loses its connection."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from penstock.service import json_answer as module
from penstock.service.json_answer import json_answer, writing
from penstock.service.keys import MEMORY
from penstock.service.memory import Memory


@pytest.fixture(autouse=True)
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)


async def test_answer_that_is_not_read_ends_the_connection() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    transport = Mock()
    writer = Mock(write_eof=lambda _: never(), write_headers=Mock(side_effect=lambda *_: asyncio.sleep(0)))
    app = web.Application()
    app[MEMORY] = memory = Memory(1_000_000)
    request = make_mocked_request("GET", "/", transport=transport, writer=writer, app=app)
    answer = json_answer({"a": 1})
    await answer.prepare(request)
    writing_it = asyncio.ensure_future(answer.write_eof())
    await asyncio.sleep(0)
    assert memory.used_bytes == len(b'{"a":1}')  # what is not read yet takes memory
    with pytest.raises(ConnectionResetError, match="did not read"):
        await writing_it
    assert memory.used_bytes == 0
    transport.abort.assert_called_once()


async def test_large_answer_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_IN_A_SECOND", 1)
    async with writing(None, 100):
        await asyncio.sleep(0.02)
    with pytest.raises(ConnectionResetError):
        async with writing(None, 0):
            await asyncio.sleep(1)
