"""Attempts at the operations of a small batch. Each attempt takes a slot, and before it a token if it has a limit.

All of them keep within the batch's time.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from penstock.backoff import Backoff
from penstock.chunk import Operation
from penstock.outcome import Verdict, is_final, next_attempt, wait_seconds
from penstock.running.attempt import Transaction, is_being_cancelled
from penstock.running.bulk import CallFailed, Lot
from penstock.running.limit_line import Line, PostponedChunk
from penstock.running.runner import Runner
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.source import Source

AnyTurn = Turn | TurnWithRoom | Line


@dataclass(frozen=True, slots=True)
class Tried:
    """The last attempt at an operation: its verdict, and its number, counted from 1.

    `cut_off` is true if the attempt was cancelled inside its savepoint. That can happen in the middle of a statement,
    and then the transaction may have lost its connection. `is_held_back` is true if a limit of the fleet left no time
    for the next attempt.
    """

    verdict: Verdict
    attempt: int
    cut_off: bool = False
    is_held_back: bool = False


@dataclass(frozen=True, slots=True)
class LotTried:
    """The first attempt at a lot, by index. `tried` is empty if the call raised, or if the time was over first.

    `is_held_back` is true if a limit of the fleet let nothing start in time.
    """

    tried: Mapping[int, Tried] = field(default_factory=dict)
    cut_off: bool = False
    is_held_back: bool = False


class Savepoint:
    """A savepoint for one attempt.

    Afterwards, `cut_off` tells whether the attempt was cancelled inside it, whatever exception it ended with. A handler
    that raises CancelledError by itself was not cut off: nobody cancelled its task. If the savepoint is still open, the
    handler was left behind in it.
    """

    def __init__(self, open_: Callable[[], Transaction]) -> None:
        self.cut_off = False
        self.is_open = False
        self._open = open_

    @asynccontextmanager
    async def open(self) -> AsyncIterator[object]:
        self.is_open = True
        try:
            async with self._open() as transaction:
                yield transaction
        except BaseException:
            self.cut_off = is_being_cancelled()
            raise
        finally:
            self.is_open = False


class Attempts:
    """Makes attempts until `deadline`, in the time of the loop, and as long as `may_start` returns True.

    With `open_savepoint`, every attempt runs in a savepoint of the same transaction. Then the attempts must be made
    one after another. `has_left_savepoint` is true if a handler was left behind in a savepoint. Then the transaction
    must be rolled back, and no further attempt may be made in it.
    """

    def __init__(
        self,
        runner: Runner,
        backoff: Backoff,
        source: Source,
        deadline: float,
        *,
        turn_of: Callable[[Operation], AnyTurn],
        may_start: Callable[[], bool],
        open_savepoint: Callable[[], Transaction] | None = None,
    ) -> None:
        self._runner = runner
        self._backoff = backoff
        self._source = source
        self._deadline = deadline
        self._turn_of = turn_of
        self._may_start = may_start
        self._open_savepoint = open_savepoint
        self.has_left_savepoint = False

    async def try_together(self, lot: Lot) -> LotTried:
        """Make the first attempt at the operations of a bulk handler in one call. Do nothing for a single operation."""
        return LotTried() if len(lot) == 1 else await self._try(lot, 1)

    async def try_until_final(self, operation: Operation, last: Tried | None = None) -> Tried | None:
        """Make the attempts that are left after `last`, as far as the time allows, and return the last one.

        Return None if the time was over before the first attempt was finished.
        """
        tries = 1  # an operation that is turned away keeps its attempt, and its backoff grows all the same
        while last is None or await self._wait_for_next_attempt(last, tries):
            attempt = 1 if last is None else next_attempt(last.verdict, last.attempt)
            tries += last is not None
            made = await self._try((operation,), attempt)
            if operation.index not in made.tried:
                return None if last is None else replace(last, is_held_back=made.is_held_back)
            last = made.tried[operation.index]
        return last

    async def try_group_until_final(self, group: Lot) -> Mapping[int, Tried]:
        """Make attempts at an atomic group as far as the time allows, and return the last one, by index.

        All of its operations have the same kind of verdict. Return nothing if the time was over before the first
        attempt was finished.
        """
        first, tried, tries = group[0].index, LotTried().tried, 1
        while not tried or await self._wait_for_next_attempt(tried[first], tries):
            attempt = 1 if not tried else next_attempt(tried[first].verdict, tried[first].attempt)
            tries += bool(tried)
            made = await self._try(group, attempt)
            if not made.tried:
                return {index: replace(one, is_held_back=made.is_held_back) for index, one in tried.items()}
            tried = made.tried
        return tried

    async def _try(self, lot: Lot, attempt: int) -> LotTried:
        savepoint = None if self._open_savepoint is None else Savepoint(self._open_savepoint)
        turn, has_started = self._turn_of(lot[0]), False
        try:
            async with asyncio.timeout_at(self._deadline), _taken(turn):
                # A handler that never waits cannot be stopped by the timeout. And a statement that is cut short can
                # cost the other operations their connection. So no attempt starts after the deadline.
                if asyncio.get_running_loop().time() >= self._deadline:
                    return LotTried(is_held_back=isinstance(turn, Line))
                if not self._may_start():
                    return LotTried()
                has_started = True
                verdicts = await self._run(lot, attempt, savepoint, turn)
        except (TimeoutError, PostponedChunk):
            return LotTried(is_held_back=isinstance(turn, Line) and not has_started)
        finally:
            self.has_left_savepoint |= savepoint is not None and savepoint.is_open
        cut_off = savepoint is not None and savepoint.cut_off
        return LotTried({index: Tried(verdict, attempt, cut_off) for index, verdict in verdicts.items()}, cut_off)

    async def _run(self, lot: Lot, attempt: int, savepoint: Savepoint | None, turn: AnyTurn) -> dict[int, Verdict]:
        if not isinstance(turn, Line):
            return await self._perform(lot, attempt, savepoint)
        turn.start(len(lot))
        start = turn.gate.start()
        verdicts = await self._perform(lot, attempt, savepoint)
        turn.gate.note(verdicts, start)
        return verdicts

    async def _perform(self, lot: Lot, attempt: int, savepoint: Savepoint | None) -> dict[int, Verdict]:
        open_ = None if savepoint is None else savepoint.open
        try:
            return await self._runner.run_apart(lot, self._source, attempt, open_)
        except CallFailed:
            return {}

    async def _wait_for_next_attempt(self, last: Tried, tries: int) -> bool:
        """Wait until the next attempt is due. Return False, without waiting, if there will be none."""
        if last.cut_off or self.has_left_savepoint or is_final(last.verdict, last.attempt):
            return False
        draw = random.random()  # noqa: S311 - spreads retries, keeps no secret
        wait = wait_seconds(last.verdict, last.attempt, tries, self._backoff, draw)
        # A wait beyond the deadline is not started: it helps nobody, and delays the next operation of a transaction.
        if asyncio.get_running_loop().time() + wait >= self._deadline:
            return False
        await asyncio.sleep(wait)
        return True


@asynccontextmanager
async def _taken(turn: AnyTurn) -> AsyncIterator[None]:
    """Hold a slot, and before it a token and a permit if the operation has a limit."""
    await turn.acquire()
    while isinstance(turn, Line) and not turn.may_start:  # its permit has lapsed while it waited for the slot
        turn.release()
        await turn.acquire()
    try:
        yield
    finally:
        turn.release()
