"""A whole bulk API in memory, for the tests of an application: its front end and a consumer, in one event loop."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from penstock.consumer.consumer import Consumer
from penstock.operations import Operations
from penstock.service.app import create_app, create_operator_app
from penstock.service.schemas import PAUSED
from penstock.settings import given_settings
from penstock.testing.http import Answer as HttpAnswer
from penstock.testing.http import ask
from penstock.testing.memory import FakeClock, memory_parts

MOST_TURNS = 100_000
TURN_SECONDS = 1.0  # the consumer remembers a batch for as long
FINAL = frozenset({"completed", "failed", "cancelled", "expired"})
_OPERATORS = ("/dead-letters", "/keys", "/limits", "/metrics", "/queues")
_DEFAULTS: dict[str, Any] = {"receive_wait_seconds": 0, "min_chunks": 1, "show_errors": True}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an operation. `result` is what its handler returned, as JSON; `error` is None if it succeeded."""

    id: str
    status: int
    result: Any = None
    error: dict[str, Any] | None = None

    @property
    def succeeded(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch that was posted.

    Attributes:
        status: The HTTP status of the request: 200 or 202, or for example 422 if the batch is invalid.
        body: The JSON of the answer to the request.
        state: How the batch ended: `completed`, `failed`, `cancelled` or `expired`. None if the request was rejected.
        outcomes: The outcomes in the order of the operations.
    """

    status: int
    body: Any
    state: str | None = None
    outcomes: tuple[Outcome, ...] = field(default=())

    @property
    def results(self) -> list[Any]:
        """Return the results in the order of the operations. The result of one that failed is None."""
        return [outcome.result for outcome in self.outcomes]

    @property
    def statuses(self) -> list[int]:
        """Return the statuses of the outcomes in the order of the operations."""
        return [outcome.status for outcome in self.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """Return the outcomes of the operations that did not succeed."""
        return [outcome for outcome in self.outcomes if not outcome.succeeded]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return the errors of a request that was rejected, each with a `pointer` and a `detail`."""
        errors: list[dict[str, Any]] = self.body.get("errors", [])
        return errors


class TestBulk:
    """A bulk API in memory. Use it as an async context manager.

    It runs the lifespan of the application, its middleware and its handlers. Time is a `FakeClock`: whenever everything
    waits (for a retry or for `notBefore`), the clock moves on to the time at which it continues. Only what a
    handler itself waits for takes real time. Limits of the fleet (`limit=`) do not apply.

    Args:
        operations: The operations of the application.
        **settings: Settings by their names in lower case, without PENSTOCK_, such as `max_operations=500`. The others
            have their defaults: the environment changes nothing.

    Attributes:
        clock: The clock of the front end and the consumer.

    Raises:
        Misconfigured: A setting is unknown or invalid.
    """

    __test__ = False  # pytest would take it for a class of tests

    def __init__(self, operations: Operations[Any], **settings: Any) -> None:
        self.clock = FakeClock()
        self._operations = operations
        self._settings = given_settings(**{**_DEFAULTS, **settings})
        self._parts = memory_parts(self.clock, self._settings.visibility_seconds)
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._apps: list[web.Application] = []
        self._consumer: Consumer | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            operations, backend = self._operations, self._parts.backend
            await stack.enter_async_context(operations.connections(self._settings.connections_for_each_host))
            await stack.enter_async_context(operations.running())
            app = create_app(self._settings, operations, backend, self.clock, keeps_limits=False)
            self._apps = [app, create_operator_app(app, "localhost")]
            for one in self._apps:
                one.freeze()
                await one.startup()
                stack.push_async_callback(_stop, one)
            self._consumer = Consumer(
                backend, operations, self._settings, self.clock, keeps_limits=False, lets_readers_first=False
            )
            stack.push_async_callback(_drain, self._consumer)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def post(
        self, operations: Sequence[Mapping[str, Any]], *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """Submit a batch and wait until it is final.

        An operation is a dict with `method`, `path` and perhaps `body`, `id` and `key`. `options` are those of the
        batch, such as `priority="high"` or `atomic=True`. A batch that is not atomic runs in the consumer, in the
        background.
        """
        answer = await self.submit(operations, headers=headers, **options)
        if answer.status != 202:
            return answer
        batch_id = answer.body["batchId"]
        state = await self.wait(batch_id)
        return Answer(answer.status, answer.body, state, await self._outcomes(batch_id))

    async def submit(
        self, operations: Sequence[Mapping[str, Any]], *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """Submit a batch as `post` does, but do not wait for it. Its id is `answer.body["batchId"]`."""
        prefer = {} if options.get("atomic") else {"Prefer": "respond-async"}
        asked = {"operations": list(operations), **options}
        answer = await self.request("POST", "/batch", asked, headers={**prefer, **(headers or {})})
        if answer.status == 200 and "results" in answer.body:
            outcomes = tuple(map(_outcome, answer.body["results"]))
            state = "completed" if any(outcome.succeeded for outcome in outcomes) else "failed"
            return Answer(answer.status, answer.body, state, outcomes)
        return Answer(answer.status, answer.body)

    async def wait(self, batch_id: str) -> str:
        """Run the consumer until a batch is final, and return its state."""
        can_go_on = True
        for _ in range(MOST_TURNS):
            status = (await self.request("GET", f"/batch/{batch_id}/status")).body
            state: str = status["status"]
            if state in FINAL:
                return state
            if state == PAUSED:
                raise AssertionError(f"The batch {batch_id} is paused. Resume it before you wait for it.")
            if not can_go_on:
                raise AssertionError(f"Nothing is left that could run, but the batch is {state}: {json.dumps(status)}")
            can_go_on = await self._take_turn()
        raise AssertionError(f"The batch is {state} after {MOST_TURNS:,} turns: {json.dumps(status)}")

    async def run_until_idle(self) -> None:
        """Run the consumer until no message is left, for instance after a retry or a redrive."""
        for _ in range(MOST_TURNS):
            if not await self._take_turn():
                return
        raise AssertionError(f"There are still messages after {MOST_TURNS:,} turns.")

    async def request(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Send any request to the front end: `await bulk.request("POST", f"/batch/{batch_id}/cancel")`.

        The answer has `status`, `headers`, `content`, and `body`, which is the content as JSON. Paths of operators
        reach their own port.
        """
        if not self._apps:
            raise RuntimeError("Use `async with TestBulk(operations) as bulk:`.")
        app = self._apps[path.startswith(_OPERATORS)]
        return await ask(app, method, path, body, headers)

    async def dead_letters(self) -> list[dict[str, Any]]:
        """Return the operations in the dead letter queue, each with its status and error."""
        letters = (await self.request("GET", "/dead-letters?limit=100")).body["deadLetters"]
        return [operation for letter in letters for operation in letter["operations"]]

    async def _outcomes(self, batch_id: str) -> tuple[Outcome, ...]:
        answer = await self.request("GET", f"/batch/{batch_id}/results", headers={"Accept": "application/x-ndjson"})
        return tuple(map(_outcome, answer.lines))

    async def _take_turn(self) -> bool:
        """Let the consumer receive what is there, and run it. If everything waits, move the clock on before that.

        Return False if nothing is left.
        """
        assert self._consumer is not None
        async with self._turn:
            due_at = min(queue.next_visible_at for queue in self._parts.queues.values())
            if due_at == math.inf:
                return False
            self.clock.advance(max(TURN_SECONDS, due_at - self.clock.now()))
            await self._consumer.take_turn()
            return True


async def _stop(app: web.Application) -> None:
    await app.shutdown()
    await app.cleanup()


async def _drain(consumer: Consumer) -> None:
    consumer.stop()
    await consumer.run()


def _outcome(line: Mapping[str, Any]) -> Outcome:
    return Outcome(line["id"], line["status"], line.get("result"), line.get("error"))
