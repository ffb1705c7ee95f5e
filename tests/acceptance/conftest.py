"""Provides installations: one for each story that starts and kills programs, one shared by those that do not."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.installation import Installation, installation
from tests.support.aws import Aws

Install = Callable[..., Awaitable[Installation]]

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # pytest leaves out what is `full` in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` plays one story for each promise and each program: those with the mark `story`."""
    for item in items:
        if FOLDER in item.path.parents and not item.get_closest_marker("story") and item.path.name != "test_stories.py":
            item.add_marker(pytest.mark.full)


@pytest.fixture
async def install(aws: Aws, tmp_path: Path) -> AsyncIterator[Install]:
    """Make installations with the settings that a test asks for."""
    made: list[Installation] = []
    async with AsyncExitStack() as stack:

        async def make(**settings: str) -> Installation:
            folder = tmp_path / str(len(made))
            folder.mkdir()
            made.append(await stack.enter_async_context(installation(aws, folder, **settings)))
            return made[-1]

        yield make
        for one in made:
            sys.stdout.write(one.last_words())
        for one in made:
            one.check_for_faults()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """Share one front end and two consumers. A test reads only its own batches, and runs on the session's loop.

    The tests of a worker run one after another, and no test leaves a batch unfinished.
    """
    folder = tmp_path_factory.mktemp("running")
    async with installation(aws, folder, CONCURRENCY="4", CHUNK_OPERATIONS="25") as one:
        await asyncio.gather(one.serve(), one.consume(), one.consume())
        yield one
        one.check_for_faults()
