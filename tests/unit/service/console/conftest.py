"""A browser without a screen: it sends the headers of one, keeps a cookie, and shows what the pages say."""

import html
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.testing.http import Answer
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import Client, request


@dataclass
class Browser:
    client: Client
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return str(self.client.make_url("/").origin())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._ask("GET", path, headers=headers)

    async def post(self, path: str, data: Any = None, params: Any = None, **headers: str) -> Answer:
        return await self._ask("POST", path, data=data, params=params, headers={"Origin": self.origin, **headers})

    async def follow(self, answer: Answer) -> str:
        """Return the text of the page to which a change leads."""
        assert answer.status == 303, answer.content
        return text_of(await self.get(answer.headers["Location"]))

    async def _ask(self, method: str, path: str, *, headers: dict[str, str], **options: Any) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {"Accept": "text/html,*/*;q=0.8", **({"Cookie": cookies} if cookies else {}), **headers}
        return await request(self.client, method, path, headers=sent, allow_redirects=False, **options)


def text_of(answer: Answer) -> str:
    """Return what a person reads on a page."""
    assert answer.content_type == "text/html"
    body = re.sub(r"<[^>]+>", " ", answer.content.decode())
    return " ".join(html.unescape(body).replace("\u00a0", " ").split())


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=3)


@pytest.fixture
def browser(plant: Plant) -> Browser:
    return Browser(plant.service.client)


@pytest.fixture
def operator(plant: Plant) -> Browser:
    return Browser(plant.service.operators)
