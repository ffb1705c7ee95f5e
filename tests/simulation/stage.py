"""Plays a run: replaces programs that end, and checks every promise at the end."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

from penstock.aws.store import FOLD_AT
from penstock.consumer.journal import open_file
from penstock.queue import MESSAGES_IN_CALL
from penstock.settings import Settings
from tests.simulation.clients import Client
from tests.simulation.process import State
from tests.simulation.programs import ConsumerProgram, Program, ServiceProgram
from tests.simulation.promises import chunk_of
from tests.simulation.truth import FINAL
from tests.simulation.world import World

SETTLE_SECONDS = 4 * 3600.0
LOOK_SECONDS = 5.0


class Stage:
    """`open` starts the programs. After the last request `close` waits, stops the programs and checks the promises."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        skew_seconds: float = 0.0,
        *,
        has_parents: bool = False,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.world = world
        self.settings = settings
        self.consumers: list[Program] = []
        self.front_ends: list[Program] = []
        self.client = Client(world, self.a_front_end)
        self._skew_seconds = skew_seconds
        self._has_parents = has_parents  # which know when a consumer dies
        self._settle_seconds = settle_seconds
        self.vary: Callable[[Settings], Settings] = lambda settings: settings  # the settings of each consumer
        self._is_closing = False
        self._keeping: list[asyncio.Task[None]] = []
        self._journals: list[int] = []

    @property
    def programs(self) -> list[Program]:
        return self.consumers + self.front_ends

    def open(self, consumers: int = 1, front_ends: int = 1) -> None:
        keeping = [self._keep(ConsumerProgram, self.consumers, number) for number in range(consumers)]
        keeping += [self._keep(ServiceProgram, self.front_ends, number) for number in range(front_ends)]
        self._keeping = [self.world.loop.create_task(one) for one in keeping]

    async def close(self, *, is_gentle: bool = False) -> None:
        """Wait, stop and check. `is_gentle` means that no process died and that nothing was lost."""
        await self.settle()
        await self._check_results()
        self.world.promises.check_list(await self.client.listed())
        await self._stop()
        await asyncio.gather(*self._keeping)
        for journal in self._journals:
            os.close(journal)
        world = self.world
        lapsed = Counter(chunk.id for chunk in map(chunk_of, world.lapses) if chunk is not None)
        world.promises.check_end(world.messages, world.dead_letters.messages, lapsed)
        if is_gentle:
            world.promises.check(not lapsed, 7, f"leases ran out: {lapsed}")
            world.promises.check_nothing_ran_again()

    async def a_front_end(self) -> ServiceProgram:
        while True:
            listening = [one for one in self.front_ends if isinstance(one, ServiceProgram) and one.is_listening]
            if listening:
                return self.world.chance.choice(listening)
            await asyncio.sleep(0.1)

    async def settle(self) -> None:
        """Wait until every batch is finished and the queues are empty, or until that has taken too long."""
        give_up_at = self.world.loop.time() + self._settle_seconds
        while self.world.loop.time() < give_up_at:
            batches = self.world.promises.batches.values()
            is_told = not self.world.promises.webhooks.due
            if all(facts.is_over for facts in batches) and not self.world.messages and is_told:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _keep(self, kind: type[Program], fleet: list[Program], number: int) -> None:
        """Keep one program running. When it ends, start another after a while."""
        chance, truth = self.world.chance, self.world.truth
        generation, journal = 0, None
        while not self._is_closing:
            generation += 1
            skew = chance.uniform(-1, 1) * self._skew_seconds
            truth.most_skew = max(truth.most_skew, abs(skew))
            name = f"{kind.role}-{number}.{generation}"
            if self._has_parents and kind is ConsumerProgram:
                before, journal = journal, open_file()
                program: Program = ConsumerProgram(
                    self.world, name, self.vary(self.settings), skew, journal=journal, predecessor=before
                )
                self._journals.append(journal)
            else:
                settings = self.vary(self.settings) if kind is ConsumerProgram else self.settings
                program = kind(self.world, name, settings, skew)
            fleet.append(program)
            await self._until_ended(program)
            fleet.remove(program)
            if not self._is_closing:
                await asyncio.sleep(chance.uniform(0.1, 1 if self._has_parents else 10))

    async def _until_ended(self, program: Program) -> None:
        """Wait until a program has ended. Kill a process that blocks for too long, as its watchdog would."""
        limit = max(self.settings.stall_seconds, 4 * self.settings.visibility_seconds)
        while True:
            try:
                async with asyncio.timeout(limit / 4):
                    await program.ended.wait()
                    return
            except TimeoutError:
                process = program.process
                if process.state is State.PAUSED and self.world.loop.time() - (process.paused_at or 0) > limit:
                    process.kill()

    async def _check_results(self) -> None:
        for batch_id, facts in list(self.world.promises.batches.items()):
            if facts.state in FINAL:
                await self.client.status_until_answered(batch_id)
                self.world.promises.check_results(batch_id, await self.client.results(batch_id))

    async def _stop(self) -> None:
        """Ask every program to stop, and check that it does."""
        self._is_closing = True
        programs = self.programs
        for program in programs:
            program.terminate()
        longest = self.settings.receive_wait_seconds + self.settings.grace_seconds + 15
        for program in programs:
            try:
                async with asyncio.timeout(longest):
                    await program.ended.wait()
            except TimeoutError:
                blocked = program.process.state is State.PAUSED  # it blocks its loop for ever, and cannot react
                self.world.promises.check(blocked, 7, f"{program.name} has not stopped after {longest} s")
                program.process.kill()


def little_memory() -> ExitStack:
    """Leave memory for a few long results only, so that chunks are cut and operations wait for memory."""
    stack = ExitStack()
    for name, size in {"MOST_BYTES": 6_000, "CHUNK_BYTES": 2_000, "FIRST_CALLS": 3}.items():
        stack.enter_context(patch(f"penstock.running.result_memory.{name}", size))
    stack.enter_context(patch("penstock.large_results.LARGE_BYTES", 500))
    return stack


def little_patience(most_held: int) -> ExitStack:
    """Let a consumer hold few chunks of paused batches, and hide the others only a few times.

    The simulated queue takes a visibility of 10, 30 or 60 seconds for a heartbeat.
    """
    changes = {
        "MOST_HELD": most_held,
        "HELD_SECONDS": 40,
        "MOST_RECEIVES": 2,
        "SHORTEST_SECONDS": 47,
        "LONGEST_SECONDS": 47,
    }
    stack = ExitStack()
    for name, number in changes.items():
        stack.enter_context(patch(f"penstock.consumer.pauses.{name}", number))
    return stack


def short_leases(seconds: float) -> ExitStack:
    """Let the lease of a planner end soon, so that several plan the same batch at the same time."""
    stack = ExitStack()
    stack.enter_context(patch("penstock.consumer.planning.planner.LONGEST_LEASE_SECONDS", seconds))
    return stack


def group_chunks(number: int, fold_at: int = FOLD_AT) -> ExitStack:
    """Make groups smaller, so that a small batch has several. Fold their counters after fewer chunks.

    A batch of several groups is not sent ahead, so that small batches are accepted in both ways.
    """
    stack = ExitStack()
    stack.enter_context(patch("penstock.service.intake.acceptance.MESSAGES_IN_CALL", min(number, MESSAGES_IN_CALL)))
    stack.enter_context(patch("penstock.aws.store.FOLD_AT", fold_at))
    for place in ("penstock.chunk", "penstock.service.batches.results"):
        stack.enter_context(patch(f"{place}.GROUP_CHUNKS", number))
    return stack
