"""The permits of a limit: how many operations the whole fleet may run at the same time. Pure: no clock, no table.

The state of a limit lists its *holders*: the consumers that have permits, or wait for some. A consumer changes the list
by one conditional write, and only its own entry. It gives itself what nobody else has, up to its fair share, and gives
up what is above its share as soon as its operations end. So all permits together are never more than the limit has.

A holder renews its entry every few seconds. An entry that does not change for `LEASE_SECONDS` has lapsed: its consumer
has died, or cannot reach the table. Each consumer measures that by its own monotonic clock, from when it first read the
entry as it is. The holder counts from when it started to write the entry, which is earlier, and stops `MARGIN_SECONDS`
before its lease ends. So it does not matter how much the clocks of consumers differ.

If there are fewer permits than consumers that want one, they take turns: the first in the order goes to the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0  # a few writes may fail before a lease ends
MARGIN_SECONDS = 1.0  # no operation starts in the last part of a lease: clocks run at slightly different speeds
TURN_SECONDS = 15.0  # moving a permit takes about a second, in which nobody uses it


@dataclass(frozen=True, slots=True)
class Holder:
    """The entry of a consumer."""

    permits: int
    wanted: int  # how many it could use, those that it has included
    place: int  # in the order of the holders, the lowest first
    renewals: int  # a number that is different after each write of the entry


Holders = Mapping[str, Holder]  # by the ids of their consumers


def share_out(concurrency: int, holders: Holders) -> dict[str, int]:
    """Return the fair share of each holder: no holder gets less than another, except if it does not want more.

    What is left after an equal division goes to the first in the order, one permit each.
    """
    shares = dict.fromkeys(holders, 0)
    open_ = sorted((name for name in holders if holders[name].wanted > 0), key=lambda name: holders[name].place)
    left = concurrency
    while open_:
        level = left // len(open_)
        content = [name for name in open_ if holders[name].wanted <= level]
        if not content:
            rest = left - level * len(open_)
            return shares | {name: level + (number < rest) for number, name in enumerate(open_)}
        shares |= {name: holders[name].wanted for name in content}
        left -= sum(shares[name] for name in content)
        open_ = [name for name in open_ if name not in content]
    return shares


class Permits:
    """The permits of one consumer. Each operation takes one before it starts, and releases it when it has ended.

    For each write: `plan` what the table will contain, call `send` before the write, and `confirm` if it took effect.
    A write whose effect is not known is not confirmed. `now` is always the consumer's own monotonic time.
    """

    def __init__(self, concurrency: int, holder: str) -> None:
        self.concurrency = concurrency
        self.running = 0  # permits that operations have taken
        self.is_listed = False  # the table may have an entry of this consumer
        self._holder = holder
        self._is_contested = False  # others want more permits than they have
        self._fair = 0  # its fair share
        self._share = 0  # how many permits this consumer must not exceed, as it planned last
        self._usable = 0  # new operations start only below this number
        self._held = 0  # as the table says; more than the share while operations run that started before
        self._until = 0.0
        self._renew_at = 0.0
        self._renewals = 0
        self._seen: dict[str, tuple[int, float]] = {}  # the renewals of others, and since when they are the same
        self._first_at: float | None = None  # since when this consumer is the first in the order, and has permits

    def is_free(self, now: float) -> bool:
        """Return True if another operation may take a permit."""
        return self.running < self._usable and now < self._until

    def may_start(self, now: float) -> bool:
        """Return True if an operation that has taken a permit may still start."""
        return self.running <= self._held and now < self._until

    @property
    def are_short(self) -> bool:
        """Return True if this consumer may have more permits than it has, as soon as others give them up."""
        return self._usable < self._fair

    def has_surplus(self, waiting: int) -> bool:
        """Return True if others want a permit that nothing uses here, and that what waits here cannot use."""
        is_unused = self.running < self._held
        return is_unused and self._is_contested and (not waiting or self._usable < self._held)

    @property
    def usable(self) -> int:
        """Return how many operations may run here."""
        return max(0, self._usable)

    def take(self) -> None:
        self.running += 1

    def release(self) -> None:
        self.running -= 1

    def planned(self, holders: Holders) -> int:
        """Return how many permits this consumer has according to `holders`."""
        return holders[self._holder].permits if self._holder in holders else 0

    def plan(self, seen: Holders, waiting: int, now: float) -> Holders:
        """Return what the table must contain after the next write. It contains `seen`, which was just read.

        `waiting` is the number of operations that could start in addition to those that run.
        """
        others = self._without_lapsed(seen, now)
        wanted = max(self.running, min(self.running + waiting, self.concurrency))
        if not wanted:
            self._fair = self._share = self._usable = 0
            return others
        mine = seen.get(self._holder)
        place = _last_place(others) + 1 if mine is None else mine.place
        entry = Holder(0, wanted, place, self._renewals + 1)
        entry = self._with_place(entry, others, has_permits=mine is not None and mine.permits > 0, now=now)
        self._fair = share_out(self.concurrency, {**others, self._holder: entry})[self._holder]
        self._is_contested = any(other.permits < other.wanted for other in others.values())
        free = self.concurrency - sum(other.permits for other in others.values())
        self._share = min(self._fair, free)
        self._usable = min(self._usable, self._share)
        # A permit that is in use cannot be given up.
        return {**others, self._holder: replace(entry, permits=max(self.running, self._share))}

    def must_write(self, seen: Holders, planned: Holders, now: float) -> bool:
        """Return True if this consumer's entry must change, or be renewed."""
        before, after = seen.get(self._holder), planned.get(self._holder)
        if before is None or after is None:
            return before is not after
        is_changed = replace(before, renewals=after.renewals) != after
        return is_changed or self._share > self._usable or now >= self._renew_at

    def send(self, planned: Holders) -> None:
        """Prepare for a write. From now on others may get the permits that this consumer gives up."""
        self._renewals += 1
        self._held = min(self._held, self.planned(planned))
        self.is_listed = self.is_listed or self._holder in planned

    def confirm(self, planned: Holders, sent_at: float) -> None:
        """Note that a write took effect. The call that made it started at `sent_at`."""
        # There are too many permits if the limit was lowered, or if operations have outlived their lease.
        is_exceeded = sum(holder.permits for holder in planned.values()) > self.concurrency
        self._held, self._usable = (0, 0) if is_exceeded else (self.planned(planned), self._share)
        self._until = sent_at + LEASE_SECONDS - MARGIN_SECONDS
        self._renew_at = sent_at + RENEW_SECONDS
        self.is_listed = self._holder in planned

    def _without_lapsed(self, seen: Holders, now: float) -> Holders:
        """Return the entries of the other consumers that have not lapsed."""
        others = {name: holder for name, holder in seen.items() if name != self._holder}
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == other.renewals else (other.renewals, now)
            for name, other in others.items()
        }
        return {name: other for name, other in others.items() if now - self._seen[name][1] < LEASE_SECONDS}

    def _with_place(self, entry: Holder, others: Holders, *, has_permits: bool, now: float) -> Holder:
        """Return the entry, at the end of the order if this consumer was the first for its time and others starve."""
        wanting = {name: holder for name, holder in others.items() if holder.wanted > 0}
        if not has_permits or any(holder.place < entry.place for holder in wanting.values()):
            self._first_at = None
            return entry
        if self._first_at is None:
            self._first_at = now
        shares = share_out(self.concurrency, {**wanting, self._holder: entry})
        starving = sum(share == 0 for share in shares.values())
        # A permit is moved after each part of a turn, so that not all of them are moved at the same time.
        if not starving or now - self._first_at < TURN_SECONDS / min(self.concurrency, starving):
            return entry
        return replace(entry, place=_last_place(others) + 1)


def _last_place(holders: Holders) -> int:
    return max((holder.place for holder in holders.values()), default=0)
