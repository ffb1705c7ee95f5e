"""The faults of a storm, one method for each: in processes, in clocks and in queues, and by operators."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.priority import Priority
from tests.simulation.mixes import Mix
from tests.simulation.process import State
from tests.simulation.programs import Program
from tests.simulation.promises import ANSWERED
from tests.simulation.sqs import Oddities, Queue
from tests.simulation.stage import Stage

Action = Callable[[], Coroutine[Any, Any, None]]

GARBAGE = [
    "hello",
    "zstd:@@@@",
    '{"v":99,"batch":"b","chunk":"0","attempt":1,"operations":[]}',
    '{"v":1,"batch":"nobody-knows","chunk":"0","attempt":1,"operations":[[0,"x-0","POST","/succeed",{}]]}',
]


class Chaos:
    def __init__(self, stage: Stage, mix: Mix) -> None:
        self._stage = stage
        self._world = stage.world
        self._chance = stage.world.chance
        self._mix = mix
        self._calm_at = 0.0  # when the last pause is over

    async def rage(self, seconds: float) -> None:
        mix = self._mix
        actions: list[tuple[float | None, Action]] = [
            (mix.kill_consumer, lambda: self._kill(self._stage.consumers)),
            (mix.kill_all, self._kill_all),
            (mix.outage, self._fail_everything),
            (mix.kill_front_end, lambda: self._kill(self._stage.front_ends)),
            (mix.pause, self._pause),
            (mix.terminate, self._terminate),
            (mix.jump_clock, self._jump_clock),
            (mix.redrive, self._redrive),
            (mix.garbage, self._put_garbage),
            (mix.lose, self._lose),
            (mix.pause_queue, self._pause_queue),
        ]
        until = self._world.loop.time() + seconds
        raging = [self._every(mean, until, action) for mean, action in actions if mean is not None]
        tasks = [self._world.loop.create_task(one) for one in raging]
        self._make_odd(mix.oddities)
        await asyncio.sleep(seconds)
        await asyncio.gather(*tasks)
        for program in self._stage.programs:
            program.process.spare()
        await asyncio.sleep(self._calm_at - self._world.loop.time())
        self._make_odd(Oddities())
        self._world.fates.calm_down()
        await asyncio.sleep(
            self._world.landed_at - self._world.loop.time()
        )  # calls that were given up may still take effect
        self._world.note("world", "the storm is over")

    def _make_odd(self, oddities: Oddities) -> None:
        for queue in (*self._world.queues.values(), self._world.dead_letters):
            queue.oddities = oddities

    def _any_queue(self) -> Queue:
        return self._chance.choice(list(self._world.queues.values()))

    async def _every(self, mean: float, until: float, action: Action) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / mean))
            if self._world.loop.time() > until:
                return
            await action()

    async def _kill(self, fleet: list[Program]) -> None:
        """Kill a program immediately, or soon in the middle of what it does."""
        alive = [program for program in fleet if program.is_alive]
        if not alive:
            return
        process = self._chance.choice(alive).process
        match self._chance.randint(1, 4):
            case 1:
                process.kill()
            case 2:
                process.dies_at_step = process.steps + self._chance.randint(1, 80)
            case _:
                process.strike_in(self._chance.randint(1, 40), process.kill)

    async def _kill_all(self) -> None:
        for program in list(self._stage.consumers):
            program.process.kill()

    async def _fail_everything(self) -> None:
        """Let AWS answer nobody for longer than a lease."""
        seconds = self._chance.uniform(1.1, 2.5) * self._stage.settings.visibility_seconds
        self._world.note("world", f"AWS does not answer for {seconds:.1f} s")
        self._world.fates.is_out = True
        await asyncio.sleep(seconds)
        self._world.fates.is_out = False
        self._world.note("world", "AWS answers again")

    async def _pause(self) -> None:
        running = [program for program in self._stage.programs if program.process.state is State.RUNNING]
        if not running:
            return
        program = self._chance.choice(running)
        longest = self._chance.choice([0.1, 2.0, 2.5 * self._stage.settings.visibility_seconds])
        seconds = self._chance.uniform(0, longest)

        def pause() -> None:
            self._world.note(program.name, f"is paused for {seconds:.1f} s")
            program.process.pause()
            self._world.truth.paused.add(program.name)
            self._world.truth.longest_pause = max(self._world.truth.longest_pause, seconds)
            self._calm_at = max(self._calm_at, self._world.loop.time() + seconds)
            self._world.loop.call_later(seconds, program.process.resume, context=self._world.context)

        if self._chance.random() < 0.5:
            pause()
        else:
            program.process.strike_in(self._chance.randint(1, 40), pause)

    async def _terminate(self) -> None:
        running = [program for program in self._stage.programs if program.terminated_at is None]
        if running:
            self._chance.choice(running).terminate()

    async def _jump_clock(self) -> None:
        if not self._stage.programs:
            return
        program = self._chance.choice(self._stage.programs)
        program.clock.skew_seconds += self._chance.choice([-1, 1]) * self._chance.choice([0.5, 10, 300])
        self._world.truth.most_skew = max(self._world.truth.most_skew, abs(program.clock.skew_seconds))
        self._world.note(program.name, f"has its clock off by {program.clock.skew_seconds:.1f} s")

    async def _redrive(self) -> None:
        """Redrive the dead letters through the API, or in SQS's console to any queue."""
        if self._chance.random() < 0.5:
            await self._stage.client.ask("POST", "/dead-letters/redrive", {})
        else:
            self._world.note("console", "redrives the dead letters")
            self._world.dead_letters.move_all_to(self._any_queue())

    async def _pause_queue(self) -> None:
        """Pause a queue for a while. It is resumed, however often a request for that fails."""
        priority = self._chance.choice(list(Priority))
        await self._stage.client.ask("POST", f"/queues/{priority}/pause")
        await asyncio.sleep(self._chance.choice([1.0, 10.0, 60.0]))
        answer = None
        while answer is None or answer.status != ANSWERED:
            answer = await self._stage.client.ask("POST", f"/queues/{priority}/resume")
            await asyncio.sleep(1)

    async def _put_garbage(self) -> None:
        body = self._chance.choice(GARBAGE)
        self._world.truth.garbage.add(body)
        self._any_queue().put(body)

    async def _lose(self) -> None:
        messages = self._world.messages
        if messages:
            self._world.lose(self._chance.choice(messages))
