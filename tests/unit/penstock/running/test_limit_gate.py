"""Operations of a limited route wait for tokens without a slot. The event loop of these tests runs in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from msgspec.structs import replace as with_changes
from structlog.testing import capture_logs

from penstock import Operations, Throttled
from penstock.chunk import Chunk, Operation
from penstock.errors import Unavailable
from penstock.fleet_limit import HORIZON_SECONDS, LimitState
from penstock.fleet_permits import LEASE_SECONDS, Holder
from penstock.limit import Limit
from penstock.outcome import Outcome, Verdict
from penstock.priority import Priority
from penstock.running.limit_gate import (
    AWAY_SECONDS,
    KEPT_CHUNKS,
    LEAST_POSTPONED_SECONDS,
    LEAST_WRITE_SECONDS,
    MOST_HELD,
    RETRY_SECONDS,
    GateRules,
    LimitGate,
)
from penstock.running.limit_gates import LimitGates
from penstock.running.limit_line import Line, PostponedChunk
from penstock.running.runner import Runner
from penstock.running.slots import Slots, Turn
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.telemetry import Event
from penstock.testing import MemoryStore
from tests.simulation.loop import VirtualLoop

EPOCH = 1_700_000_000.0
SLOW = Limit(rate=10.0)
LATENCY = 0.05
OF_CONSUMERS = GateRules()


class VirtualClock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Rig:
    """A runner with gates. `starts` has the times at which handlers started, by their paths."""

    loop: VirtualLoop
    limits: dict[str, Limit]
    slots: int = 2
    rules: GateRules = OF_CONSUMERS
    store: MemoryStore = field(default_factory=MemoryStore)
    starts: dict[str, list[float]] = field(default_factory=dict)
    throttles: bool = False
    asks_seconds: float | None = None
    calls_fail: bool = False  # those with several operations

    def __post_init__(self) -> None:
        self.operations = operations = Operations[Any](limits=self.limits)
        operations.post("/limited", limit="upstream")(self._handler("/limited"))
        operations.post("/other", limit="other")(self._handler("/other"))
        operations.post("/free")(self._handler("/free"))
        operations.post("/bulk", limit="upstream", bulk=True, max_size=5)(self._bulk)
        clock = VirtualClock(self.loop)
        gates = LimitGates(
            operations.limits,
            lambda name, limit: LimitGate(name, limit, self.store, clock, rules=self.rules, pauses=operations.pauses),
        )
        self.gate = gates.gate("upstream")
        self.runner = Runner(operations, self.slots, clock.monotonic, limits=gates)
        self.postponed: dict[int, float] = {}

    def _handler(self, path: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def handle() -> None:
            self.starts.setdefault(path, []).append(self.loop.time())
            await asyncio.sleep(LATENCY)
            if self.throttles:
                raise Throttled(after_seconds=self.asks_seconds)

        return handle

    async def _bulk(self, bodies: list[Any]) -> list[None]:
        self.starts.setdefault("/bulk", []).extend([self.loop.time()] * len(bodies))
        if self.calls_fail and len(bodies) > 1:
            await asyncio.sleep(5)
            raise RuntimeError
        return [None] * len(bodies)

    async def run_chunk(
        self,
        path: str,
        count: int,
        *,
        stop: Stop | None = None,
        priority: Priority = Priority.NORMAL,
        concurrency: int | None = None,
    ) -> dict[int, Verdict]:
        operations = tuple(
            Operation(index, str(index), "POST", path, {} if path == "/bulk" else None) for index in range(count)
        )
        source = Source("01J", "01J", priority=priority, concurrency=concurrency)
        chunk = Chunk("01J", "0", 1, operations)
        postponed = self.postponed.__setitem__
        with self.runner.result_memory.for_chunk() as results:
            return await self.runner.run_chunk(
                chunk, source, stop or Stop(), lambda _: None, results=results, postponed=postponed
            )

    def token(self, path: str, *, may_be_postponed: bool = True) -> AbstractAsyncContextManager[Callable[[], None]]:
        operation = Operation(0, "0", "POST", path, None)
        return self.runner.token(operation, Source("01J", "01J"), may_be_postponed=may_be_postponed)


def play(
    scenario: Callable[[Rig], Coroutine[Any, Any, None]],
    *,
    limit: Limit | None = SLOW,
    slots: int = 2,
    rules: GateRules = OF_CONSUMERS,
) -> Rig:
    loop = VirtualLoop()
    rig = Rig(loop, {} if limit is None else {"upstream": limit}, slots, rules)

    async def run() -> None:
        try:
            async with asyncio.timeout(7_200):
                await scenario(rig)
            await rig.runner.close()
        finally:
            left = [task for task in loop.tasks if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return rig


def succeeded(verdicts: dict[int, Verdict]) -> int:
    return sum(isinstance(verdict, Outcome) and verdict.status == 200 for verdict in verdicts.values())


def in_the_first(seconds: float, starts: list[float]) -> int:
    return sum(at < seconds for at in starts)


def test_operations_start_at_the_declared_rate() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/limited", 100)) == 100

    starts = play(scenario, slots=20).starts["/limited"]
    for seconds in (1, 3, 8):
        assert in_the_first(seconds, starts) <= 10 * (seconds + HORIZON_SECONDS)
    assert starts[-1] < 100 / 10 + 2


@pytest.mark.parametrize(("ahead", "is_soon"), [(0.0, True), (1.0, False)], ids=["quiet", "busy"])
def test_front_end_has_tokens_for_further_batches_unless_others_need_them(ahead: float, is_soon: bool) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.store.lease_limit(
            "upstream", LimitState(), LimitState(rate=10.0, tat=EPOCH + ahead, at=EPOCH, lease="seen")
        )
        operation = Operation(0, "0", "POST", "/limited", None)
        for _ in range(5):
            with rig.runner.turns([operation], Source("01J", "01J"), may_be_postponed=True) as turn_of:
                turn = turn_of(operation)
                assert isinstance(turn, Line)
                await turn.acquire()
                turn.start(1)
                turn.release()
        assert (rig.loop.time() < 0.7) == is_soon

    play(scenario, rules=GateRules.of_front_end(10.0))


def test_operation_whose_path_leads_to_another_limit_waits_for_that_one() -> None:
    async def scenario(rig: Rig) -> None:
        open_ = [Operation(index, str(index), "POST", "/{a}") for index in range(30)]
        with rig.runner.turns(open_, Source("01J", "01J"), may_be_postponed=False) as turn_of:
            for operation in open_:
                turn = turn_of(with_changes(operation, path="/limited"))
                assert isinstance(turn, Line)
                await turn.acquire()
                turn.start(1)
                turn.release()
        assert rig.loop.time() > 1.5

    play(scenario)


def test_operation_that_waits_for_a_token_holds_no_slot() -> None:
    async def scenario(rig: Rig) -> None:
        limited = asyncio.create_task(rig.run_chunk("/limited", 30))
        await asyncio.sleep(1.5)
        began_at = rig.loop.time()
        assert succeeded(await rig.run_chunk("/free", 10)) == 10
        assert rig.loop.time() - began_at <= 25 * LATENCY
        assert not limited.done()
        assert rig.runner.waiting_for_tokens()[Priority.NORMAL] > 0
        assert succeeded(await limited) == 30

    play(scenario, slots=1)


def test_call_with_several_operations_uses_a_token_for_each() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/bulk", 100)) == 100

    starts = play(scenario).starts["/bulk"]
    assert in_the_first(4, starts) <= 10 * (4 + HORIZON_SECONDS) + 5
    assert 7 < starts[-1] < 14


def test_call_that_waits_counts_with_all_its_operations() -> None:
    async def scenario(rig: Rig) -> None:
        running = asyncio.create_task(rig.run_chunk("/bulk", 100))
        await asyncio.sleep(1.5)
        assert 0 < len(rig.starts["/bulk"]) < 50
        assert rig.runner.waiting_for_tokens()[Priority.NORMAL] == 100 - len(rig.starts["/bulk"])
        assert succeeded(await running) == 100

    play(scenario)


def test_urgent_operations_get_more_of_the_tokens() -> None:
    async def scenario(rig: Rig) -> None:
        patient = asyncio.create_task(rig.run_chunk("/limited", 60, priority=Priority.LOW))
        await asyncio.sleep(1.5)
        assert succeeded(await rig.run_chunk("/limited", 30, priority=Priority.HIGH)) == 30
        assert rig.loop.time() < 6
        assert succeeded(await patient) == 60

    play(scenario, slots=20)


def test_limit_that_is_not_declared_allows_everything_and_writes_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/limited", 500)) == 500
        assert await rig.store.read_limits(["upstream"]) == {}

    assert play(scenario, limit=None, slots=100).starts["/limited"][-1] < 1


@pytest.mark.parametrize(("idle_seconds", "ceiling"), [(0.0, 50.0), (3_600.0, None)])
def test_first_rate_is_what_passed_lately(idle_seconds: float, ceiling: float | None) -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/limited", 50)) == 50
        await asyncio.sleep(idle_seconds)
        rig.throttles = True
        await rig.run_chunk("/limited", 1)
        await asyncio.sleep(LEAST_WRITE_SECONDS / 2)
        assert (await rig.store.read_limit("upstream")).ceiling == ceiling

    play(scenario, limit=None, slots=100)


def test_what_started_before_a_cut_was_known_says_nothing_although_the_clock_of_the_other_is_behind() -> None:
    async def scenario(rig: Rig) -> None:
        known = LimitState(rate=100.0, ceiling=100.0, cut_at=EPOCH - 100, passed_from=EPOCH - 1, lease="known")
        await rig.store.lease_limit("upstream", LimitState(), known)
        rig.throttles = True
        running = asyncio.create_task(rig.run_chunk("/limited", 50))
        await asyncio.sleep(3 * LATENCY)
        rig.throttles = False
        seen = await rig.store.read_limit("upstream")
        cut = replace(seen, rate=70.0, cut_at=EPOCH + rig.loop.time() - 3, lease="cut")
        await rig.store.lease_limit("upstream", seen, cut)
        verdicts = await running
        assert 0 < succeeded(verdicts) < len(verdicts) == 50
        assert (await rig.store.read_limit("upstream")).rate == 70

    play(scenario, limit=None, slots=20)


def test_long_pause_postpones_what_has_not_started() -> None:
    async def scenario(rig: Rig) -> None:
        rig.throttles, rig.asks_seconds = True, 120.0
        verdicts = await rig.run_chunk("/limited", 50)
        assert verdicts
        assert verdicts.keys() | rig.postponed.keys() == set(range(50))
        assert not verdicts.keys() & rig.postponed.keys()
        assert all(100 < seconds <= 120 + LEAST_POSTPONED_SECONDS for seconds in rig.postponed.values())
        rig.postponed.clear()
        assert await rig.run_chunk("/limited", 5) == {}
        assert rig.postponed.keys() == set(range(5))

    assert play(scenario, limit=None).loop.time() < 10


def test_upstream_that_says_that_nothing_is_left_pauses_the_fleet() -> None:
    async def scenario(rig: Rig) -> None:
        rig.operations.pauses["upstream"] = EPOCH + 8
        assert succeeded(await rig.run_chunk("/limited", 20)) == 20
        state = await rig.store.read_limit("upstream")
        assert state.not_before == pytest.approx(EPOCH + 8)

    starts = play(scenario, limit=None).starts["/limited"]
    assert in_the_first(8, starts) < 5
    assert starts[-1] < 11


def test_chunks_are_postponed_while_the_upstream_is_away_except_for_the_oldest() -> None:
    async def scenario(rig: Rig) -> None:
        rig.throttles, rig.asks_seconds = True, 1.0
        state = LimitState(rate=10.0, away_at=EPOCH - 2 * AWAY_SECONDS, passed_from=EPOCH - 100, lease="seen")
        await rig.store.lease_limit("upstream", LimitState(), state)
        stop = Stop()
        chunks = [asyncio.create_task(rig.run_chunk("/limited", 10, stop=stop)) for _ in range(2 * KEPT_CHUNKS)]
        await asyncio.sleep(30)
        assert sum(chunk.done() for chunk in chunks) == KEPT_CHUNKS
        assert len(rig.starts["/limited"]) < 15
        rig.throttles = False
        await asyncio.gather(*chunks)
        assert rig.loop.time() < 60

    play(scenario)


def test_further_chunks_are_postponed_if_they_would_wait_for_long() -> None:
    async def scenario(rig: Rig) -> None:
        first = asyncio.create_task(rig.run_chunk("/limited", 800))
        await asyncio.sleep(5)
        assert await rig.run_chunk("/limited", 10) == {}
        assert rig.postponed.keys() == set(range(10))
        assert all(LEAST_POSTPONED_SECONDS <= seconds < 60 for seconds in rig.postponed.values())
        assert succeeded(await first) == 800

    play(scenario)


def test_rest_is_postponed_if_the_time_budget_ends_while_the_upstream_is_away() -> None:
    async def scenario(rig: Rig) -> None:
        rig.throttles = True
        state = LimitState(rate=10.0, away_at=EPOCH - 2 * AWAY_SECONDS, passed_from=EPOCH - 100, lease="seen")
        await rig.store.lease_limit("upstream", LimitState(), state)
        stop = Stop()
        running = asyncio.create_task(rig.run_chunk("/limited", 100, stop=stop))
        await asyncio.sleep(60)
        stop.spend()
        verdicts = await running
        assert rig.loop.time() < 60 + 2 * LATENCY
        assert verdicts.keys() | rig.postponed.keys() == set(range(100))
        assert not verdicts.keys() & rig.postponed.keys()
        assert min(rig.postponed.values()) >= LEAST_POSTPONED_SECONDS

    play(scenario)


def test_rest_follows_without_a_delay_if_the_time_budget_ends_while_tokens_come() -> None:
    async def scenario(rig: Rig) -> None:
        stop = Stop()
        running = asyncio.create_task(rig.run_chunk("/limited", 100, stop=stop))
        await asyncio.sleep(3)
        stop.spend()
        assert 10 < succeeded(await running) < 60
        assert rig.postponed == {}

    play(scenario)


def test_limits_share_the_room_for_chunks_that_wait() -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("upstream", "other"):
            await rig.store.lease_limit(name, LimitState(), LimitState(rate=1.0, lease="seen"))
        for path in ("/limited", "/other"):
            await rig.run_chunk(path, 1)
        stop = Stop()
        chunks: list[asyncio.Task[dict[int, Verdict]]] = []
        for path in ("/limited", "/other") * MOST_HELD:
            chunks.append(asyncio.create_task(rig.run_chunk(path, 2, stop=stop)))
            await asyncio.sleep(0)
        await asyncio.sleep(LATENCY)
        assert MOST_HELD <= sum(not chunk.done() for chunk in chunks) <= MOST_HELD + 2
        stop.begin()
        await asyncio.gather(*chunks)

    play(scenario, limit=None)


def test_pause_of_a_limit_without_a_rate_leaves_room_for_others() -> None:
    async def scenario(rig: Rig) -> None:
        rig.operations.pauses["upstream"] = EPOCH + AWAY_SECONDS - 5
        await rig.run_chunk("/limited", 1)
        await asyncio.sleep(3)
        chunks = [asyncio.create_task(rig.run_chunk("/limited", 1)) for _ in range(2 * MOST_HELD)]
        await asyncio.sleep(5)
        assert sum(not chunk.done() for chunk in chunks) == MOST_HELD
        assert min(rig.postponed.values()) >= LEAST_POSTPONED_SECONDS
        await asyncio.gather(*chunks)
        assert rig.loop.time() < AWAY_SECONDS

    play(scenario, limit=None)


def test_operations_of_a_failed_call_are_not_postponed() -> None:
    async def scenario(rig: Rig) -> None:
        rig.calls_fail = rig.throttles = True
        rig.asks_seconds = 120.0
        running = asyncio.create_task(rig.run_chunk("/bulk", 20))
        await asyncio.sleep(1.5)
        await rig.run_chunk("/limited", 1)
        called = len(rig.starts["/bulk"])
        verdicts = await running
        assert 0 < called < 20
        assert succeeded(verdicts) == called
        assert rig.postponed.keys() == set(range(20)) - verdicts.keys()

    assert play(scenario).loop.time() > 120


def test_operations_of_a_failed_call_start_as_fast_as_the_limit_allows() -> None:
    async def scenario(rig: Rig) -> None:
        rig.calls_fail = True
        assert succeeded(await rig.run_chunk("/bulk", 5)) == 5

    single = play(scenario, slots=1).starts["/bulk"][5:]
    assert len(single) == 5
    assert single[-1] - single[0] < 2


def test_token_of_a_worker_that_is_not_needed_goes_to_another_chunk() -> None:
    async def scenario(rig: Rig) -> None:
        slots = Slots(1)
        await slots.acquire()
        turn = Turn(slots, Priority.NORMAL, "")
        with rig.gate.line(turn, 1) as line, rig.gate.line(turn, 1) as other:
            acquiring = asyncio.create_task(line.acquire())
            await asyncio.sleep(3)
            taking = asyncio.create_task(rig.gate.take(other))
            await asyncio.sleep(1)
            assert (line.left, other.left) == (0, 1)
            acquiring.cancel()
            await asyncio.wait([taking], timeout=1)
            assert (line.left, other.left) == (1, 0)

    play(scenario, limit=Limit(rate=0.01))


def test_token_is_given_back_if_nothing_starts_in_its_slot() -> None:
    async def scenario(rig: Rig) -> None:
        slots = Slots(1)
        with rig.gate.line(Turn(slots, Priority.NORMAL, ""), 1) as line:
            for starts in (False, False, True):
                async with asyncio.timeout(3):
                    await line.acquire()
                if starts:
                    line.start(1)
                line.release()
                assert line.left == int(not starts)

    play(scenario, limit=Limit(rate=0.01))


def test_token_for_a_single_operation_is_given_back_if_nothing_starts() -> None:
    async def scenario(rig: Rig) -> None:
        for starts in (False, False, True):
            async with asyncio.timeout(3), rig.token("/limited") as give_back:
                if not starts:
                    give_back()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3), rig.token("/limited"):
                pass
        async with rig.token("/free"):
            pass

    play(scenario, limit=Limit(rate=0.01))


def test_single_operation_waits_for_its_token_or_is_postponed() -> None:
    async def scenario(rig: Rig) -> None:
        state = LimitState(rate=10.0, not_before=EPOCH + 120, lease="seen")
        await rig.store.lease_limit("upstream", LimitState(), state)
        with pytest.raises(PostponedChunk) as postponed:
            async with rig.token("/limited"):
                pass
        assert rig.loop.time() < 3
        assert 115 < postponed.value.seconds <= 120 + LEAST_POSTPONED_SECONDS
        async with rig.token("/limited", may_be_postponed=False):
            assert rig.loop.time() >= 120

    play(scenario)


def test_operation_is_not_postponed_while_there_is_a_token_for_it() -> None:
    async def scenario(rig: Rig) -> None:
        with ExitStack() as stack:
            turn = Turn(Slots(1), Priority.NORMAL, "")
            for _ in range(MOST_HELD):
                stack.enter_context(rig.gate.line(turn, 1))
            await asyncio.sleep(1)
            async with rig.token("/limited"):
                assert rig.loop.time() == 1

    play(scenario)


def test_no_more_tokens_are_leased_than_there_are_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    leased: list[float] = []

    async def scenario(rig: Rig) -> None:
        async def lease_limit(name: str, seen: LimitState, state: LimitState) -> bool:
            leased.append(10.0 * (state.tat - max(seen.tat, state.at)))
            return await MemoryStore.lease_limit(rig.store, name, seen, state)

        monkeypatch.setattr(rig.store, "lease_limit", lease_limit)
        assert succeeded(await rig.run_chunk("/limited", 20)) == 20
        await asyncio.sleep(3)

    play(scenario, slots=10)
    assert sum(leased) == pytest.approx(20, abs=0.01)


def test_nothing_waits_after_a_stop() -> None:
    async def scenario(rig: Rig) -> None:
        stop = Stop()
        running = asyncio.create_task(rig.run_chunk("/limited", 300, stop=stop))
        await asyncio.sleep(2)
        stop.begin()
        began_at = rig.loop.time()
        assert len(await running) < 40
        assert rig.loop.time() - began_at < 2 * LATENCY
        assert rig.postponed == {}

    play(scenario)


def test_process_that_stops_lets_go_of_everybody() -> None:
    async def scenario(rig: Rig) -> None:
        stop = Stop()
        running = asyncio.create_task(rig.run_chunk("/limited", 300, stop=stop))
        await asyncio.sleep(2)
        stop.begin()
        rig.runner.let_go()
        await running
        assert await rig.run_chunk("/limited", 300, stop=stop) == {}

    play(scenario)


def test_table_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        reads = 0

        async def read_limit(name: str) -> LimitState:
            nonlocal reads
            reads += 1
            if reads == 1:
                raise Unavailable("The table is away.")
            return await MemoryStore.read_limit(rig.store, name)

        monkeypatch.setattr(rig.store, "read_limit", read_limit)
        assert succeeded(await rig.run_chunk("/limited", 5)) == 5

    starts = play(scenario).starts["/limited"]
    assert starts[0] >= RETRY_SECONDS


def test_consumer_whose_lease_was_overtaken_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        leases = 0

        async def lease_limit(name: str, seen: LimitState, state: LimitState) -> bool:
            nonlocal leases
            leases += 1
            return leases > 2 and await MemoryStore.lease_limit(rig.store, name, seen, state)

        monkeypatch.setattr(rig.store, "lease_limit", lease_limit)
        assert succeeded(await rig.run_chunk("/limited", 5)) == 5
        assert leases >= 3

    starts = play(scenario).starts["/limited"]
    assert 2 <= starts[0] < 4


def test_handler_that_is_registered_after_the_runner_was_created_has_its_limit() -> None:
    async def scenario(rig: Rig) -> None:
        operations = Operations[Any]()
        runner = Runner(operations, 1, limits=LimitGates({}, lambda _name, _limit: rig.gate))

        @operations.post("/late", limit="upstream")
        async def late() -> None: ...

        operation = Operation(0, "0", "POST", "/late", None)
        with runner.turns([operation], Source("01J", "01J"), may_be_postponed=True) as turn_of:
            assert isinstance(turn_of(operation), Line)

    play(scenario)


def test_gate_that_fails_unexpectedly_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        async def read_limit(_name: str) -> LimitState:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.store, "read_limit", read_limit)
        watching = asyncio.create_task(rig.runner.watch(60, VirtualClock(rig.loop)))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(rig.run_chunk("/limited", 5))
        with pytest.raises(ZeroDivisionError):
            await watching
        assert not waiting.done()

    play(scenario)


def test_gate_that_has_failed_leases_again_with_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        read_limit, errors = rig.store.read_limit, [KeyError("a bug")]

        async def fail_once(name: str) -> LimitState:
            if errors:
                raise errors.pop()
            return await read_limit(name)

        monkeypatch.setattr(rig.store, "read_limit", fail_once)
        first = asyncio.create_task(rig.run_chunk("/limited", 3))
        await asyncio.sleep(5)
        assert not first.done()
        assert succeeded(await rig.run_chunk("/limited", 2)) == 2
        assert succeeded(await first) == 3

    with capture_logs() as logs:
        play(scenario)
    assert [(line["event"], line["limit"]) for line in logs] == [(Event.LIMIT_BROKE, "upstream")]


# --- Permits


TOGETHER = Limit(concurrency=3)


def most_together(starts: list[float]) -> int:
    """Return how many operations ran at the same time."""
    return max(sum(at <= start < at + LATENCY - 1e-9 for at in starts) for start in starts)


async def holders(rig: Rig) -> dict[str, Holder]:
    return dict((await rig.store.read_limit("upstream")).holders)


def test_as_many_operations_run_at_the_same_time_as_there_are_permits() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/limited", 60)) == 60

    starts = play(scenario, limit=TOGETHER, slots=20).starts["/limited"]
    assert most_together(starts) == 3
    assert starts[-1] == pytest.approx(19 * LATENCY)


def test_operation_needs_a_token_and_a_permit() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/limited", 80)) == 80

    rig = play(scenario, limit=Limit(rate=10, concurrency=1), slots=20)
    assert most_together(rig.starts["/limited"]) == 1
    assert 5 < rig.starts["/limited"][-1] < 9


def test_operation_that_waits_for_a_permit_holds_no_slot() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.store.lease_limit("upstream", LimitState(), LimitState(lease="1", holders={"x": Holder(3, 3, 1, 1)}))
        waiting = asyncio.create_task(rig.run_chunk("/limited", 10))
        await asyncio.sleep(1)
        assert succeeded(await rig.run_chunk("/free", 20)) == 20
        assert rig.runner.waiting_for_tokens()[Priority.NORMAL] == 10
        assert succeeded(await waiting) == 10

    assert LEASE_SECONDS < play(scenario, limit=TOGETHER).starts["/limited"][0] < LEASE_SECONDS + 2


def test_operation_that_is_cancelled_when_it_gets_a_permit_leaves_no_token_where_none_is_needed() -> None:
    async def scenario(rig: Rig) -> None:
        with rig.gate.line(Turn(Slots(2), Priority.NORMAL, ""), 3) as line:
            await rig.gate.take(line)
            waiting = asyncio.create_task(rig.gate.take(line))
            await asyncio.sleep(1)
            rig.gate.end()  # its permit goes to the one that waits
            waiting.cancel()
            await asyncio.wait([waiting])
            assert rig.gate._tokens == 0
            await rig.gate.take(line)  # the permit is free again
            rig.gate.end()

    play(scenario, limit=Limit(concurrency=1))


def test_permits_are_given_up_when_nothing_waits_any_more() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.run_chunk("/limited", 10)
        assert [holder.permits for holder in (await holders(rig)).values()] == [2]
        await asyncio.sleep(3)
        assert await holders(rig) == {}
        lease = (await rig.store.read_limit("upstream")).lease
        await asyncio.sleep(60)
        assert (await rig.store.read_limit("upstream")).lease == lease

    play(scenario, limit=TOGETHER)


def test_process_that_ends_gives_its_permits_up() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.run_chunk("/limited", 10)
        assert await holders(rig) != {}
        rig.runner.let_go()
        await rig.runner.close()
        assert await holders(rig) == {}

    play(scenario, limit=TOGETHER)


def test_nothing_starts_while_the_permits_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        async def away(_name: str) -> LimitState:
            raise Unavailable("The table is away.")

        running = asyncio.create_task(rig.run_chunk("/limited", 1_000))
        await asyncio.sleep(5)
        monkeypatch.setattr(rig.store, "read_limit", away)
        await asyncio.sleep(30)
        monkeypatch.undo()
        assert succeeded(await running) == 1_000

    starts = play(scenario, limit=TOGETHER).starts["/limited"]
    assert not [at for at in starts if 5 + LEASE_SECONDS <= at < 35]
    assert [at for at in starts if at >= 35]


def test_operation_that_got_its_slot_after_the_lease_waits_for_a_permit_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        async def away(_name: str) -> LimitState:
            raise Unavailable("The table is away.")

        slots = rig.runner._slots
        for _ in range(slots.count):
            await slots.acquire()
        running = asyncio.create_task(rig.run_chunk("/limited", 1))
        await asyncio.sleep(1)
        monkeypatch.setattr(rig.store, "read_limit", away)
        await asyncio.sleep(2 * LEASE_SECONDS)
        for _ in range(slots.count):
            slots.release()
        await asyncio.sleep(1)
        assert rig.starts == {}
        monkeypatch.undo()
        assert succeeded(await running) == 1

    play(scenario, limit=TOGETHER)


def test_bulk_call_needs_one_permit() -> None:
    async def scenario(rig: Rig) -> None:
        assert succeeded(await rig.run_chunk("/bulk", 20)) == 20

    play(scenario, limit=Limit(concurrency=1))


def test_single_operation_keeps_its_permit_with_its_token() -> None:
    async def scenario(rig: Rig) -> None:
        operation, source = Operation(0, "0", "POST", "/limited", None), Source("01J", "01J")
        async with rig.runner.token(operation, source, may_be_postponed=False):
            waiting = asyncio.create_task(rig.run_chunk("/limited", 1))
            await asyncio.sleep(60)
            assert not waiting.done()
        assert succeeded(await waiting) == 1

    play(scenario, limit=Limit(concurrency=1))


def test_chunks_that_would_wait_long_for_permits_are_postponed() -> None:
    async def scenario(rig: Rig) -> None:
        stop = Stop()
        chunks = [asyncio.create_task(rig.run_chunk("/limited", 500, stop=stop)) for _ in range(MOST_HELD)]
        await asyncio.sleep(2)
        assert await rig.run_chunk("/limited", 10) == {}
        assert rig.postponed.keys() == set(range(10))
        # 20 operations are performed in a second, and 3 in a row need 0.05 s.
        assert all(60 < seconds < 500 * MOST_HELD * LATENCY / 3 for seconds in rig.postponed.values())
        stop.begin()
        await asyncio.gather(*chunks)

    play(scenario, limit=TOGETHER)


def test_clock_of_another_consumer_that_is_far_ahead_does_not_make_calls_longer() -> None:
    async def scenario(rig: Rig) -> None:
        running = asyncio.create_task(rig.run_chunk("/limited", 40))
        await asyncio.sleep(0.7)
        seen = await rig.store.read_limit("upstream")
        assert await rig.store.lease_limit("upstream", seen, replace(seen, at=seen.at + 300, lease="fast"))
        await running
        assert rig.gate.now() > EPOCH + 300  # it has noticed
        verdicts = await asyncio.gather(*(rig.run_chunk("/limited", 30) for _ in range(2)))
        assert list(map(succeeded, verdicts)) == [30, 30]  # none is postponed, as if calls took seconds

    play(scenario, limit=Limit(concurrency=1))


def test_permits_that_others_want_are_given_up_as_soon_as_nothing_waits() -> None:
    async def scenario(rig: Rig) -> None:
        running = asyncio.create_task(rig.run_chunk("/limited", 140))
        await asyncio.sleep(0.5)
        state = await rig.store.read_limit("upstream")
        other = replace(state, lease="other", holders={**state.holders, "x": Holder(0, 3, 99, 1)})
        assert await rig.store.lease_limit("upstream", state, other)
        await running
        await asyncio.sleep(LEAST_WRITE_SECONDS + LATENCY)
        assert (await holders(rig)).keys() == {"x"}

    play(scenario, limit=TOGETHER, slots=20)


# --- Permits of a batch


def test_batch_keeps_to_its_own_concurrency() -> None:
    async def scenario(rig: Rig) -> None:
        limited = asyncio.create_task(rig.run_chunk("/free", 60, concurrency=2))
        assert succeeded(await rig.run_chunk("/other", 60)) == 60
        assert rig.loop.time() < 4 * LATENCY
        assert succeeded(await limited) == 60
        assert 30 * LATENCY - 1e-9 <= rig.loop.time() < 33 * LATENCY

    assert most_together(play(scenario, limit=None, slots=40).starts["/free"]) == 2


def test_operation_needs_the_permits_of_its_batch_and_of_its_route() -> None:
    async def scenario(rig: Rig) -> None:
        narrow = asyncio.create_task(rig.run_chunk("/limited", 30, concurrency=1))
        assert succeeded(await rig.run_chunk("/limited", 60)) == 60
        assert rig.loop.time() < 60 * LATENCY / 2 + 0.5  # what waits for its batch holds no permit of the route
        assert succeeded(await narrow) == 30

    assert most_together(play(scenario, limit=TOGETHER, slots=20).starts["/limited"]) == 3


@pytest.mark.parametrize("path", ["/limited", "/bulk"])
@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize("limit", [Limit(rate=10), Limit(concurrency=3), Limit(rate=10, concurrency=3), None])
def test_only_chunk_of_a_limited_batch_runs_on_a_limited_route(
    path: str, concurrency: int, limit: Limit | None
) -> None:
    async def scenario(rig: Rig) -> None:
        async with asyncio.timeout(30):
            assert succeeded(await rig.run_chunk(path, 10, concurrency=concurrency)) == 10

    play(scenario, limit=limit, slots=20)


def test_operation_that_got_its_slot_before_its_batch_was_limited_makes_no_gate() -> None:
    async def scenario(rig: Rig) -> None:
        chunk = Chunk("01J", "0", 1, (Operation(0, "0", "POST", "/free", None),))
        source = Source("01J", "01J", concurrency=2)
        assert succeeded(await rig.runner.run_chunk(chunk, source, Stop(), lambda _: None, has_slot=True)) == 1
        limits = rig.runner._limits
        assert limits is not None
        assert not limits.has_gate_of_batch("01J")

    play(scenario, limit=None)


def test_chunk_of_a_limited_batch_is_postponed_with_its_route() -> None:
    async def scenario(rig: Rig) -> None:
        rig.operations.pauses["upstream"] = EPOCH + 120
        await rig.run_chunk("/limited", 1)
        await asyncio.sleep(3)
        assert await rig.run_chunk("/limited", 5, concurrency=1) == {}
        assert rig.postponed.keys() == set(range(5))
        assert min(rig.postponed.values()) > 100

    play(scenario, limit=None)


@pytest.mark.parametrize(("concurrency", "together"), [(5, 5), (None, 20)])
def test_concurrency_of_a_batch_can_be_changed(concurrency: int | None, together: int) -> None:
    async def scenario(rig: Rig) -> None:
        running = asyncio.create_task(rig.run_chunk("/free", 1_500, concurrency=1))
        await asyncio.sleep(5)
        rig.runner.limit_batch("01J", concurrency)
        assert succeeded(await running) == 1_500

    starts = play(scenario, limit=None, slots=20).starts["/free"]
    assert most_together([at for at in starts if at < 5]) == 1
    assert most_together([at for at in starts if at > 7]) == together


def test_gate_of_a_batch_ends_when_nothing_uses_it_any_more() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.run_chunk("/free", 5, concurrency=2)
        await asyncio.sleep(5)
        assert (await rig.store.read_limit("batch#01J")).holders == {}
        assert [task for task in rig.loop.tasks if "batch#" in task.get_name() and not task.done()] == []
        assert succeeded(await rig.run_chunk("/free", 5, concurrency=2)) == 5

    play(scenario, limit=None)


def test_single_operation_takes_the_permits_of_its_batch_and_of_its_route() -> None:
    async def scenario(rig: Rig) -> None:
        operation, source = Operation(0, "0", "POST", "/limited", None), Source("01J", "01J", concurrency=1)
        async with rig.runner.token(operation, source, may_be_postponed=False):
            waiting = [asyncio.create_task(rig.run_chunk(path, 1, concurrency=1)) for path in ("/free", "/limited")]
            waiting.append(asyncio.create_task(rig.run_chunk("/limited", 1)))
            await asyncio.sleep(30)
            assert not any(task.done() for task in waiting)
        assert sum([succeeded(await task) for task in waiting]) == 3

    play(scenario, limit=Limit(concurrency=1))
