"""A fleet of consumer tasks under an arrival trace, second by second: what waits, what runs, what is handed on.

A model, not the programs: how they stop, and that it loses nothing, is simulated with the programs themselves in
`tests/simulation`. Here is counted when tasks come and go, and what that costs. Pure.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.chunk import Fit
from penstock.infra.scaling.rules import MINUTE_SECONDS, Rules, Scaled, decide
from penstock.settings import Settings

LOOK_SECONDS = 10
METRIC_DELAY_SECONDS = 60  # SQS and ECS send their metrics once a minute, and CloudWatch takes some time to show them
START_SECONDS = 60  # until a task that is wanted receives: an address, the image, the programs
NO_TIME = 1e-9
HELD_SECONDS = 0.15  # of quick work a consumer has so much at hand


@dataclass(frozen=True, slots=True)
class Arrival:
    """Operations of which the chunks are on the queue, all at once."""

    at_seconds: int
    operations: int


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation takes: `handler_seconds` of a slot, and of a consumer's one core what `fastest` says."""

    handler_seconds: float
    fastest: float  # operations a second of one consumer, however quick the handler
    settings: Settings

    @property
    def per_second(self) -> float:
        """Operations that a consumer performs in a second."""
        return min(self.fastest, self.settings.concurrency / max(self.handler_seconds, NO_TIME))

    def chunk_operations(self, operations: int) -> int:
        """How many operations of a batch go into a chunk, by what handlers take."""
        most, settings = self.settings.chunk_operations, self.settings
        fit = Fit(most, settings.message_bytes, seconds=settings.chunk_seconds, least_chunks=settings.min_chunks)
        by_time = fit.aim(operations * self.handler_seconds) / max(self.handler_seconds, NO_TIME)
        return max(1, min(most, math.floor(by_time + NO_TIME)))


@dataclass(slots=True)
class Task:
    """It is paid for from its start to its end. `held` are the operations left of the chunks that it has received."""

    receives_at: int
    ends_at: int | None = None  # it has been asked to stop
    held: deque[int] = field(default_factory=deque)
    spare: float = 0.0  # of an operation: what the last second was not enough for

    @property
    def operations(self) -> int:
        return sum(self.held)

    def perform(self, most: int) -> int:
        """So many operations, or as many as it has; how many those were."""
        left = most
        while left and self.held:
            performed = min(self.held[0], left)
            left -= performed
            self.held[0] -= performed
            if not self.held[0]:
                self.held.popleft()
        return most - left


@dataclass(frozen=True, slots=True)
class Moment:
    """How it stands; looked at every ten seconds."""

    at_seconds: int
    waiting_chunks: int
    waiting: int  # operations
    held: int
    done: int
    running: int
    paid: int  # tasks, those that start or stop included


@dataclass(slots=True)
class Run:
    """What a trace came to."""

    burst: int  # operations
    arrived: int = 0
    done: int = 0
    burst_done_at: int | None = None  # when as many were done as there were in the burst
    handed_on: int = 0  # operations that tasks gave back when they were stopped
    lost: int = 0  # that are neither done, nor held, nor waiting
    stops: int = 0
    longest_stop_seconds: int = 0
    task_seconds: int = 0
    most_tasks: int = 0
    moments: list[Moment] = field(default_factory=list)

    @property
    def minutes(self) -> list[Moment]:
        return [moment for moment in self.moments if moment.at_seconds % MINUTE_SECONDS == 0]


class Fleet:
    """Its life: `run` a trace, until nothing is left of it and the fleet is as small as it may be."""

    def __init__(self, rules: Rules, work: Work, *, at_once: bool) -> None:
        self._rules = rules
        self._work = work
        self._at_once = at_once
        self._queue: deque[int] = deque()  # chunks that wait, as the number of their operations
        self._tasks = [Task(receives_at=0) for _ in range(rules.min_tasks)]
        self._scaled = Scaled(rules.min_tasks, rules.min_tasks)
        self._points: list[tuple[int, float]] = []  # when a point of the metric can be seen, and what it says
        self._most_waiting = 0  # chunks, in this minute
        self._run = Run(0)

    def run(self, trace: Sequence[Arrival], longest_seconds: int) -> Run:
        """The first arrival is the burst."""
        coming = deque(sorted(trace, key=lambda arrival: arrival.at_seconds))
        self._run.burst = coming[0].operations
        for now in range(longest_seconds):
            while coming and coming[0].at_seconds <= now:
                self._arrive(coming.popleft().operations)
            self._pass_second(now)
            if self._run.burst_done_at is None and self._run.done >= self._run.burst:
                self._run.burst_done_at = now + 1
            if (now + 1) % MINUTE_SECONDS == 0:
                self._pass_minute(now)
            if now % LOOK_SECONDS == 0:
                self._look(now)
                if not coming and self._is_at_rest():
                    break
        return self._run

    def _arrive(self, operations: int) -> None:
        size = self._work.chunk_operations(operations)
        self._queue.extend([size] * (operations // size) + [operations % size] * (operations % size > 0))
        self._run.arrived += operations

    def _pass_second(self, now: int) -> None:
        self._most_waiting = max(self._most_waiting, len(self._queue))
        self._tasks = [task for task in self._tasks if task.ends_at is None or task.ends_at > now]
        for task in self._tasks:
            if task.ends_at is None and task.receives_at <= now:
                self._receive(task)
                self._perform(task)
        self._tasks.append(self._tasks.pop(0))  # which of the tasks that wait is given the next chunk is anyone's guess
        self._run.task_seconds += len(self._tasks)
        self._run.most_tasks = max(self._run.most_tasks, len(self._tasks))

    def _receive(self, task: Task) -> None:
        """As much as lasts for a second, since time goes by seconds here, and what is at hand beyond it.

        Of what takes long, one operation for every slot and another for when it is free: see `operations_wanted`.
        """
        slots = self._work.settings.concurrency * self._rules.processes
        wanted = max(self._per_second * (1 + HELD_SECONDS), 2 * slots)
        held = task.operations
        while self._queue and held < wanted:
            task.held.append(self._queue.popleft())
            held += task.held[-1]

    def _perform(self, task: Task) -> None:
        able = task.spare + self._per_second
        performed = task.perform(int(able))
        task.spare = (able - performed) % 1 if task.held else 0.0
        self._run.done += performed

    @property
    def _per_second(self) -> float:
        return self._work.per_second * self._rules.processes

    def _stop(self, task: Task, now: int) -> None:
        """Nothing more begins. What runs comes to its end in the grace period, or not; the rest follows as a chunk."""
        settings, run = self._work.settings, self._run
        lasts = max(math.ceil(min(self._work.handler_seconds, settings.grace_seconds)), 1)
        task.ends_at = now + max(lasts, 0 if task.held else settings.receive_wait_seconds)  # a receive is not cut short
        if task.held and self._work.handler_seconds <= settings.grace_seconds:
            run.done += task.perform(settings.concurrency * self._rules.processes)
        run.stops += 1
        run.longest_stop_seconds = max(run.longest_stop_seconds, task.ends_at - now)
        run.handed_on += task.operations
        self._queue.extend(task.held)
        task.held.clear()

    def _pass_minute(self, now: int) -> None:
        self._points.append((now + METRIC_DELAY_SECONDS, self._most_waiting / max(self._running(now), 1)))
        self._most_waiting = 0
        self._scale(now)

    def _running(self, now: int) -> int:
        """Tasks that receive."""
        return sum(task.receives_at <= now and task.ends_at is None for task in self._tasks)

    def _look(self, now: int) -> None:
        moment = Moment(
            at_seconds=now,
            waiting_chunks=len(self._queue),
            waiting=sum(self._queue),
            held=sum(task.operations for task in self._tasks),
            done=self._run.done,
            running=self._running(now),
            paid=len(self._tasks),
        )
        self._run.moments.append(moment)
        self._run.lost = self._run.arrived - moment.waiting - moment.held - moment.done

    def _scale(self, now: int) -> None:
        seen = [point for seen_at, point in self._points if seen_at <= now]
        self._scaled = decide(self._rules, now, self._scaled, seen, at_once=self._at_once)
        staying = [task for task in self._tasks if task.ends_at is None]
        self._tasks += [Task(now + START_SECONDS) for _ in range(self._scaled.tasks - len(staying))]
        for task in staying[self._scaled.tasks :]:
            self._stop(task, now)

    def _is_at_rest(self) -> bool:
        return self._run.done == self._run.arrived and len(self._tasks) == self._rules.min_tasks == self._scaled.tasks
