"""Anybody may ask for the files of the console, without a key. So nobody may hold much of a front end with them."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from penstock.service import json_answer
from penstock.service.console.assets import assets, static

LARGEST = "swagger-ui-bundle.js"


def request(accepts: str = "") -> web.Request:
    writer = Mock(write_eof=lambda _: asyncio.Event().wait(), write_headers=lambda *_: asyncio.sleep(0))
    named = {"name": LARGEST, "digest": assets()[LARGEST].digest}
    headers = {"Accept-Encoding": accepts}
    return make_mocked_request("GET", "/", headers, match_info=named, transport=Mock(), writer=writer)


async def test_client_that_does_not_read_a_file_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_answer, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(json_answer, "BYTES_IN_A_SECOND", 1e12)
    asked = request()
    answer = await static(asked)
    await answer.prepare(asked)
    with pytest.raises(ConnectionResetError, match="did not read"):
        await answer.write_eof()
    assert isinstance(asked.transport, Mock)
    asked.transport.abort.assert_called_once()


@pytest.mark.parametrize("accepts", ["", "gzip"])
async def test_all_answers_have_the_same_copy_of_a_file(accepts: str) -> None:
    first, second = await static(request(accepts)), await static(request(accepts))
    assert first.body is second.body
