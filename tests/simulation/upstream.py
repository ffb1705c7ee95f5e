"""Upstreams: one lets a number of operations a second through, one counts how many run at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.simulation.process import Process


@dataclass
class Upstream:
    """A token bucket with one second of its rate. `passed` and `turned_away` have the times of the operations."""

    rate: float
    asks_seconds: float | None = 1.0  # how long those that are turned away must wait
    is_away: bool = False
    passed: list[float] = field(default_factory=list)
    turned_away: list[float] = field(default_factory=list)
    _room: float = 0.0
    _filled_at: float = 0.0

    def admits(self, now: float) -> bool:
        self._room = min(self.rate, self._room + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self.is_away or self._room < 1:
            self.turned_away.append(now)
            return False
        self._room -= 1
        self.passed.append(now)
        return True


@dataclass
class Crowd:
    """Counts how many operations run at the same time. Those of a process that died have ended."""

    most: int = 0
    ended: int = 0
    _processes: list[Process] = field(default_factory=list)  # one for each operation

    @property
    def size(self) -> int:
        return sum(process.is_alive for process in self._processes)

    @contextmanager
    def joined(self, process: Process) -> Iterator[None]:
        self._processes.append(process)
        self.most = max(self.most, self.size)
        try:
            yield
        finally:
            self._processes.remove(process)
            self.ended += 1
