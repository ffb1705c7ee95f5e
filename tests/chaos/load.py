"""The client under chaos: it submits until it has an answer, and follows its batches."""

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
NOT_NOW = {409, 503}  # a front end that may be dead has the key; or the queue or the table is unavailable


@dataclass
class Load:
    """The operations of a scenario, in one batch for each fault. `batches` are the accepted ones, in order.

    The methods that wait have no time limit; the caller sets one. The ids are unique over all scenarios and begin with
    the scenario's `name`, so that the journal shows every run of an operation.
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
        """Submit the next batch with a new key, and repeat the request until there is an answer."""
        number = len(self.batches)
        key = f"{self.name}-{number}"
        batch_id = await self._submit(key, self.operations[number])
        self.batches.append(batch_id)
        if await self._submit(key, self.operations[number]) != batch_id:
            self.broken.append(f"the key {key} created a second batch")
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
        """Return the id of the batch, or None if the request must be repeated."""
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
        """Read the status of a batch and compare it with the one before. Return None if no front end answers."""
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
        """Wait until a random share of the batch has outcomes, which is the time for a fault."""
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
    """A kind of load: operations that take about `seconds`. One in `poison_in` kills its process."""

    name: str
    seconds: float
    poison_in: int = 0


def make_load(kind: Kind, batches: int, operations: int, draw: random.Random) -> list[list[Operation]]:
    """Return this number of operations, divided into this number of batches."""
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
