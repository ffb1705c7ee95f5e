"""The simulated AWS keeps the same contract as the real servers: the contract suites run with the real adapters on it.

Tests that need a server are left out, such as those of lost answers, which the simulation itself produces.
"""

import asyncio
import inspect
import random
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import pytest
import pytest_asyncio

from penstock.aws.clients import Clients
from penstock.aws.s3 import S3Bucket
from penstock.aws.sqs import SqsQueue
from penstock.errors import Misconfigured
from penstock.settings import MIB
from tests.contract import test_bucket, test_queue, test_store
from tests.contract.conftest import LEASE_SECONDS, Servers
from tests.contract.test_store import batch, store  # noqa: F401 - fixtures of the suite
from tests.simulation.dynamodb import Table
from tests.simulation.loop import VirtualLoop
from tests.simulation.network import DynamoDbClient, Fate, S3Client, SqsClient, Wire
from tests.simulation.process import Process
from tests.simulation.s3 import Files
from tests.simulation.sqs import Queue

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS = {
    *("store", "batch", "queue", "seconds", "state", "ending", "counts", "length", "characters", "answer"),
    *("bucket", "first", "count", "content"),
}
LEFT_OUT = {
    "test_delivery_says_when_its_message_was_sent": "time is virtual",
    "test_anybody_can_download_a_file_from_its_url": "nobody can use the URLs of the simulation",
    "test_message_that_sqs_takes_never_is_told_and_not_repeated": "the front end lets no such message come about",
}

WAITING = {  # they wait for seconds in real time
    "test_extended_lease_outlives_its_first_end",
    "test_delayed_message_comes_after_its_time_and_not_before",
    "test_message_whose_lease_ends_is_delivered_again_under_another_receipt",
    "test_message_in_flight_is_not_delivered_again",
    "test_lost_lease_is_told_or_at_least_changes_nothing",
}


@dataclass
class OnTime:
    """The simulated AWS in real time. Every call succeeds."""

    loop: asyncio.AbstractEventLoop
    context: Context = field(default_factory=copy_context)
    is_over: bool = False
    is_out: bool = False
    landed_at: float = 0.0

    @property
    def fates(self) -> "OnTime":
        return self

    def note(self, who: str, what: str, *details: Any) -> None: ...

    def on_receive(self, process: str, messages: list[dict[str, Any]]) -> None: ...

    def fate(self, process: Process, action: str) -> Fate:
        return Fate(0, 0)

    def before(self, process: Process, fate: Fate) -> None: ...

    def after(self, process: Process, fate: Fate) -> None: ...

    def calm_down(self) -> None: ...


@pytest_asyncio.fixture(loop_scope="module")
async def servers() -> Servers:
    loop = asyncio.get_running_loop()
    table = Table(random.Random(1), watch=lambda *_: None, short_pages=True)
    queue = Queue("queue", loop, copy_context(), random.Random(1), LEASE_SECONDS)
    wire = a_wire(loop)
    sqs: Any = SqsClient(wire, {"queue": queue})
    dynamodb: Any = DynamoDbClient(wire, table)
    return Servers(Clients(sqs, sqs, dynamodb), "table")


def a_wire(loop: asyncio.AbstractEventLoop) -> Wire:
    idle = VirtualLoop()
    idle.close()
    return Wire(OnTime(loop), Process("test", idle))


@pytest.fixture
def queue(servers: Servers) -> SqsQueue:
    return SqsQueue(servers.clients.sqs, "queue", polls=servers.clients.polls, call_bytes=MIB)


@pytest_asyncio.fixture(loop_scope="module")
async def bucket() -> S3Bucket:
    s3: Any = S3Client(a_wire(asyncio.get_running_loop()), Files("files"))
    return S3Bucket(s3, "files")


@pytest.mark.parametrize("call", ["find", "write"])
async def test_a_bucket_that_does_not_exist_is_named(call: str) -> None:
    s3: Any = S3Client(a_wire(asyncio.get_running_loop()), Files("files"))
    bucket = S3Bucket(s3, "nowhere")
    with pytest.raises(Misconfigured, match="PENSTOCK_BUCKET is 'nowhere'"):
        await (bucket.find("a") if call == "find" else bucket.write("a", b"", "text/csv"))


def _suite(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the tests of a suite that need only a queue or a store. They run once, on the simulation."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    return {
        f"{name}_{module.__name__.rpartition('_')[2]}": _without_servers(test)
        for name, test in tests.items()
        if inspect.signature(test).parameters.keys() <= OURS and name not in LEFT_OUT
    }


def _without_servers(test: FunctionType) -> Callable[..., Any]:
    copied = FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    copied.__annotations__ = test.__annotations__
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.args[:1] != ("aws",)]
    marks += [pytest.mark.full.mark] if test.__name__ in WAITING else []
    copied.pytestmark = marks  # type: ignore[attr-defined]
    return copied


globals().update(_suite(test_store) | _suite(test_queue) | _suite(test_bucket))
