"""The programs under chaos, and a small supervisor that restarts each program that dies."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos.logs import Logs
from tests.support.programs import Program, Programs, free_port, until_ready
from tests.support.waiting import eventually

READY = "consumer ready"
LEASE_LOST = "lease lost"
START_UNITS = 60


@dataclass
class Post:
    """A place in the fleet. `program` is the program that has it now."""

    module: str
    arguments: tuple[str, ...] = ()
    program: Program | None = None
    ended: list[Program] = field(default_factory=list)

    @property
    def standing(self) -> Program:
        assert self.program is not None, f"no {self.module} was started"
        return self.program


@dataclass
class Fleet:
    """A front end and consumers. Inside the block of `open_fleet` each program that ends is replaced.

    The methods report what has happened since `begin`.
    """

    programs: Programs
    port: int
    front: Post
    consumers: list[Post]
    logs: Logs
    killed: set[int] = field(default_factory=set)
    paused: set[int] = field(default_factory=set)

    @property
    def posts(self) -> list[Post]:
        return [self.front, *self.consumers]

    async def keep(self, post: Post) -> None:
        """Start a program for this post whenever it has none, until cancelled."""
        while True:
            post.program = await self.programs.start(post.module, *post.arguments)
            await post.program.process.wait()
            post.ended.append(post.program)

    def begin(self) -> None:
        """Begin another scenario. Call this when all programs are ready."""
        self.logs.mark()
        self.killed.clear()
        self.paused.clear()
        for post in self.posts:
            post.ended.clear()

    async def all_ready(self) -> None:
        await asyncio.gather(*(self.ready(post) for post in self.posts))

    async def first_ready(self) -> None:
        """Wait until all programs are ready. None has been killed yet, so none may have ended."""
        await self.all_ready()
        early = [program.output() for post in self.posts for program in post.ended]
        assert not early, early[0]

    async def ready(self, post: Post) -> None:
        """Wait until the program of a post is ready. If it dies before that, wait for the next one."""

        async def is_ready() -> bool:
            program = post.program
            return program is not None and program.process.returncode is None and READY in program.output()

        if post is self.front:
            await self._front_ready()
        else:
            await eventually(is_ready, START_UNITS)

    async def _front_ready(self) -> None:
        await eventually(self._has_front, START_UNITS)
        await until_ready(self.port, self.front.standing)

    async def _has_front(self) -> bool:
        return self.front.program is not None and self.front.program.process.returncode is None

    async def kill(self, post: Post) -> None:
        """Kill the program of a post and wait until it has ended."""
        program = post.standing
        if program.process.returncode is None:
            self.killed.add(program.process.pid)
            program.kill()
            await program.ended()

    async def pause(self, post: Post, seconds: float) -> None:
        """Stop a program with SIGSTOP, and continue it with SIGCONT after this time."""
        process = post.standing.process
        self.paused.add(process.pid)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    async def replace(self, post: Post) -> None:
        """Stop a program with SIGTERM, and wait until the next one, which the supervisor starts, is ready."""
        program = post.standing
        program.terminate()
        code = await program.ended(START_UNITS)
        assert code == 0, f"{program.log} ended with {code}"
        await eventually(lambda: _follows(post, program), START_UNITS)
        await self.ready(post)

    def pick(self, draw: random.Random) -> Post:
        return draw.choice(self.consumers)

    def dead(self) -> set[int]:
        """Return the consumers that did not exit cleanly."""
        ended = (one.process for post in self.consumers for one in post.ended)
        return {process.pid for process in ended if process.returncode != 0}

    def ended_by_themselves(self, excused: int | None) -> list[str]:
        """Return the programs that ended by themselves, except with the `excused` exit code, which poison causes."""
        ended = [one for post in self.posts for one in post.ended if one.process.pid not in self.killed]
        return [
            f"{one.log.name} ended by itself with {one.process.returncode}"
            for one in ended
            if one.process.returncode not in {0, excused}
        ]

    def late(self) -> set[int]:
        """Return the consumers that lost a lease: paused ones, and others if the machine is too busy for heartbeats."""
        everyone = [one for post in self.consumers for one in [*post.ended, post.program] if one is not None]
        return {one.process.pid for one in everyone if LEASE_LOST in self.logs.read(one.log)}


async def _follows(post: Post, program: Program) -> bool:
    return post.program is not program


@asynccontextmanager
async def open_fleet(programs: Programs, port: int, consumers: int, logs: Logs) -> AsyncIterator[Fleet]:
    leash = ("--exit-with-parent", str(os.getpid()))  # they end with this process, even if it is killed
    front = Post("penstock.service", ("--port", str(port), "--operator-port", str(free_port()), *leash))
    fleet = Fleet(programs, port, front, [Post("penstock.consumer", leash) for _ in range(consumers)], logs)
    keeping = [asyncio.create_task(fleet.keep(post), name=post.module) for post in fleet.posts]
    try:
        await fleet.first_ready()
        yield fleet
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
