"""Fixtures for all tests: an AWS, settings under a name of their own, the backend that they open."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from penstock.aws.backend import open_backend
from penstock.backend import Backend
from penstock.infra.cloudformation import read_template
from penstock.infra.provision import TEMPLATE, provision
from penstock.settings import Settings
from tests.support.aws import Aws, scrubbed_environment, start_aws
from tests.support.backends import REQUIRED
from tests.support.recorded_calls import Call, RecordedCalls
from tests.support.roles import compare, granted

MakeSettings = Callable[..., Settings]
CALLS = pytest.StashKey[RecordedCalls]()
WRONG_ROLES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CALLS] = RecordedCalls()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended: what its programs have called belongs to the run."""
    seen = getattr(node, "workeroutput", {}).get("calls", ())
    node.config.stash[CALLS].seen |= {Call(*call) for call in seen}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The roles of the template are held against what this run has called: see `tests/support/roles.py`."""
    config, seen = session.config, session.config.stash[CALLS].seen
    if hasattr(config, "workeroutput"):
        config.workeroutput["calls"] = [list(call) for call in sorted(seen)]
        return
    wrong = compare(seen, granted(read_template(TEMPLATE)), is_whole_run=_is_whole(config, exitstatus))
    config.stash[WRONG_ROLES] = wrong
    if wrong and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(WRONG_ROLES, []):
        terminalreporter.write_line(f"ROLES {line}: see infra/template.yaml", red=True)


def _is_whole(config: pytest.Config, exitstatus: int) -> bool:
    """Whether all tests were run, and none cut short what it would have called."""
    all_of_it = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return all_of_it and exitstatus == pytest.ExitCode.OK and not (config.option.keyword or config.option.lf)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the real servers runs in one worker: they are started once."""
    for item in items:
        if "real" in item.name:
            item.add_marker(pytest.mark.xdist_group("real"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = scrubbed_environment()
    for name in list(os.environ):
        if name not in kept and name != REQUIRED:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", params=["embedded", "real"])
def aws(request: pytest.FixtureRequest) -> Iterator[Aws]:
    with start_aws(request.param, request.config.stash[CALLS]) as started:
        yield started


@pytest.fixture
def make_settings(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Settings for this test alone: fast to wait, and prefixed so that no other test sees its queues and table."""
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)

    def make(**changes: Any) -> Settings:
        quick: dict[str, Any] = {
            "name": f"test-{secrets.token_hex(4)}",
            "receive_wait_seconds": 1,
            "backoff_seconds": 0,
            "grace_seconds": 5,
        }
        return Settings(**{**quick, **changes})

    return make


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    """The provisioned queues and table of `settings`, which a test module may override."""
    provision(settings)
    async with open_backend(settings) as opened:
        yield opened


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()
