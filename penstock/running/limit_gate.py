"""Lets operations start as the limits of the fleet allow. An operation that waits here holds no slot.

`fleet_limit.py` decides what a consumer may start. A gate leases tokens, hands them out evenly, and reports what
happened. It reads the table about once a second while operations wait, and writes at most once a second. A limit that
was never throttled costs no write.

If the limit has a concurrency, an operation needs a permit as well, until it has ended (`fleet_permits.py`). The gate
also reads and writes the table while it has permits.

If operations would wait for long, their chunks are *postponed*: the operations follow as a chunk with a delay, so that
other chunks have room. The oldest chunks stay, to try whether the upstream is back.

A front end has gates, too, for the small batches that it runs immediately. Its rules differ (`GateRules`): a client
waits for the answer.
"""

import asyncio
import contextlib
import math
import random
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.fleet_limit import BLOCK_SECONDS, Block, FleetTime, LimitState, LimitStore, Report, lease
from penstock.fleet_permits import Holders, Permits
from penstock.limit import MOST_OPERATIONS, Limit
from penstock.outcome import TryAgain, Verdicts, is_throttled
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.running.limit_line import Line, PostponedChunk
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.token_lane import TokenLane, Waiter, choose
from penstock.telemetry import Event, get_log
from penstock.waiting import happens

LEAST_WRITE_SECONDS = 1.0
TICK_SECONDS = 0.02  # tokens that become due in this time are handed out together
EARLY_SECONDS = 0.05  # the next block is asked for this much before the present one is over
RETRY_SECONDS = 5.0  # after a call to the table that failed for good
HELD_SECONDS = 60.0  # the wait from which on a further chunk is postponed
MOST_HELD = 20  # chunks that wait for tokens in this process, so that there is room for others
KEPT_CHUNKS = 5  # that wait here while the upstream is away, to try it, and to start as soon as it is back
LEAST_POSTPONED_SECONDS = 10.0
LONGEST_POSTPONED_SECONDS = 900.0  # SQS delays a message no longer
AWAY_SECONDS = 30.0  # the time for which an upstream must be away, or pauses, before chunks are postponed
FRESH_SECONDS = 5.0  # a state that was read before this time may have changed
AWAY_SHARE = 0.1  # of this time is the delay of a chunk that is postponed because of that
SHORT_SECONDS = 0.3  # until the table is read again while others still have permits that this consumer may have
GIVE_UP_SECONDS = 1.0  # the time for giving up all permits when the process ends
SPARE_SHARE = 0.5  # of a block that a front end leases beyond what waits, while nobody else uses the limit
NEWEST_SHARE = 0.1  # of the latest call in the average time of a call


@dataclass(frozen=True, slots=True)
class GateRules:
    """How a gate lets operations wait. The defaults are the rules of a consumer."""

    held_seconds: float = HELD_SECONDS
    away_seconds: float = AWAY_SECONDS
    most_held: int = MOST_HELD
    kept_chunks: int = KEPT_CHUNKS
    is_prompt: bool = False  # the tokens of a block come as fast as the limit allows, the first one immediately

    @classmethod
    def of_front_end(cls, seconds: float) -> "GateRules":
        """Return the rules for small batches that may take this time. What would wait for longer is handed over.

        Any number of batches may wait: each of them is a request, and the memory for requests limits these.
        """
        return cls(held_seconds=seconds, away_seconds=seconds, most_held=sys.maxsize, kept_chunks=0, is_prompt=True)


@dataclass(frozen=True, slots=True)
class Start:
    """When operations started: in the time of the fleet, and by the monotonic clock, which never jumps."""

    at: float
    monotonic: float


class LimitGate:
    """The gate of one limit."""

    def __init__(
        self,
        name: str,
        limit: Limit,
        store: LimitStore,
        clock: Clock,
        *,
        rules: GateRules = GateRules(),
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        pauses: dict[str, float] | None = None,
        when_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Create a gate. `pauses` has the Unix time until which an upstream wants nothing, by the names of limits.

        `when_waiting` is called when more operations wait.
        """
        self._name = name
        self._limit = limit
        self._rules = rules
        self._store = store
        self._clock = clock
        self._pauses = {} if pauses is None else pauses
        self._when_waiting = when_waiting
        self._time = FleetTime(clock.now(), clock.monotonic())
        self._lanes = {priority: TokenLane(weights[priority]) for priority in Priority}
        self._least_used = 0.0
        self._permits = None if limit.concurrency is None else Permits(limit.concurrency, secrets.token_hex(4))
        self._seconds_each: float | None = None  # the average time of a call
        self._lines: dict[Line, None] = {}  # the oldest first
        self._tokens = 0  # that may be used now; negative if a call used several
        self._free_until = 0.0  # before this time, no token is needed
        self._is_blocked = False  # the upstream has throttled something that is not reported yet
        self._is_over = False  # this process stops, so nothing starts
        self._state = LimitState()
        self._report = Report()
        self._passed = [0, 0]  # operations that passed in the last two seconds
        self._passed_second = 0
        self._wrote_at = clock.monotonic() - LEAST_WRITE_SECONDS
        self._read_at = -math.inf
        self._followed_at = -math.inf  # when this gate learnt of the last cut, in the time of the fleet
        self._parked: list[tuple[float, int]] = []  # when chunks that were postponed come back, and their operations
        self._news = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self.when_failed: Callable[[BaseException], None] = lambda _: None  # called when the leasing has failed
        self.is_of_batch = False  # it learns no rate, and ends when nothing uses it any more
        self.when_unused: Callable[[], object] = lambda: None  # called before it ends
        self.count_busy: Callable[[], int] = lambda: 1  # returns at how many gates of this process chunks wait

    # --- What operations call

    @contextlib.contextmanager
    def line(
        self,
        turn: Turn | TurnWithRoom | Line,
        operations: int,
        *,
        may_be_postponed: bool = True,
        behind: "LimitGate | None" = None,
    ) -> Iterator[Line]:
        """Yield a line for operations of one chunk. They are postponed if they would have to wait for long."""
        line = Line(self, turn, operations, may_be_postponed=may_be_postponed, behind=behind)
        seconds = self._seconds_to_postpone(operations) if may_be_postponed and not self._is_over else 0.0
        self._lines[line] = None
        if seconds:
            line.postpone(seconds)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=f"limit {self._name}")
            self._keeping.add_done_callback(self._note_end)
        self.note_waiting()
        try:
            yield line
        finally:
            del self._lines[line]
            self._news.set()

    def limit_to(self, concurrency: int | None) -> None:
        """Change how many operations may run at the same time in the fleet. Everything may run if it is None."""
        assert self._permits is not None
        self._permits.concurrency = MOST_OPERATIONS if concurrency is None else concurrency

    @property
    def reach(self) -> int:
        """Return how many operations may pass this gate in the time of a block, because of its permits."""
        usable = 0 if self._permits is None else self._permits.usable
        return usable + math.ceil(usable * BLOCK_SECONDS / (self._seconds_each or BLOCK_SECONDS))

    def note_waiting(self) -> None:
        """Note that more operations wait."""
        self._news.set()
        self._when_waiting()

    async def take(self, line: Line) -> None:
        """Wait until one more operation of a line may start. Call `end` when it has ended, or does not start."""
        if line.postponed_seconds is not None:
            raise PostponedChunk(line.postponed_seconds)
        if not (self._is_over or (self._may_pass and not self._has_waiters)):
            await self._wait(line)
        else:
            self._use_one()
        line.left -= 1

    def end(self) -> None:
        """Note that an operation has ended, or did not start. Its permit goes to the next one that waits."""
        if self._permits is not None:
            self._permits.release()
            self._pass_on()
            if self._has_surplus:
                self._news.set()

    @property
    def may_start(self) -> bool:
        """Return True if an operation for which `take` has returned may still start."""
        return self._permits is None or self._permits.may_start(self._clock.monotonic())

    def give_back(self, line: Line) -> None:
        """Give back a token that no operation has used."""
        line.left += 1
        self._news.set()
        self._return_token()

    def take_extra(self, operations: int) -> None:
        """Use further tokens, for a call with several operations. Later calls wait for them."""
        if not self._is_free:
            self._tokens -= operations

    def count_waiting(self, counts: Counter[Priority]) -> None:
        """Count the operations that wait here, by priority."""
        if not self._is_open:
            for line in self._lines:
                counts[line.priority] += line.waiting

    @property
    def waiting_chunks(self) -> int:
        """Return how many chunks wait here."""
        return 0 if self._is_open else sum(line.wanted > 0 for line in self._lines)

    @property
    def delay_seconds(self) -> float:
        """Return for how long operations that have waited here must be postponed, or 0 if tokens come steadily."""
        if not self._state.away_at and self._state.not_before - self.now() < LEAST_POSTPONED_SECONDS:
            return 0.0
        return max(LEAST_POSTPONED_SECONDS, self._pause_seconds(is_kept=False))

    def now(self) -> float:
        return self._time.at(self._clock.monotonic())

    def start(self) -> Start:
        """Return the time of operations that start now."""
        monotonic = self._clock.monotonic()
        return Start(self._time.at(monotonic), monotonic)

    def note(self, verdicts: Verdicts, start: Start) -> None:
        """Note what became of operations that have just ended."""
        if self.is_of_batch:
            self._learn_seconds(start)
            return
        passed = throttled = 0
        asked = 0.0
        for verdict in verdicts.values():
            if is_throttled(verdict):
                throttled += 1
                assert isinstance(verdict, TryAgain)
                asked = max(asked, verdict.after_seconds or 0.0)
            elif not isinstance(verdict, TryAgain) or verdict.uses_attempt:
                passed += 1
        if passed:
            self._count_passed(passed)
            self._report += Report(passed_from=start.at)
            self._learn_seconds(start)
        not_before = self.now() + asked if asked else 0.0
        if (pause := self._pauses.pop(self._name, None)) is not None:
            not_before = max(not_before, self.now() + pause - self._clock.now())
        if throttled or not_before:
            self._report += Report(
                throttled=throttled, throttled_from=start.at if throttled else 0.0, not_before=not_before
            )
            self._block()
        elif self._is_upstream_back:
            self._news.set()

    def let_go(self) -> None:
        """Let everything pass that waits. The stop must have begun, so nothing of it starts."""
        self._is_over = True
        self._pass_on()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._permits is not None and self._permits.is_listed:
            with contextlib.suppress(PenstockError, TimeoutError):  # then the lease of the permits ends by itself
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await self._lease()

    # --- Waiting

    @property
    def _is_free(self) -> bool:
        return self._clock.monotonic() < self._free_until

    @property
    def _is_open(self) -> bool:
        """Return True if nothing waits here for longer than a moment."""
        return self._is_free and self._permits is None

    @property
    def _may_pass(self) -> bool:
        has_permit = self._permits is None or self._permits.is_free(self._clock.monotonic())
        return not self._is_blocked and (self._is_free or self._tokens > 0) and has_permit

    def _use_one(self) -> None:
        """Use a token and a permit."""
        if not self._is_free:
            self._tokens -= 1
        if self._permits is not None:
            self._permits.take()

    def _return_token(self) -> None:
        if not self._is_free:
            self._tokens += 1
        self._pass_on()

    @property
    def _has_waiters(self) -> bool:
        return any(lane.waiting for lane in self._lanes.values())

    async def _wait(self, line: Line) -> None:
        lane, tenant = self._lanes[line.priority], line.tenant
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if not lane.waiting:
            lane.used = max(lane.used, self._least_used)
        lane.add(tenant, waiter)
        line.waiters.add(waiter)
        if line.is_behind_another or line.left <= 0:
            self.note_waiting()  # until now, this gate did not know of it
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._return_token()  # it was given just before
                self.end()
            raise
        finally:
            lane.discard(tenant, waiter)
            line.waiters.discard(waiter)

    def _pass_on(self) -> None:
        """Give tokens to those who wait: by the weights of their priorities, and to tenants in turn."""
        while (self._may_pass or self._is_over) and self._has_waiters:
            lane = choose(self._lanes.values())
            self._least_used = max(self._least_used, lane.used)
            waiter = lane.take_next()
            if not waiter.done():
                lane.used += 1 / lane.weight
                self._use_one()
                waiter.set_result(None)

    def _block(self) -> None:
        """Start nothing until the fleet knows what this consumer has seen."""
        self._is_blocked = True
        self._news.set()

    # --- Leasing

    def _note_end(self, keeping: asyncio.Task[None]) -> None:
        """If the leasing has failed, log that and let the next line start it again."""
        if keeping.cancelled() or (error := keeping.exception()) is None:
            return
        get_log().error(Event.LIMIT_BROKE, limit=self._name, exc_info=error)
        self._keeping = None
        self.when_failed(error)

    async def _keep(self) -> None:
        """Lease tokens while operations wait, and permits until they have ended. Run until cancelled."""
        while True:
            self._news.clear()
            if not (self._wanted or self._must_report or (self._permits is not None and self._permits.is_listed)):
                if self.is_of_batch and not self._lines:
                    self.when_unused()
                    return
                await self._news.wait()
                continue
            await self._sleep(self._wrote_at + LEAST_WRITE_SECONDS - self._clock.monotonic())
            try:
                block = await self._lease()
            except PenstockError:  # the store has logged it
                block = Block(0, RETRY_SECONDS)
            await self._use(block)

    @property
    def _wanted(self) -> int:
        """Return how many tokens are needed: those that were used too early, and those of what waits."""
        return sum(line.wanted for line in self._lines) - min(self._tokens, 0)

    @property
    def _is_upstream_back(self) -> bool:
        return 0 < self._state.away_at < self._report.passed_from

    @property
    def _has_surplus(self) -> bool:
        """Return True if other consumers want a permit that is not needed here."""
        return self._permits is not None and self._permits.has_surplus(sum(line.wanted for line in self._lines))

    @property
    def _must_report(self) -> bool:
        return self._report.is_urgent or self._is_upstream_back

    async def _lease(self) -> Block:
        """Report and lease a block. A report that the table did not accept is made again with the next lease."""
        seen = await self._store.read_limit(self._name)
        self._time.learn(seen.at, self._clock.monotonic())
        report, must_report = self._report, self._must_report
        if seen.cut_at != self._state.cut_at or report.throttled_from < self._followed_at:
            report = replace(report, throttled_from=0.0)  # it started before this gate knew of the cut
        if report.throttled and report.free_rate is None and self._state.rate is None:
            report = replace(report, free_rate=float(self._passed_lately()))
        holders = self._plan_holders(seen)
        state, block = lease(seen, self._limit, report, self._tokens_for(seen, holders), self.now())
        if not (block.tokens or must_report or self._must_write(seen, holders)):
            self._follow(state, block)
            return block
        self._report = Report()
        self._wrote_at = self._clock.monotonic()
        has_leased = False
        try:
            state = replace(state, lease=secrets.token_hex(8), holders=holders)
            has_leased = await self._write(seen, state)
        finally:
            if not has_leased:
                self._report += report
        if not has_leased:
            if block.tokens is None:
                self._free_until = self._clock.monotonic() + 2 * block.seconds  # as the state that was read says
            return Block(0, LEAST_WRITE_SECONDS * random.uniform(1.0, 1.2))  # noqa: S311 - spreads calls
        self._follow(state, block)
        return block

    async def _write(self, seen: LimitState, state: LimitState) -> bool:
        if self._permits is None:
            return await self._store.lease_limit(self._name, seen, state)
        self._permits.send(state.holders)
        sent_at = self._clock.monotonic()
        has_leased = await self._store.lease_limit(self._name, seen, state)
        if has_leased:
            self._permits.confirm(state.holders, sent_at)
        return has_leased

    def _plan_holders(self, seen: LimitState) -> Holders:
        """Return the holders of permits after the next write."""
        if self._permits is None:
            return seen.holders
        waiting = 0 if self._is_over else sum(line.wanted for line in self._lines)
        slots = max((line.count for line in self._lines), default=0)
        could_start = max(0, min(waiting, slots - self._permits.running))
        return self._permits.plan(seen.holders, could_start, self._clock.monotonic())

    def _must_write(self, seen: LimitState, holders: Holders) -> bool:
        if self._permits is None:
            return False
        return self._permits.must_write(seen.holders, holders, self._clock.monotonic())

    def _tokens_for(self, seen: LimitState, holders: Holders) -> int:
        """Return how many tokens are needed in the next block. Without a permit a token would be lost."""
        wanted = self._wanted
        if wanted and self._rules.is_prompt:
            wanted += self._spare_tokens(seen)
        if self._permits is None:
            return wanted
        permits = self._permits.planned(holders)
        if not self._seconds_each:
            return wanted if permits else 0
        return min(wanted, permits + math.ceil(permits * BLOCK_SECONDS / self._seconds_each))

    def _spare_tokens(self, seen: LimitState) -> int:
        """Return how many tokens to lease for operations that may come while the block lasts.

        As many may come as in the last second. If nobody has used the limit lately, more tokens cost nobody anything.
        """
        rate = (seen.rate or self._limit.rate or 0.0) if seen.tat <= self.now() else 0.0
        return max(self._passed_lately(), math.floor(SPARE_SHARE * rate * BLOCK_SECONDS))

    def _follow(self, state: LimitState, block: Block) -> None:
        now = self._clock.monotonic()
        if state.cut_at != self._state.cut_at:
            self._followed_at = self.now()
        self._state, self._read_at = state, now
        self._free_until = now + 2 * block.seconds if block.tokens is None else 0.0
        self._is_blocked = self._report.is_urgent
        self._postpone_lines()

    async def _use(self, block: Block) -> None:
        """Hand out the tokens of a block evenly. Return early if something must be reported."""
        began_at = self._clock.monotonic()
        if not block.tokens:
            self._pass_on()
            is_short = self._permits is not None and self._permits.are_short
            seconds = min(block.seconds, SHORT_SECONDS) if is_short else block.seconds
            await self._sleep_unless_urgent(seconds * random.uniform(1.0, 1.1))  # noqa: S311 - spreads calls
            return
        given, first = 0, int(self._rules.is_prompt)
        ends_at = began_at + block.seconds
        seconds = self._spread_seconds(block.tokens, block.seconds)
        while True:
            passed = self._clock.monotonic() - began_at
            due = min(block.tokens, first + int(block.tokens * passed / seconds + 1e-9))
            self._tokens += due - given
            given = due
            self._pass_on()
            if given >= block.tokens or self._must_report:
                break
            gap = max(TICK_SECONDS, seconds / block.tokens)
            await self._sleep_unless_urgent(min(gap, ends_at - self._clock.monotonic()))
        await asyncio.sleep(0)  # an operation counts as waiting until its task has noticed that it has a token
        await self._sleep_unless_urgent(ends_at - EARLY_SECONDS - self._clock.monotonic())
        unused = max(self._tokens, 0) + block.tokens - given
        self._tokens = min(self._tokens, 0)
        self._report += Report(unused=unused)

    def _spread_seconds(self, tokens: int, block_seconds: float) -> float:
        """Return the time in which the tokens of a block are handed out."""
        if not self._rules.is_prompt or self._state.rate is None:
            return block_seconds
        return min(block_seconds, tokens / self._state.rate)

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self._clock.sleep(seconds)

    async def _sleep_unless_urgent(self, seconds: float) -> None:
        """Sleep, but wake up if something must be reported or given up."""
        until = self._clock.monotonic() + seconds
        while not (self._must_report or self._has_surplus) and (left := until - self._clock.monotonic()) > 0:
            self._news.clear()
            if not await happens(self._news, left):
                return

    def _count_passed(self, count: int) -> None:
        second = int(self._clock.monotonic())
        if second != self._passed_second:
            last = self._passed[0] if second == self._passed_second + 1 else 0
            self._passed, self._passed_second = [0, last], second
        self._passed[0] += count

    def _passed_lately(self) -> int:
        """Return how many operations passed in a second, or 0 if none has for more than a second."""
        is_recent = int(self._clock.monotonic()) - self._passed_second <= 1
        return max(self._passed) if is_recent else 0

    def _learn_seconds(self, start: Start) -> None:
        seconds = self._clock.monotonic() - start.monotonic
        before = seconds if self._seconds_each is None else self._seconds_each
        self._seconds_each = before + NEWEST_SHARE * (max(seconds, TICK_SECONDS) - before)

    # --- Postponing

    def _seconds_to_postpone(self, operations: int) -> float:
        """Return for how long a further chunk must be postponed, or 0 if it may wait here."""
        if self._may_pass and not self._has_waiters and self._tokens >= operations:
            return 0.0
        waiting = sum(line.wanted for line in self._lines)
        if (pause := self._pause_seconds(is_kept=self.waiting_chunks < self._rules.kept_chunks)) > 0:
            return pause
        rate, now = self._rate, self._clock.monotonic()
        if rate is None:
            # Operations wait only because the upstream has asked for a pause, or because no permit is free.
            pause = min(self._state.not_before - self.now(), LONGEST_POSTPONED_SECONDS)
            may_wait = self._has_room or (pause <= 0 and self._permits is None)
            return 0.0 if may_wait else max(LEAST_POSTPONED_SECONDS, pause)
        share = rate / max(self._state.consumers, len(self._state.holders))
        if waiting < self._rules.held_seconds * share and self._has_room:
            return 0.0
        # The fleet finishes what this consumer holds and has postponed after `wait`, or later. The chunk comes back
        # after half of that time: the rate may rise. Then it may be postponed again.
        self._parked = [one for one in self._parked if one[0] > now]
        wait = (waiting + sum(parked for _, parked in self._parked)) / rate
        longest = LEAST_POSTPONED_SECONDS if self._is_searching else LONGEST_POSTPONED_SECONDS
        seconds = max(LEAST_POSTPONED_SECONDS, min(wait / 2, longest))
        self._parked.append((now + seconds, operations))
        return seconds

    @property
    def _rate(self) -> float | None:
        """Return how many operations the fleet can start in a second, or None if that is not known."""
        rates = [] if self._state.rate is None else [self._state.rate]
        if self._permits is not None and self._seconds_each is not None:
            rates.append(self._permits.concurrency / self._seconds_each)
        return min(rates, default=None)

    @property
    def _has_room(self) -> bool:
        """Return True if a further chunk may wait here. The gates of the process share the room equally."""
        return self.waiting_chunks < max(1, self._rules.most_held // max(1, self.count_busy()))

    @property
    def _is_searching(self) -> bool:
        """Return True if the rate may still be far too low, because it was learnt a moment ago."""
        return self._state.rate is not None and self._limit.rate is None and self._state.earlier_ceiling is None

    def _pause_seconds(self, *, is_kept: bool) -> float:
        """Return for how long a chunk must be postponed because the upstream is away, or asks for a long pause."""
        if self._clock.monotonic() - self._read_at > FRESH_SECONDS:
            return 0.0
        now = self.now()
        pause = self._state.not_before - now
        if pause > self._rules.away_seconds:
            spread = random.uniform(0, LEAST_POSTPONED_SECONDS)  # noqa: S311 - spreads chunks
            return min(pause + spread, LONGEST_POSTPONED_SECONDS)
        if is_kept or not self._state.away_at or now - self._state.away_at < self._rules.away_seconds:
            return 0.0
        share = AWAY_SHARE * random.uniform(0.5, 1.0)  # noqa: S311 - spreads chunks
        return min(max(LEAST_POSTPONED_SECONDS, share * (now - self._state.away_at)), LONGEST_POSTPONED_SECONDS)

    def _postpone_lines(self) -> None:
        """Postpone the chunks that would wait for long because of what the state says now."""
        waiting = [line for line in self._lines if line.may_be_postponed and line.wanted]
        for number, line in enumerate(waiting):
            if (seconds := self._pause_seconds(is_kept=number < self._rules.kept_chunks)) > 0:
                line.postpone(seconds)
