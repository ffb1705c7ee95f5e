"""The client under chaos: it submits until it has an answer, and watches what becomes of its batches."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp

from penstock.priority import Priority
from tests.chaos.app import POISON_PATH, WORK_PATH
from tests.support.api import Api, Operation, Status
from tests.support.waiting import UNIT_SECONDS

REPEAT_SECONDS = 0.1
SUBMIT_UNITS = 60
NOT_NOW = {409, 503}  # its key is being answered by one that may be dead; the queue or the table is away


@dataclass
class Load:
    """A scenario's operations, in as many batches as it has faults; `batches` are those accepted, in order.

    Whoever waits here brings the deadline. Every operation has an id of its own among those of all scenarios, which
    begins with the scenario's `name`, so the journal shows it wherever it was run.
    """

    session: aiohttp.ClientSession
    api: Api
    name: str
    operations: Sequence[Sequence[Operation]]
    batches: list[str] = field(default_factory=list)
    last: dict[str, Status] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    repeats: int = 0

    async def submit_next(self) -> str:
        """One more batch, under a key of its own: repeated until there is an answer."""
        number = len(self.batches)
        key = f"{self.name}-{number}"
        batch_id = await self._submit(key, self.operations[number])
        self.batches.append(batch_id)
        if await self._submit(key, self.operations[number]) != batch_id:
            self.broken.append(f"the key {key} made a second batch")
        return batch_id

    async def _submit(self, key: str, operations: Sequence[Operation]) -> str:
        priority = list(Priority)[int(key.rpartition("-")[2]) % len(Priority)]  # the same when it is sent again
        body = json.dumps({"operations": list(operations), "priority": priority}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{key}"'}
        async with asyncio.timeout(SUBMIT_UNITS * UNIT_SECONDS):
            while True:
                answer = await self._post(body, headers)
                if answer is not None:
                    return answer
                self.repeats += 1
                await asyncio.sleep(REPEAT_SECONDS)

    async def _post(self, body: bytes, headers: dict[str, str]) -> str | None:
        """The batch's id; None if the request is to be repeated."""
        try:
            async with self.session.post(f"{self.api.url}/batch", data=BytesIO(body), headers=headers) as answer:
                content: dict[str, Any] = await answer.json(content_type=None)
        except (aiohttp.ClientError, ValueError):
            return None
        if answer.status in NOT_NOW:
            return None
        assert answer.status == 202, (answer.status, content)
        batch_id: str = content["batchId"]
        return batch_id

    async def look(self, batch_id: str) -> Status | None:
        """A batch's status, held against the one before; None while no front end answers."""
        try:
            answer = await self.api.get(f"/batch/{batch_id}/status")
        except (aiohttp.ClientError, ValueError):
            return None
        if answer.status == 503:
            return None
        assert answer.status == 200, answer
        status = Status(**{name: answer.body[name] for name in Status.__dataclass_fields__})
        before = self.last.get(batch_id)
        if not status.is_exact:
            self.broken.append(f"inexact counters: {batch_id} {status}")
        if before is not None and (status.completed < before.completed or (before.is_final and status != before)):
            self.broken.append(f"counters went back: {batch_id} from {before} to {status}")
        self.last[batch_id] = status
        return status

    async def until_under_way(self, batch_id: str, draw: random.Random) -> None:
        """Until a share of the batch, at random, has its outcome: that is when something is to happen."""
        share = draw.uniform(0.05, 0.9)
        await self._until(batch_id, lambda status: status.completed >= share * status.total)

    async def until_final(self) -> None:
        for batch_id in self.batches:
            await self._until(batch_id, lambda status: status.is_final)

    async def _until(self, batch_id: str, is_reached: Callable[[Status], bool]) -> None:
        while True:
            status = await self.look(batch_id)
            if status is not None and is_reached(status):
                return
            await asyncio.sleep(REPEAT_SECONDS)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a load is made of: operations that linger about `seconds`; one in `poison_in` kills its process."""

    name: str
    seconds: float
    poison_in: int = 0


def make_load(kind: Kind, batches: int, operations: int, draw: random.Random) -> list[list[Operation]]:
    """So many operations in so many batches."""
    poison = set(draw.sample(range(operations), operations // kind.poison_in)) if kind.poison_in else set()
    sizes = [operations // batches + (number < operations % batches) for number in range(batches)]
    made: list[list[Operation]] = []
    first = 0
    for size in sizes:
        numbers = range(first, first + size)
        made.append([_poison(kind, one) if one in poison else _work(kind, one, draw) for one in numbers])
        first += size
    return made


def _work(kind: Kind, number: int, draw: random.Random) -> Operation:
    body = {"seconds": round(draw.uniform(0, 2 * kind.seconds), 4)}
    return {"id": f"{kind.name}-work-{number}", "method": "POST", "path": WORK_PATH, "body": body}


def _poison(kind: Kind, number: int) -> Operation:
    return {"id": f"{kind.name}-poison-{number}", "method": "POST", "path": POISON_PATH}
