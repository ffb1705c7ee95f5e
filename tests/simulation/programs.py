"""Runs Penstock's unchanged programs as simulated processes."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from penstock.consumer.consumer import Consumer
from penstock.consumer.giving_back import giving_back
from penstock.consumer.journal import Journal
from penstock.errors import HandlersStuck
from penstock.service.app import create_app, create_operator_app
from penstock.service.keys import RUNNER
from penstock.settings import Settings
from penstock.testing.http import Answer, ask
from tests.simulation.process import ProcessClock
from tests.simulation.world import World


class Program:
    """A process with a main task. It starts when it is created, and ends by `terminate` (SIGTERM) or by a kill."""

    role = "program"

    def __init__(self, world: World, name: str, settings: Settings, skew_seconds: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.settings = settings
        self.process = world.process(name)
        self.clock = ProcessClock(world.loop, skew_seconds)
        self.terminated_at: float | None = None
        self.ended = asyncio.Event()
        self.process.on_death.append(self.ended.set)
        self._stopping = asyncio.Event()
        world.note(name, "starts")
        self._main = self.process.start(self._run(), "main")
        self._main.add_done_callback(self._exit, context=world.context)

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive

    def terminate(self) -> None:
        if self.terminated_at is None and self.is_alive:
            self.terminated_at = self.world.loop.time()
            self.world.note(self.name, "is asked to stop")
            self.process.call(self._stopping.set)

    async def _run(self) -> None:
        raise NotImplementedError

    def _exit(self, main: asyncio.Task[None]) -> None:
        if self.world.is_over or not self.is_alive:
            return
        error = None if main.cancelled() else main.exception()
        gave_up = isinstance(error, HandlersStuck)
        self.world.promises.check(error is None or gave_up, 0, f"{self.name} ended with {error!r}")
        self.world.note(self.name, "exits")
        self.process.kill()


class ConsumerProgram(Program):
    """A consumer. With a parent it has a journal, and gives back what is in `predecessor`, its predecessor's."""

    role = "consumer"

    def __init__(
        self,
        world: World,
        name: str,
        settings: Settings,
        skew_seconds: float = 0.0,
        *,
        journal: int | None = None,
        predecessor: int | None = None,
    ) -> None:
        self.journal = journal
        self._predecessor = predecessor
        super().__init__(world, name, settings, skew_seconds)

    async def _run(self) -> None:
        backend = self.world.backend(self.process, self.settings)
        journal = Journal(self.journal)
        consumer = Consumer(
            backend,
            self.world.truth.operations,
            self.settings,
            self.clock,
            journal=journal,
            post=self.world.receiver.post,
        )
        self.world.promises.names[consumer.process] = self.name
        stopping = asyncio.create_task(self._stopping.wait(), name=f"{self.name}: signals")
        stopping.add_done_callback(lambda _: consumer.stop())
        try:
            with giving_back(self._predecessor, backend, self.clock):
                await consumer.run()
        finally:
            stopping.cancel()


class ServiceProgram(Program):
    """Answers `ask` until it is terminated. Then it finishes the requests in flight and exits."""

    role = "service"

    def __init__(self, world: World, name: str, settings: Settings, skew_seconds: float = 0.0) -> None:
        self._app: web.Application | None = None
        self._operators: web.Application | None = None
        self._under_way: set[asyncio.Task[Answer]] = set()
        super().__init__(world, name, settings, skew_seconds)

    @property
    def is_listening(self) -> bool:
        return self.is_alive and self._app is not None and self.terminated_at is None

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request as a client. Raises ConnectionResetError if the process dies before it has answered."""
        app = self._operators if path.startswith(("/dead-letters", "/queues")) else self._app
        assert app is not None
        answer: asyncio.Future[Answer] = self.world.loop.create_future()
        task = self.process.start(ask(app, method, path, body, headers), f"{method} {path}")
        self._under_way.add(task)
        task.add_done_callback(lambda _: self._under_way.discard(task), context=self.world.context)
        task.add_done_callback(lambda _: _hand_over(task, answer), context=self.world.context)
        self.process.on_death.append(lambda: _reset(answer))
        return await answer

    async def _run(self) -> None:
        backend = self.world.backend(self.process, self.settings)
        app = create_app(self.settings, self.world.truth.operations, backend, self.clock)
        operators = create_operator_app(app, "localhost")
        for one in (app, operators):
            one.freeze()
            await one.startup()
        self._operators = operators
        self._app = app
        watching = asyncio.create_task(app[RUNNER].watch(self.settings.stall_seconds, self.clock))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._app = None
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.settings.grace_seconds)
        await app.cleanup()
        stopping.cancel()
        if watching.done():
            watching.result()
        watching.cancel()


def _hand_over(task: asyncio.Task[Answer], answer: asyncio.Future[Answer]) -> None:
    if answer.done():
        return
    if task.cancelled() or task.exception() is not None:
        answer.set_exception(ConnectionResetError())
    else:
        answer.set_result(task.result())


def _reset(answer: asyncio.Future[Answer]) -> None:
    if not answer.done():
        answer.set_exception(ConnectionResetError())
