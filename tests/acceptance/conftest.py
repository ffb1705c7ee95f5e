"""Provides installations: one for each story that starts and kills programs, one shared by those that do not."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.infra.local.servers import missing_tools
from tests.acceptance.installation import Installation, installation
from tests.support.aws import Aws

Install = Callable[..., Awaitable[Installation]]

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # pytest leaves out what is `full` in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` plays one story for each promise and each program: those with the mark `story`.

    The other tests run on the real servers. If these cannot be started here, they run on the embedded AWS.
    """
    others = [item for item in items if FOLDER in item.path.parents and _is_no_story(item)]
    for item in others:
        item.add_marker(pytest.mark.full)
    if missing_tools() is None:
        on_real_servers = {_case(item) for item in others if _kind_of_aws(item) == "real"}
        twice = [item for item in others if _kind_of_aws(item) == "embedded" and _case(item) in on_real_servers]
        items[:] = [item for item in items if item not in twice]
        config.hook.pytest_deselected(items=twice)


def _is_no_story(item: pytest.Item) -> bool:
    return not item.get_closest_marker("story") and item.path.name != "test_stories.py"


def _parameters(item: pytest.Item) -> dict[str, object]:
    return getattr(getattr(item, "callspec", None), "params", {})


def _kind_of_aws(item: pytest.Item) -> object:
    return _parameters(item).get("aws")


def _case(item: pytest.Item) -> tuple[str, str]:
    """Return what identifies a case of a test, whichever AWS it runs on."""
    others = {name: value for name, value in _parameters(item).items() if name != "aws"}
    return item.nodeid.partition("[")[0], repr(others)


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
