"""The stub of a model server turns requests away, and the story drives a batch through it without one failed line."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from examples.models import server, story
from examples.models.server import Quota, create_app
from penstock.application import find_application
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.service import app as front_end
from penstock.testing import memory_parts
from tests.support.builders import build_settings
from tests.support.programs import free_port
from tests.support.running_consumer import QueueClock, running_consumer

REQUESTS = 60


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the programs log from the output of the story."""
    with capture_logs():
        yield


@pytest.fixture
def quota() -> Quota:
    return Quota(20)


@pytest.fixture
async def url(quota: Quota) -> AsyncIterator[str]:
    """Run the stub, and Penstock in front of it."""
    clock, queue_clock = SystemClock(), QueueClock()
    backend = memory_parts(queue_clock).backend
    async with TestServer(create_app(quota), port=free_port()) as stub:
        settings = build_settings(receive_wait_seconds=1, upstream=str(stub.make_url("")))
        operations = find_application(settings)
        app = front_end.create_app(settings, operations, backend, clock)
        async with (
            operations.connections(10),
            TestServer(app, port=free_port()) as penstock,
            running_consumer(Consumer(backend, operations, settings, clock), queue_clock),
        ):
            yield str(penstock.make_url("")).rstrip("/")


@pytest.mark.full
async def test_story_prints_what_its_readme_shows(url: str, quota: Quota, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(story.main, url, REQUESTS)
    readme = Path(story.__file__).with_name("README.md").read_text()
    shown = readme.partition("examples.models.story\n")[2].partition("```")[0]
    size, whole = len(story.input_lines(REQUESTS)), len(story.input_lines(story.REQUESTS))
    expected = shown.replace(f"{whole:,} bytes", f"{size:,} bytes").replace(str(story.REQUESTS), str(REQUESTS))
    assert capsys.readouterr().out == expected
    assert quota.turned_away > 0


def test_quota_starts_anew_each_second() -> None:
    now = [7.5]
    quota = Quota(2, clock=lambda: now[0])
    assert [quota.take() for _ in range(3)] == [True, True, False]
    now[0] = 8.0
    assert quota.take()
    assert (quota.left, quota.turned_away) == (1, 1)


def test_stub_answers_as_a_chat_model() -> None:
    answer = server.completion("How are you?")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
