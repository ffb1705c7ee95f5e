"""Every URL in an answer works: at the root, mounted in another application, and behind a proxy with a prefix."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, fields
from html import unescape
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient

from penstock import Context, Operations
from penstock.backend import Backend
from penstock.errors import Misconfigured
from penstock.service import mounting
from penstock.service.app import create_app
from penstock.service.keys import BACKEND, RUNNER
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import build_settings
from tests.support.service import Client, ask_for, request

_URL = re.compile(r'\s(?:href|src|action|hx-get|hx-post|data-home)="([^"]*)"')
_LINK = re.compile(r'<([^>]*)>; rel="next"')
PROXY = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "api.example", "X-Forwarded-Prefix": "/bulk/"}
FORGED = {**PROXY, "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example;proto=https"}

operations = Operations()


@operations.post("/run")
async def run() -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a front end is. `base` comes in front of URLs of the API, and `root` in front of those of its pages."""

    base: str
    root: str
    mounted: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def path_of(self, url: str) -> str:
        """Return the path that arrives if a client asks for a URL. It fails if the URL leads to another place."""
        start = self.base if url.startswith("http") else self.root
        assert url.startswith(f"{start}/"), url
        return self.mounted + url.removeprefix(start)


PLACES = {
    "root": Place("", ""),
    "mounted": Place("/bulk", "/bulk", "/bulk"),
    "mounted deeper": Place("/a/bulk", "/a/bulk", "/a/bulk"),
    "public URL": Place("https://api.example/bulk", "/bulk", settings={"public_url": "https://api.example/bulk/"}),
    "mounted, public URL": Place("https://x.example", "", "/bulk", {"public_url": "https://x.example"}),
    "proxy": Place("https://api.example/bulk", "/bulk", settings={"trust_proxy": True}, headers=PROXY),
    "forged": Place("", "", headers=FORGED),
    "mounted, forged": Place("/bulk", "/bulk", "/bulk", headers=FORGED),
}


def mount(app: web.Application, prefix: str) -> web.Application:
    """Mount an application under one segment of a path after the other."""
    for segment in reversed(prefix.split("/")[1:]):
        outer = web.Application(handler_args={"auto_decompress": False})
        outer.add_subapp(f"/{segment}", app)
        app = outer
    return app


class Site:
    def __init__(self, place: Place, client: Client) -> None:
        self.place = place
        self._client = client

    async def ask(self, method: str, url: str, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        sent = {**self.place.headers, **(headers or {})}
        path = self.place.path_of(url)
        return await request(self._client, method, path, headers=sent, allow_redirects=False, **options)

    async def submit(self, **headers: str) -> Answer:
        return await self.ask(
            "POST", f"{self.place.base}/batch", {"Prefer": "respond-async", **headers}, json={"operations": MANY}
        )


MANY = ask_for(*["/run"] * 3)


@pytest.fixture(params=PLACES)
async def site(
    request: pytest.FixtureRequest, aiohttp_client: AiohttpClient, parts: MemoryParts, clock: FakeClock
) -> Site:
    place = PLACES[request.param]
    app = create_app(build_settings(**place.settings), operations, parts.backend, clock)
    return Site(place, await aiohttp_client(mount(app, place.mounted)))


async def test_urls_of_a_batch_lead_to_it(site: Site) -> None:
    base = site.place.base
    answers = [await site.submit(**{"Idempotency-Key": '"k"'}) for _ in range(2)]
    for answer in answers:
        assert answer.status == 202
        batch_id = answer.body["batchId"]
        assert answer.headers["Location"] == answer.body["statusUrl"] == f"{base}/batch/{batch_id}/status"
        assert answer.body["resultsUrl"] == f"{base}/batch/{batch_id}/results"
    status = await site.ask("GET", answer.body["statusUrl"])
    assert (status.status, status.body["resultsUrl"]) == (200, answer.body["resultsUrl"])
    assert (await site.ask("GET", answer.body["resultsUrl"])).status == 200


async def test_links_lead_to_the_next_page(site: Site) -> None:
    for _ in range(3):
        await site.submit()
    page = await site.ask("GET", f"{site.place.base}/batches?limit=1")
    for _ in range(2):
        [url] = _LINK.findall(page.headers["Link"])
        page = await site.ask("GET", url)
        assert len(page.body["batches"]) == 1
    assert "Link" not in page.headers


async def test_openapi_names_the_server(site: Site) -> None:
    servers = (await site.ask("GET", f"{site.place.base}/openapi.json")).body.get("servers")
    assert servers == ([{"url": site.place.base}] if site.place.base else None)


async def test_problems_are_those_of_the_front_end(site: Site) -> None:
    answer = await site.ask("GET", f"{site.place.base}/nowhere")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
    assert (await site.ask("GET", f"{site.place.base}/health/live")).status == 200


async def test_every_url_of_the_pages_works(site: Site) -> None:
    root = site.place.root
    batch_id = (await site.submit()).body["batchId"]
    own = (f"{root}/console", f"{root}/docs", f"{root}/openapi.json")
    waiting, seen = [f"{root}/console", f"{root}/console/batch/{batch_id}/outcomes", f"{root}/docs"], set[str]()
    while waiting:
        url = waiting.pop()
        seen.add(url)
        answer = await site.ask("GET", url)
        assert answer.status == 200, url
        if answer.content_type == "text/html":
            assert answer.headers["Content-Security-Policy"]
            found = {urljoin(url, unescape(one)) for one in _URL.findall(answer.content.decode()) if one[:1] != "#"}
            waiting += {one for one in found if is_read(one)} - seen - set(waiting)
            assert all(one.startswith(own) for one in found), found
    assert any(url.endswith("console.js") for url in seen)
    assert f"{root}/console/batch/{batch_id}" in seen


def is_read(url: str) -> bool:
    """Return True if a browser may GET a URL of a page. The others are forms that change something."""
    return not url.endswith(("/cancel", "/retry", "/change", "/forget", "/redrive"))


async def test_redirects_of_the_console_lead_back_to_it(site: Site) -> None:
    root = site.place.root
    batch_id = (await site.submit()).body["batchId"]
    headers = {"Sec-Fetch-Site": "same-origin"}
    cancelled = await site.ask("POST", f"{root}/console/batch/{batch_id}/cancel", headers)
    assert cancelled.status == 303
    assert cancelled.headers["Location"].startswith(f"{root}/console/batch/{batch_id}?")
    assert (await site.ask("GET", cancelled.headers["Location"])).status == 200
    forgotten = await site.ask("POST", f"{root}/console/key/forget", headers)
    assert f"Path={root}/console" in forgotten.headers["Set-Cookie"]
    asked = await site.ask("GET", f"{root}/console/key?then={root}/console/file")
    assert f'name="then" value="{root}/console/file"' in asked.content.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {**PROXY, "X-Forwarded-Host": "evil.example/x"},
        {**PROXY, "X-Forwarded-Host": "a@evil.example"},
        {**PROXY, "X-Forwarded-Proto": "javascript"},
        {**PROXY, "X-Forwarded-Host": ""},
    ],
)
async def test_invalid_header_of_a_proxy_is_ignored(
    aiohttp_client: AiohttpClient, parts: MemoryParts, clock: FakeClock, headers: dict[str, str]
) -> None:
    app = create_app(build_settings(trust_proxy=True), operations, parts.backend, clock)
    site = Site(Place("", "/bulk"), await aiohttp_client(app))
    answer = await site.ask("POST", "/bulk/batch", {"Prefer": "respond-async", **headers}, json={"operations": MANY})
    assert answer.headers["Location"] == f"/bulk/batch/{answer.body['batchId']}/status"
    prefix = {"X-Forwarded-Prefix": "//evil.example"}
    answer = await site.ask("POST", "/bulk/batch", {"Prefer": "respond-async", **prefix}, json={"operations": MANY})
    assert answer.headers["Location"].startswith("/batch/")


@pytest.mark.parametrize(
    "url", ["api.example", "ftp://api.example", "https://api.example?x=1", "https://u@api.example"]
)
def test_invalid_public_url_is_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"Use a URL such as https://api\.example/bulk"):
        build_settings(public_url=url)


async def test_mounted_application_opens_what_it_needs_when_it_starts(
    aiohttp_client: AiohttpClient, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def open_backend(_settings: Settings) -> AsyncIterator[Backend]:
        notes.append("connected")
        yield parts.backend
        notes.append("disconnected")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        notes.append("started")
        yield "state"
        notes.append("ended")

    application = Operations(lifespan=lifespan)

    @application.post("/state")
    async def tell(context: Context) -> str:
        return str(context.state)

    async def close() -> None:
        notes.append("runner closed")

    monkeypatch.setattr(mounting, "open_backend", open_backend)
    app = mounting.create_app(application, build_settings())
    monkeypatch.setattr(app[RUNNER], "close", close)
    client = await aiohttp_client(mount(app, "/bulk"))
    answer = await request(client, "POST", "/bulk/batch", json={"operations": ask_for("/state")})
    assert answer.body["results"][0]["result"] == "state"
    assert (await request(client, "GET", "/bulk/health/ready")).status == 200
    await client.close()
    assert notes == ["connected", "started", "runner closed", "ended", "disconnected"]


async def test_mounted_application_has_a_bucket_if_one_is_set(
    aiohttp_client: AiohttpClient, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounting, "open_backend", lambda _settings: nullcontext(parts.backend))
    app = mounting.create_app(operations, build_settings(bucket="uploads-of-tests"))
    client = await aiohttp_client(mount(app, "/bulk"))
    answer = await request(client, "POST", "/bulk/uploads")
    assert (answer.status, answer.body["url"]) == (201, "memory:")


def test_mounted_application_has_every_part_of_a_backend() -> None:
    app = mounting.create_app(operations, build_settings(bucket="uploads-of-tests"))
    missing = {part.name for part in fields(Backend) if getattr(app[BACKEND], part.name) is None}
    assert missing == {"spans"}  # the outer application traces its own requests


async def test_application_that_has_not_started_says_so() -> None:
    app = mounting.create_app(operations, build_settings())
    with pytest.raises(RuntimeError, match="has not started"):
        await app[BACKEND].store.check()


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CONCURRENCY", "0")
    with pytest.raises(Misconfigured, match="PENSTOCK_CONCURRENCY"):
        mounting.create_app(operations)
