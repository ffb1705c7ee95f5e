"""A limit of operations in a time window, and what it allows. Pure: no clock, no table.

The decision is GCRA, the generic cell rate algorithm. Its state is one time, the TAT (theoretical arrival time): the
time at which the whole quota is available again. Each operation moves it on by its share of the window. A charge is
allowed if the TAT is then at most one window ahead. So a caller that has been quiet may use the whole quota at once.
After that, operations become available again at an even rate.

In any time of x seconds, at most `operations * (1 + x / window_seconds)` are allowed.

Times are whole nanoseconds, so nothing is lost by rounding, and every program gets the same result.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NANOSECONDS = 1_000_000_000
MOST_OPERATIONS = 1_000_000_000
LONGEST_WINDOW_SECONDS = 31 * 24 * 3600
EXAMPLE = "100000/3600"
_QUOTA = re.compile(r"\s*(\d{1,12})\s*/\s*(\d{1,12})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Charged:
    """The operations are allowed. `tat` is the state after the charge."""

    tat: int


@dataclass(frozen=True, slots=True)
class TooSoon:
    """The operations are not allowed now. They will be after this time, if nothing else is charged until then."""

    retry_after_seconds: float


@dataclass(frozen=True, slots=True)
class NeverFits:
    """The operations are more than the whole quota, so no time to wait would help."""


Decision = Charged | TooSoon | NeverFits


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `operations` at once. They become available again at an even rate, all of them in `window_seconds`."""

    operations: int
    window_seconds: int

    @classmethod
    def parse(cls, text: str) -> "Quota":
        """Read a quota such as `100000/3600`. Raise ValueError with a sentence that says how to write it."""
        written = _QUOTA.fullmatch(text)
        if written is None:
            raise ValueError(f"write a limit as OPERATIONS/SECONDS, such as {EXAMPLE}")
        operations, window_seconds = int(written[1]), int(written[2])
        if not 1 <= operations <= MOST_OPERATIONS:
            raise ValueError(f"the limit has {operations:,} operations. Use a number from 1 to {MOST_OPERATIONS:,}")
        if not 1 <= window_seconds <= LONGEST_WINDOW_SECONDS:
            raise ValueError(
                f"the limit has a window of {window_seconds:,} seconds. "
                f"Use a number from 1 to {LONGEST_WINDOW_SECONDS:,}, which is 31 days"
            )
        return cls(operations, window_seconds)

    def __str__(self) -> str:
        return f"{self.operations}/{self.window_seconds}"

    @property
    def window(self) -> int:
        """The window in nanoseconds."""
        return self.window_seconds * NANOSECONDS

    def cost(self, operations: int) -> int:
        """Return by how many nanoseconds a charge moves the TAT. It is rounded up."""
        return -(-operations * self.window // self.operations)

    def latest_tat(self, cost: int, now: float) -> int:
        """Return the latest TAT with which a charge of this cost is still allowed."""
        return nanoseconds(now) + self.window - cost

    def charge(self, operations: int, tat: int, now: float) -> Decision:
        """Decide on a charge. A tenant that has never been charged has the TAT 0."""
        if operations > self.operations:
            return NeverFits()
        wait = tat - self.latest_tat(self.cost(operations), now)
        if wait > 0:
            return TooSoon(wait / NANOSECONDS)
        return Charged(max(tat, nanoseconds(now)) + self.cost(operations))

    def remaining(self, tat: int, now: float) -> int:
        """Return how many operations are allowed now."""
        return self._room(tat, now) * self.operations // self.window

    def seconds_to_more(self, tat: int, now: float) -> float:
        """Return the seconds until one more operation is allowed than now. 0 if the whole quota is available."""
        remaining = self.remaining(tat, now)
        if remaining == self.operations:
            return 0
        return (max(tat, nanoseconds(now)) - self.latest_tat(self.cost(remaining + 1), now)) / NANOSECONDS

    def _room(self, tat: int, now: float) -> int:
        """Return the nanoseconds by which the TAT may still move on."""
        at = nanoseconds(now)
        return max(0, at + self.window - max(tat, at))


@dataclass(frozen=True, slots=True)
class Account:
    """Who is charged: a tenant, or one key of a tenant."""

    tenant: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """The quota of an account, under the name that answers give it."""

    name: str
    account: Account
    quota: Quota


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge that is open until it is settled or given back.

    If the front end that made it dies, another one ends it after `lapses_at`. It settles the charge if the batch with
    the id `id` was accepted, and otherwise gives it back.
    """

    id: str
    cost: int
    lapses_at: int  # in whole seconds


@dataclass(frozen=True, slots=True)
class Usage:
    """The state of an account. `open` has its open charges, each with the TAT right after it was charged."""

    tat: int = 0
    open: Mapping[Charge, int] = field(default_factory=dict)

    def lapsed(self, now: float) -> list[Charge]:
        """Return the open charges that nobody has settled or given back in time."""
        return [charge for charge in self.open if charge.lapses_at < now]


def give_back(cost: int, until: int, now: float) -> int:
    """Return by how many nanoseconds the TAT moves back when a charge is given back.

    `until` is the TAT right after the charge. The later it is given back, the more of the charge has become available
    again by itself, and only the rest may be given back. Otherwise more than the quota could be used at once.
    """
    return min(cost, max(0, until - nanoseconds(now)))


def nanoseconds(seconds: float) -> int:
    """Return a time in whole nanoseconds, which is how a TAT is stored."""
    return int(seconds * NANOSECONDS)
