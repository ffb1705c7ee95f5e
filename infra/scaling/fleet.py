"""Simulate a fleet of consumer tasks second by second: the operations that wait, run and are handed over. Pure.

This is a model, not the programs. It computes when tasks start and stop, and what that costs. `tests/simulation` tests
with the programs themselves that a stop loses nothing.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.infra.scaling.rules import MINUTE_SECONDS, Rules, Scaled, decide
from penstock.settings import Settings

LOOK_SECONDS = 10
METRIC_DELAY_SECONDS = 60  # SQS and ECS send their metrics once a minute, and CloudWatch shows them later
START_SECONDS = 60  # time until a new task receives: network address, image, start of the programs
NO_TIME = 1e-9
HELD_SECONDS = 0.15  # a consumer buffers this many seconds of quick work


@dataclass(frozen=True, slots=True)
class Arrival:
    """Operations whose chunks arrive on the queue at the same time."""

    at_seconds: int
    operations: int


@dataclass(frozen=True, slots=True)
class Work:
    """The cost of an operation: it occupies a slot for `handler_seconds`, and a consumer's core as `fastest` says."""

    handler_seconds: float
    fastest: float  # maximum operations per second of one consumer, even with an empty handler
    settings: Settings

    @property
    def per_second(self) -> float:
        """Return the number of operations that a consumer performs in a second."""
        return min(self.fastest, self.settings.concurrency / max(self.handler_seconds, NO_TIME))

    def chunk_operations(self, operations: int) -> int:
        """Return the number of operations in each chunk of a batch, as the planner would choose it."""
        fit = self.settings.fit
        by_time = fit.aim(operations * self.handler_seconds) / max(self.handler_seconds, NO_TIME)
        return max(1, min(fit.most_operations, round(by_time)))


@dataclass(slots=True)
class Task:
    """A consumer task. `held` are the chunks that it has received, as the number of their remaining operations."""

    receives_at: int
    ends_at: int | None = None  # set when the task is asked to stop
    held: deque[int] = field(default_factory=deque)
    spare: float = 0.0  # fraction of an operation that is left from the previous second

    @property
    def operations(self) -> int:
        """Return the number of operations that it holds."""
        return sum(self.held)

    def perform(self, most: int) -> int:
        """Perform up to `most` of its operations and return how many were performed."""
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
    """The state of the fleet at one time. It is recorded every ten seconds."""

    at_seconds: int
    waiting_chunks: int
    waiting: int  # operations
    held: int
    done: int
    running: int
    paid: int  # tasks, including those that are starting or stopping


@dataclass(slots=True)
class FleetResult:
    """The result of a fleet under a trace. The counts are operations."""

    burst: int
    arrived: int = 0
    done: int = 0
    burst_done_at: int | None = None  # the second after which as many operations were done as the burst has
    handed_on: int = 0  # operations that tasks handed over when they were stopped
    lost: int = 0  # operations that are neither done, nor held, nor waiting
    stops: int = 0
    longest_stop_seconds: int = 0
    task_seconds: int = 0
    most_tasks: int = 0
    moments: list[Moment] = field(default_factory=list)

    @property
    def minutes(self) -> list[Moment]:
        return [moment for moment in self.moments if moment.at_seconds % MINUTE_SECONDS == 0]


class Fleet:
    """A fleet of tasks. `run` simulates it under a trace until all is done and the fleet has its minimum size."""

    def __init__(self, rules: Rules, work: Work, *, at_once: bool) -> None:
        self._rules = rules
        self._work = work
        self._at_once = at_once
        self._queue: deque[int] = deque()  # waiting chunks, as the number of their operations
        self._tasks = [Task(receives_at=0) for _ in range(rules.min_tasks)]
        self._scaled = Scaled(rules.min_tasks, rules.min_tasks)
        self._points: list[tuple[int, float]] = []  # points of the metric: when each becomes visible, and its value
        self._most_waiting = 0  # maximum of waiting chunks in this minute
        self._result = FleetResult(0)

    def run(self, trace: Sequence[Arrival], longest_seconds: int) -> FleetResult:
        """Simulate the fleet under a trace, for at most `longest_seconds`. The first arrival counts as the burst."""
        coming = deque(sorted(trace, key=lambda arrival: arrival.at_seconds))
        self._result.burst = coming[0].operations
        for now in range(longest_seconds):
            while coming and coming[0].at_seconds <= now:
                self._arrive(coming.popleft().operations)
            self._pass_second(now)
            if self._result.burst_done_at is None and self._result.done >= self._result.burst:
                self._result.burst_done_at = now + 1
            if (now + 1) % MINUTE_SECONDS == 0:
                self._pass_minute(now)
            if now % LOOK_SECONDS == 0:
                self._look(now)
                if not coming and self._is_at_rest():
                    break
        return self._result

    def _arrive(self, operations: int) -> None:
        size = self._work.chunk_operations(operations)
        self._queue.extend([size] * (operations // size) + [operations % size] * (operations % size > 0))
        self._result.arrived += operations

    def _pass_second(self, now: int) -> None:
        self._most_waiting = max(self._most_waiting, len(self._queue))
        self._tasks = [task for task in self._tasks if task.ends_at is None or task.ends_at > now]
        for task in self._tasks:
            if task.ends_at is None and task.receives_at <= now:
                self._receive(task)
                self._perform(task)
        self._tasks.append(self._tasks.pop(0))  # SQS may give the next chunk to any of the waiting tasks
        self._result.task_seconds += len(self._tasks)
        self._result.most_tasks = max(self._result.most_tasks, len(self._tasks))

    def _receive(self, task: Task) -> None:
        """Receive work for one second, which is the step of the simulation, and the usual buffer.

        For slow operations this is one for each slot and one more for when the slot is free: see `operations_wanted`.
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
        self._result.done += performed

    @property
    def _per_second(self) -> float:
        return self._work.per_second * self._rules.processes

    def _stop(self, task: Task, now: int) -> None:
        """Stop a task. Running operations may finish within the grace period; the rest follows as a chunk."""
        settings, result = self._work.settings, self._result
        lasts = max(math.ceil(min(self._work.handler_seconds, settings.grace_seconds)), 1)
        # An idle task waits for the end of its receive, which is never interrupted.
        task.ends_at = now + max(lasts, 0 if task.held else settings.receive_wait_seconds)
        if task.held and self._work.handler_seconds <= settings.grace_seconds:
            result.done += task.perform(settings.concurrency * self._rules.processes)
        result.stops += 1
        result.longest_stop_seconds = max(result.longest_stop_seconds, task.ends_at - now)
        result.handed_on += task.operations
        self._queue.extend(task.held)
        task.held.clear()

    def _pass_minute(self, now: int) -> None:
        self._points.append((now + METRIC_DELAY_SECONDS, self._most_waiting / max(self._running(now), 1)))
        self._most_waiting = 0
        self._scale(now)

    def _running(self, now: int) -> int:
        """Return the number of tasks that receive."""
        return sum(task.receives_at <= now and task.ends_at is None for task in self._tasks)

    def _look(self, now: int) -> None:
        moment = Moment(
            at_seconds=now,
            waiting_chunks=len(self._queue),
            waiting=sum(self._queue),
            held=sum(task.operations for task in self._tasks),
            done=self._result.done,
            running=self._running(now),
            paid=len(self._tasks),
        )
        self._result.moments.append(moment)
        self._result.lost = self._result.arrived - moment.waiting - moment.held - moment.done

    def _scale(self, now: int) -> None:
        seen = [point for seen_at, point in self._points if seen_at <= now]
        self._scaled = decide(self._rules, now, self._scaled, seen, at_once=self._at_once)
        staying = [task for task in self._tasks if task.ends_at is None]
        self._tasks += [Task(now + START_SECONDS) for _ in range(self._scaled.tasks - len(staying))]
        for task in staying[self._scaled.tasks :]:
            self._stop(task, now)

    def _is_at_rest(self) -> bool:
        return (
            self._result.done == self._result.arrived
            and len(self._tasks) == self._rules.min_tasks == self._scaled.tasks
        )
