"""A consumer makes few calls to AWS one after the other until a small batch is final.

The programs are the real ones, in virtual time: handlers take no time, and each call to AWS takes 10 ms.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from penstock.consumer import readers_first
from penstock.settings import Settings
from tests.simulation.network import Fate
from tests.simulation.process import Process
from tests.simulation.stage import Stage
from tests.simulation.test_first_batch import ON_THE_WAY_SECONDS, CountCalls
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World

CALL_SECONDS = 2 * ON_THE_WAY_SECONDS

# The calls of the consumer, without receives. Those that start at the same time are in one line. An empty set is a time
# in which none starts. If the acceptance of the batch is still on its way at the first of them, the consumer reads the
# batch once more.
READ_AGAIN = {"GetItem"}
TIME_LINE: list[set[str]] = [
    {"BatchGetItem"},  # read the batch, and the record of the chunk
    {"PutItem"},  # commit the record
    {"PutItem"},  # count the chunk, which is all of its group. From now on the status is final
    {"SendMessageBatch"},  # send the dead letter
    *[set[str]()] * (round(readers_first.SECONDS / CALL_SECONDS) - 1),
    {"UpdateItem"},  # start and finish the batch, once its client has had time to read the end
    {"DeleteMessageBatch"},
]


@dataclass
class NoteCalls(CountCalls):
    """Notes when each call of the consumer starts."""

    started: list[tuple[float, str]] = field(default_factory=list)

    def fate(self, process: Process, action: str) -> Fate:
        if process.name.startswith("consumer") and action != "ReceiveMessage":
            self.started.append((asyncio.get_running_loop().time(), action))
        return super().fate(process, action)


def test_consumer_makes_few_calls_one_after_the_other() -> None:
    settings = Settings(sync_max_operations=0, min_chunks=1)
    calls = NoteCalls()
    world = World(1, calls, settings.visibility_seconds)
    stage = Stage(world, settings)
    submission = Submission("s0", [Toy(path, Plan(seconds=0)) for path in ("/succeed", "/reject")])
    world.truth.submissions.append(submission)

    async def play() -> None:
        stage.open()
        await asyncio.sleep(1)
        calls.started.clear()
        await stage.client.submit(submission)
        await asyncio.sleep(CALL_SECONDS * 2 * len(TIME_LINE))  # so that calls after the last one are seen, too
        seen = list(calls.started)
        await stage.close(is_gentle=True)
        steps = defaultdict[int, set[str]](set)
        for at, action in seen:
            steps[round((at - seen[0][0]) / CALL_SECONDS)].add(action)
        made = [steps[step] for step in range(max(steps) + 1)]
        if made[1] == READ_AGAIN:
            del made[1]
        assert made == TIME_LINE

    world.run(play())
