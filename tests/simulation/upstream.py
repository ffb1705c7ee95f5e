"""An upstream that lets a number of operations a second through, and turns the others away."""

from dataclasses import dataclass, field


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
