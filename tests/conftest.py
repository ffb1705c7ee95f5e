"""Provides the fixtures that many tests share: an AWS, settings with a name of their own, and the backend for them."""

import gc
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import hypothesis
import pytest
import structlog
from structlog.dev import ConsoleRenderer, plain_traceback

from penstock.aws.backend import open_backend
from penstock.backend import Backend
from penstock.infra.cloudformation import read_template
from penstock.infra.embedded.server import EmbeddedAws
from penstock.infra.local.servers import LocalServers, local_servers
from penstock.infra.provision import BUCKET_TEMPLATE, TEMPLATE, provision
from penstock.running.collector import spare_what_stays
from penstock.settings import Settings
from tests.support.aws import IN_MEMORY, Aws, embedded, is_scrubbed, real
from tests.support.backends import REQUIRED, real_servers_or_skip
from tests.support.recorded_calls import Call, RecordedCalls
from tests.support.roles import compare, granted, granted_in_bucket

MakeSettings = Callable[..., Settings]
CALLS = pytest.StashKey[RecordedCalls]()
WRONG_ROLES = pytest.StashKey[list[str]]()
STARTED_AT = pytest.StashKey[float]()


# A busy machine must not decide whether a test passes. pytest-timeout ends what hangs.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--most-seconds", type=float, help="Skip the tests that have not started after this time.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that CI has no time for. The summary counts these tests. A run without the option has them all."""
    most: float | None = item.config.option.most_seconds
    if most is not None and time.monotonic() - item.config.stash[STARTED_AT] > most:
        pytest.skip(f"There is no time left of --most-seconds {most:g}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED_AT] = time.monotonic()
    config.stash[CALLS] = RecordedCalls()
    # Otherwise structlog lets Rich draw tracebacks with all local variables, which takes a second or more for each.
    *others, _ = structlog.get_config()["processors"]
    structlog.configure(processors=[*others, ConsoleRenderer(exception_formatter=plain_traceback)])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tune the garbage collector as the programs do: the tests and all modules live as long as this process."""
    gc.disable()
    try:
        return (yield)
    finally:
        spare_what_stays()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the calls that the programs of a finished worker made to those of the whole run."""
    seen = getattr(node, "workeroutput", {}).get("calls", ())
    node.config.stash[CALLS].seen |= {Call(*call) for call in seen}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Compare the roles in the template with the calls of this run: see `tests/support/roles.py`."""
    config, seen = session.config, session.config.stash[CALLS].seen
    if hasattr(config, "workeroutput"):
        config.workeroutput["calls"] = [list(call) for call in sorted(seen)]
        return
    grants = granted(read_template(TEMPLATE)) | granted_in_bucket(read_template(BUCKET_TEMPLATE))
    wrong = compare(seen, grants, is_whole_run=_is_whole(config, exitstatus))
    config.stash[WRONG_ROLES] = wrong
    if wrong and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(WRONG_ROLES, []):
        terminalreporter.write_line(f"ROLES {line}: see infra/template.yaml and infra/bucket.yaml", red=True)


def _is_whole(config: pytest.Config, exitstatus: int) -> bool:
    """Return True if everything that `make test` runs has run, and passed. It uses every grant of the roles."""
    option = config.option
    is_last_failed = getattr(option, "lf", False)  # pytest has no such option with -p no:cacheprovider
    is_cut_short = option.keyword or is_last_failed or option.collectonly or option.markexpr not in {"", "not full"}
    all_of_it = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return all_of_it and exitstatus == pytest.ExitCode.OK and not is_cut_short


@pytest.hookimpl(tryfirst=True)  # pytest leaves out what is `full` in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the real servers are `full`, and run in one worker, so that the servers start once."""
    for item in items:
        if _needs_java(item):
            item.add_marker(pytest.mark.full)
            item.add_marker(pytest.mark.xdist_group("real"))


def _needs_java(item: pytest.Item) -> bool:
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get("aws") == "real" or "java" in getattr(item, "fixturenames", ())


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(is_scrubbed, list(os.environ)):
        if name != REQUIRED:
            monkeypatch.delenv(name)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Programs that the test starts end on SIGINT, though the shell that runs the tests may ignore it: `nohup ... &`.

    A process inherits that SIGINT is ignored. It does not inherit a handler, but starts with the default instead.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def embedded_aws(request: pytest.FixtureRequest) -> Iterator[EmbeddedAws]:
    """The only embedded AWS in this process, because moto keeps its state in the process. No test may reset it."""
    with EmbeddedAws(watch=request.config.stash[CALLS].watch) as server:
        yield server


@pytest.fixture(scope="session")
def java() -> None:
    """Everything that starts ElasticMQ or DynamoDB Local asks for this first. Tests that do so are `full`."""
    real_servers_or_skip()


@pytest.fixture(scope="session")
def real_servers(java: None) -> Iterator[LocalServers]:
    with local_servers() as servers:
        yield servers


@pytest.fixture(scope="session", params=["embedded", "real"])
def aws(request: pytest.FixtureRequest) -> Aws:
    """An AWS of the kind that the test asks for: `memory`, `embedded` or `real`.

    The servers have fixtures of their own, so that they keep running when the next test asks for another kind.
    """
    match request.param:
        case "memory":
            return IN_MEMORY
        case "embedded":
            return embedded(request.getfixturevalue("embedded_aws"))
        case _:
            return real(request.getfixturevalue("real_servers"))


@pytest.fixture
def make_settings(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Make settings with short waits and a name of their own, so that no other test sees the queues and the table."""
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
    """Provision the queues and the table of `settings`, which a test module may override, and open them."""
    provision(settings)
    async with open_backend(settings) as opened:
        yield opened


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()
