"""The cost in a status is what the calls of the programs cost, and reporting it makes no counter expensive.

The programs are the real ones, in virtual time. Every call is billed as AWS does, and compared with what they report.
"""

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from bench.billing import units_of
from penstock.aws import items
from penstock.aws.attributes import Item
from penstock.aws.billing import item_bytes
from penstock.cost import WRITE_UNIT_BYTES, Prices, Units, sum_units
from penstock.settings import Settings
from tests.simulation.network import Wire
from tests.simulation.stage import Stage
from tests.simulation.test_first_batch import CountCalls
from tests.simulation.truth import FINAL, Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

OF_NO_BATCH = ("handler#", "sweep", "limit#")
BESIDE_BATCHES = ("queues",)  # read in the same call as a batch, and billed to nobody


def is_of_no_batch(action: str, request: Any, answer: Any) -> bool:
    """Return True for what programs do without any batch: checks, empty receives, sweeps, and times of handlers."""
    if action == "ReceiveMessage":
        return not answer.get("Messages")
    is_of_none = any(key["pk"]["S"].startswith(OF_NO_BATCH) for key in keys_of(request))
    return action in {"Query", "GetQueueAttributes"} or is_of_none


def keys_of(request: Any) -> list[Item]:
    """Return the keys of the items that a call reads or writes."""
    keys = [key for wanted in request.get("RequestItems", {}).values() for key in wanted["Keys"]]
    return keys + [request[name] for name in ("Key", "Item") if name in request]


def play(consumers: int, toys: list[Toy], **changes: Any) -> tuple[Units, Units, int]:
    """Return what the calls for a batch cost, what programs report, and the size of the largest counter."""
    settings = Settings(sync_max_operations=0, max_operations=len(toys), **changes)
    world = World(1, CountCalls(), settings.visibility_seconds)
    stage = Stage(world, settings)
    submission = Submission("s0", toys)
    world.truth.submissions.append(submission)
    billed: defaultdict[str, Units] = defaultdict(Units)
    ask = Wire.ask_slowly

    async def bill(wire: Wire, action: str, request: Any, effect: Any) -> Any:
        answer = await ask(wire, action, request, effect)
        if not is_of_no_batch(action, request, answer):
            others = Units(reads=sum(key["pk"]["S"] in BESIDE_BATCHES for key in keys_of(request)))
            billed[action] += units_of(action, request, answer) + Units(requests=1) + others.times(-1)
        return answer

    async def play_batch() -> None:
        stage.open(consumers)
        await asyncio.sleep(1)
        await stage.client.submit(submission)
        [batch_id] = submission.batch_ids
        while world.promises.batches[batch_id].state not in FINAL:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # the last deletions
        batch = item(world, items.batch_key(batch_id))
        groups = range(len(items.batch_from_item(batch).group_totals))
        counters = [item(world, items.count_key(batch_id, group)) for group in groups]
        found.append(sum_units(map(items.spent_from_item, [batch, *counters])))
        found.append(sum_units(billed.values()))
        sizes.extend(map(item_bytes, counters))
        await stage.close(is_gentle=True)

    found: list[Units] = []
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Wire, "ask_slowly", bill)
        world.run(play_batch())
    reported, cost = found
    return cost, reported, max(sizes)


def item(world: World, key: Item) -> Item:
    found = world.table.item(items.place_of(key))
    assert found is not None
    return found


def toys(count: int, seconds: float, *, failing: int = 0) -> list[Toy]:
    return [Toy("/reject" if number < failing else "/succeed", Plan(seconds=seconds)) for number in range(count)]


Case = tuple[int, list[Toy], dict[str, Any]]
SMALL: Case = (1, toys(20, 0.01, failing=1), {})
FAILURES: Case = (2, toys(400, 0.05, failing=20), {"chunk_operations": 10})
SLOW: Case = (4, toys(640, 1.0), {"chunk_operations": 10})
MANY_GROUPS: Case = (2, toys(300, 0.01), {"chunk_operations": 2, "chunk_seconds": 0.02, "min_chunks": 150})
CASES = {"small": SMALL, "failures": FAILURES, "slow": SLOW, "many groups": MANY_GROUPS}


@pytest.mark.parametrize("name", ["small", "failures", *full(["slow", "many groups"])])
def test_reported_cost_is_that_of_the_calls(name: str) -> None:
    consumers, operations, changes = CASES[name]
    cost, reported, largest_counter = play(consumers, operations, **changes)
    assert Prices().usd(reported) == pytest.approx(Prices().usd(cost), rel=0.1)
    for unit in ("sqs", "writes", "reads", "requests"):
        assert getattr(reported, unit) == pytest.approx(getattr(cost, unit), rel=0.1, abs=1), (unit, cost, reported)
    assert largest_counter < WRITE_UNIT_BYTES
