"""The client story runs to its end against a front end, a consumer and webhooks in this process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from examples.client import story
from examples.client.app import operations
from penstock.client import Client
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.consumer.webhooks.post import Poster
from penstock.service.app import create_app
from penstock.testing import memory_parts
from tests.support.builders import build_settings
from tests.support.programs import free_port
from tests.support.running_consumer import QueueClock, running_consumer


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the programs log from the output of the story."""
    with capture_logs():
        yield


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Run a front end and a consumer with the application of the story."""
    monkeypatch.setattr("examples.client.app.DATABASE", tmp_path / "customers.db")
    monkeypatch.setattr("penstock.service.events.watching.READ_SECONDS", 0.02)
    settings = build_settings(
        receive_wait_seconds=1,
        grace_seconds=0,
        webhook_secret="a secret of at least 32 characters",
        webhook_allow="127.0.0.1",
    )
    clock, queue_clock = SystemClock(), QueueClock()
    backend = memory_parts(queue_clock).backend
    async with (
        TestServer(create_app(settings, operations, backend, clock), port=free_port()) as server,
        aclosing(Poster(settings.webhook_targets)) as poster,
        running_consumer(Consumer(backend, operations, settings, clock, post=poster.post), queue_clock),
    ):
        yield str(server.make_url(""))


async def test_story_prints_what_its_readme_shows(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(story.main, url, free_port())
    readme = Path(story.__file__).with_name("README.md").read_text()
    shown = readme.partition("examples.client.story\n")[2].partition("```")[0]
    told = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith(("processing", "queued", "20"))
    ]
    assert told == shown.splitlines()


async def test_story_does_not_wait_for_ever_for_what_fails_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "RETRY_SECONDS", 0)

    def retry() -> None:
        with Client(url) as client:
            batch = client.submit([{"method": "POST", "path": "/customers/nobody/invoices", "body": {"amount": 1}}])
            batch.wait()
            batch.retry()
            story.wait_until_all_succeeded(batch)

    with pytest.raises(TimeoutError, match="1 invoices still fail"):
        await asyncio.to_thread(retry)
