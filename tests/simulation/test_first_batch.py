"""The first batch of a handler, whose time nobody has measured yet, costs hardly more than a later one.

The programs are the real ones, in virtual time: handlers take exactly as long as they wait, and calls to AWS 10 ms.
"""

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.pace import ChunkPace
from penstock.settings import Settings
from tests.simulation.network import Fate
from tests.simulation.process import Process
from tests.simulation.stage import Stage
from tests.simulation.truth import FINAL, Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

ON_THE_WAY_SECONDS = 0.005
FIRST_CHUNK_CALLS = 5  # receive, read, commit, count and delete
FIRST_CHUNK_SECONDS = 2 * ON_THE_WAY_SECONDS * FIRST_CHUNK_CALLS
REST_SECONDS = 90.0  # between two batches. In this time the front end learns what consumers have measured


@dataclass
class CountCalls:
    """Lets every call succeed after the same time, and counts the calls of each kind."""

    calls: Counter[str] = field(default_factory=Counter)
    is_out: bool = False

    def fate(self, process: Process, action: str) -> Fate:
        self.calls[action] += 1
        return Fate(ON_THE_WAY_SECONDS, ON_THE_WAY_SECONDS)

    def before(self, process: Process, fate: Fate) -> None:
        pass

    def after(self, process: Process, fate: Fate) -> None:
        pass

    def calm_down(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch took. `spread_seconds` is how much later the last consumer started its last operation."""

    seconds: float
    requests: int
    spread_seconds: float


def play(
    consumers: int,
    operations: int,
    handler_seconds: float,
    chunk_seconds: float,
    *,
    other_seconds: float | None = None,
    **changes: Any,
) -> tuple[Cost, Cost]:
    """Return the costs of the first batch of a handler, and of a later one that is the same.

    If `other_seconds` is given, the programs have run two batches before, of another handler that takes this time.
    """
    defaults: dict[str, Any] = {"chunk_operations": 100}
    settings = Settings(
        sync_max_operations=0, max_operations=operations, chunk_seconds=chunk_seconds, **defaults | changes
    )
    fates = CountCalls()
    world = World(1, fates, settings.visibility_seconds)
    stage = Stage(world, settings)
    costs: list[Cost] = []

    async def play_batch(label: str, path: str = "/succeed", seconds: float = handler_seconds) -> None:
        submission = Submission(label, [Toy(path, Plan(seconds=seconds)) for _ in range(operations)])
        world.truth.submissions.append(submission)
        fates.calls.clear()
        began_at = world.loop.time()
        await stage.client.submit(submission)
        [batch_id] = submission.batch_ids
        while world.promises.batches[batch_id].state not in FINAL:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        last: defaultdict[str, float] = defaultdict(float)
        for (one, _), runs in world.truth.runs.items():
            if one == batch_id:
                last[runs[0].process] = max(last[runs[0].process], runs[0].started_at)
        requests = fates.calls.total()
        costs.append(Cost(world.loop.time() - began_at, requests, max(last.values()) - min(last.values())))

    async def play_both() -> None:
        stage.open(consumers)
        await asyncio.sleep(1)
        if other_seconds is not None:
            for label in ("o0", "o1"):
                await play_batch(label, "/flaky", other_seconds)
                await asyncio.sleep(1)
            costs.clear()
        await play_batch("s0")
        await asyncio.sleep(REST_SECONDS)
        await play_batch("s1")
        await stage.close(is_gentle=True)

    world.run(play_both())
    first, later = costs
    return first, later


# Each case has chunks of up to 100 operations. A full chunk of 5 ms takes two and a half times its target time, as with
# the default settings.
QUICK, MEDIUM, SLOW = (2_000, 0.0, 0.2), (2_000, 0.005, 0.2), (1_000, 0.5, 2.0)
FEW_SLOW = (160, 0.5, 2.0)  # two rounds for the slots of eight consumers, if each of them gets a chunk at once
OPERATION_SECONDS = 0.5


@pytest.mark.parametrize("consumers", [2, *full([8])])
@pytest.mark.parametrize(
    ("operations", "handler_seconds", "chunk_seconds"), [QUICK, *full([MEDIUM, SLOW, FEW_SLOW])], ids=str
)
def test_first_batch_costs_hardly_more_than_a_later_one(
    consumers: int, operations: int, handler_seconds: float, chunk_seconds: float
) -> None:
    first, later = play(consumers, operations, handler_seconds, chunk_seconds)
    # A consumer that has measured nothing receives one chunk alone. These batches are too small to make up for that.
    assert first.seconds <= 1.25 * later.seconds + FIRST_CHUNK_SECONDS
    assert first.requests <= 1.25 * later.requests + FIRST_CHUNK_CALLS * consumers
    assert first.spread_seconds <= chunk_seconds


@pytest.mark.parametrize("consumers", [*full([2]), 8])
@pytest.mark.parametrize(
    ("handler_seconds", "other_seconds", "chunk_operations", "chunk_seconds"),
    [(0.005, 0.0, 160, 0.32), *full([(0.0, 0.005, 1_000, 2.0)])],
)
def test_first_batch_costs_hardly_more_after_batches_of_another_handler(
    consumers: int, handler_seconds: float, other_seconds: float, chunk_operations: int, chunk_seconds: float
) -> None:
    """The consumers expect that the handler takes as long as the one before it. A batch has ten full chunks."""
    times = {"handler_seconds": handler_seconds, "other_seconds": other_seconds, "chunk_seconds": chunk_seconds}
    first, later = play(consumers, 10 * chunk_operations, chunk_operations=chunk_operations, **times)
    assert first.seconds <= 1.25 * later.seconds + FIRST_CHUNK_SECONDS
    assert first.requests <= 1.25 * later.requests + FIRST_CHUNK_CALLS * consumers
    assert first.spread_seconds <= chunk_seconds


def play_few_chunks() -> tuple[Cost, Cost]:
    """Four full chunks of a slow handler on three consumers: one of them gets two."""
    return play(3, 400, OPERATION_SECONDS, 2.0, min_chunks=4)


def test_slow_chunks_are_shared_out_among_all_consumers() -> None:
    first, later = play_few_chunks()
    assert first.seconds <= 1.25 * later.seconds
    assert first.requests <= 1.25 * later.requests
    assert first.spread_seconds <= OPERATION_SECONDS


MUTANTS = {
    "nothing is cut": ("observe", lambda _self, _count, _seconds: False),
    "the rest is one piece": ("pieces", lambda _self, _rest: 1),
}


@pytest.mark.parametrize("name", full(MUTANTS))
def test_consumers_are_idle_if_slow_chunks_are_not_shared_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(ChunkPace, *MUTANTS[name])
    first, _ = play_few_chunks()
    assert first.spread_seconds > OPERATION_SECONDS
