"""GET /docs shows the description of its listener, without anything from elsewhere."""

import re
from html import unescape
from typing import Any

import pytest
from pydantic_core import from_json

from penstock import Operations
from penstock.service.console.assets import assets, url_of
from tests.support.service import Serve, request

DESCRIPTION = re.compile(r'<div id="description" data-can-try="(yes|no)" hidden>(.*)</div>', re.DOTALL)
ADDRESS = re.compile(r'(?:href|src)="([^"]*)"')


def shown(page: bytes) -> tuple[str, Any]:
    match = DESCRIPTION.search(page.decode())
    assert match is not None
    return match[1], from_json(unescape(match[2]))


@pytest.mark.parametrize(("auth", "at_operators"), [("none", "no"), ("keys", "yes")])
async def test_page_has_the_description_of_its_listener(serve: Serve, auth: str, at_operators: str) -> None:
    service = await serve(Operations(), auth=auth)
    for client, can_try in ((service.client, "yes"), (service.operators, at_operators)):
        page = await request(client, "GET", "/docs")
        described = await request(client, "GET", "/openapi.json")
        assert (page.status, page.content_type) == (200, "text/html")
        assert shown(page.content) == (can_try, described.body)


async def test_page_loads_its_parts_from_this_server_only(serve: Serve) -> None:
    service = await serve(Operations())
    page = await request(service.client, "GET", "/docs")
    assert page.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert page.headers["Cache-Control"] == "no-store"
    head = page.content.decode().partition("<div id=")[0]
    addresses = set(ADDRESS.findall(head))
    parts = {address for address in addresses if address.startswith("console/static/")}
    # Relative, so that they also work behind a prefix.
    assert addresses - parts == {"#main", "console", "docs", "openapi.json"}
    assert parts == {
        url_of(name).removeprefix("/")
        for name in ("icon.svg", "swagger-ui.css", "docs.css", "swagger-ui-bundle.js", "docs.js")
    }
    for name in parts:
        assert (await request(service.client, "GET", f"/{name}")).status == 200


async def test_largest_part_is_sent_compressed(serve: Serve) -> None:
    service = await serve(Operations())
    name = "swagger-ui-bundle.js"
    answer = await service.client.get(url_of(name), headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert await answer.read() == assets()[name].path.read_bytes()  # the client has decompressed it


async def test_console_leads_to_the_page(serve: Serve) -> None:
    service = await serve(Operations())
    page = await request(service.client, "GET", "/console")
    assert '<a href="/docs">API</a>' in page.content.decode()
