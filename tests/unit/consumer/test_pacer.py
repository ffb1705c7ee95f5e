"""What handlers take is measured, and published where it has changed."""

import asyncio
from collections.abc import Mapping

import pytest

from penstock import Operations
from penstock.chunk import Chunk, Operation
from penstock.consumer.pacer import ENOUGH_TO_MEASURE, MANY_TO_MEASURE, REFRESH_SECONDS, Pacer, has_changed
from penstock.errors import Unavailable
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryStore
from tests.support.waiting import eventually
from tests.unit.consumer.conftest import Logs

NAMES = ["POST /quick", "POST /slow", "POST /never"]


class Bench:
    """Handlers that take what a fake clock says."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.seconds = {"/quick": 0.001, "/slow": 1.0}
        self.store = MemoryStore()
        self.runner = Runner(self.operations(), 1, self.clock.monotonic)
        self.pacer = Pacer(self.runner, self.store, self.clock)

    def operations(self) -> Operations[None]:
        operations: Operations[None] = Operations()

        @operations.post("/quick")
        async def quick() -> None:
            self.clock.advance(self.seconds["/quick"])

        @operations.post("/slow")
        async def slow() -> None:
            self.clock.advance(self.seconds["/slow"])
            raise ConnectionError

        return operations

    async def run_chunk(self, *paths: str) -> None:
        operations = tuple(Operation(index, str(index), "POST", path) for index, path in enumerate(paths))
        await self.runner.run_chunk(Chunk("b", "0", 3, operations), Source("b", "b"), Stop(), lambda _: None)

    async def run(self, *paths: str) -> None:
        await self.run_chunk(*paths)
        self.pacer.measure()
        await self.pacer.publish()

    async def published(self) -> dict[str, float]:
        return await self.store.read_handler_seconds(NAMES)


async def test_what_each_handler_takes_is_published_whether_it_succeeds_or_not() -> None:
    bench = Bench()
    await bench.run("/quick", "/slow", "/quick", "/quick")
    assert await bench.published() == {"POST /quick": pytest.approx(0.001, rel=1e-3), "POST /slow": pytest.approx(1.0)}
    assert bench.pacer.overall.seconds == pytest.approx(1.003 / 4)


async def test_only_what_has_changed_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    writes: list[list[str]] = []
    write = bench.store.write_handler_seconds

    async def note(seconds: Mapping[str, float], at: float) -> None:
        writes.append(sorted(seconds))
        await write(seconds, at)

    monkeypatch.setattr(bench.store, "write_handler_seconds", note)
    await bench.run("/quick", "/slow")
    await bench.run("/quick", "/slow")
    bench.seconds["/quick"] = 0.01
    await bench.run("/quick", "/slow")
    await bench.run()
    assert writes == [["POST /quick", "POST /slow"], ["POST /quick"]]
    bench.clock.advance(REFRESH_SECONDS)
    await bench.run()
    assert writes[2:] == [["POST /quick", "POST /slow"]]  # or the table would forget it


async def test_what_was_not_measured_lately_does_not_replace_what_another_consumer_has_measured() -> None:
    bench = Bench()
    await bench.run("/quick", "/slow")
    bench.clock.advance(REFRESH_SECONDS)
    await bench.run("/quick")
    await bench.store.write_handler_seconds({"POST /slow": 9.0}, bench.clock.now())
    bench.clock.advance(REFRESH_SECONDS)
    await bench.run()
    assert await bench.published() == {"POST /quick": pytest.approx(0.001, rel=1e-3), "POST /slow": 9.0}
    await bench.run("/slow")
    assert (await bench.published())["POST /slow"] == pytest.approx(1.0)


async def test_first_measurement_needs_enough_operations_in_any_number_of_chunks() -> None:
    bench = Bench()
    await bench.run_chunk("/quick")
    bench.pacer.count(ENOUGH_TO_MEASURE - 1)
    assert bench.pacer.overall.seconds is None
    bench.pacer.count(1)
    assert bench.pacer.overall.seconds == pytest.approx(0.001, rel=1e-3)
    await bench.run_chunk("/slow")
    bench.pacer.count(MANY_TO_MEASURE - 1)
    assert bench.pacer.overall.seconds == pytest.approx(0.001, rel=1e-3)
    bench.pacer.count(1)  # many quick ones do not wait until a second is over
    assert bench.pacer.overall.seconds == pytest.approx(1.00025 / 1.25)


class StandingClock(FakeClock):
    """A clock on which no sleep ever ends."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


async def test_first_measurement_is_published_without_waiting_for_a_turn() -> None:
    bench = Bench(StandingClock())
    keeping = asyncio.create_task(bench.pacer.keep())
    await bench.run_chunk("/quick")
    bench.pacer.count(ENOUGH_TO_MEASURE)

    async def is_published() -> bool:
        return bool(await bench.published())

    await eventually(is_published)
    keeping.cancel()


async def test_trouble_with_the_table_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    bench = Bench()
    write, failures = bench.store.write_handler_seconds, iter([Unavailable("AWS does not answer.")] * 2)

    async def fail_twice(seconds: Mapping[str, float], at: float) -> None:
        for failure in failures:
            raise failure
        await write(seconds, at)

    monkeypatch.setattr(bench.store, "write_handler_seconds", fail_twice)
    keeping = asyncio.create_task(bench.pacer.keep())
    operations = (Operation(0, "0", "POST", "/quick"),)
    await bench.runner.run_chunk(Chunk("b", "0", 1, operations), Source("b", "b"), Stop(), lambda _: None)
    bench.pacer.count(ENOUGH_TO_MEASURE)

    async def is_published() -> bool:
        return bool(await bench.published())

    await eventually(is_published)
    keeping.cancel()
    assert [log["event"] for log in logs] == [Event.PACE_NOT_PUBLISHED, Event.WORKS_AGAIN]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, 0.001, True),
        (0.001, 0.001, False),
        (0.001, 0.00119, False),
        (0.001, 0.00121, True),
        (0.001, 0.00084, False),
        (0.001, 0.00083, True),
        (0.0, 0.0, False),
        (0.0, 1e-9, True),
    ],
)
def test_changes_that_matter_are_noticed(before: float | None, now: float, expected: bool) -> None:
    assert has_changed(before, now) is expected
