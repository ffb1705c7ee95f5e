"""The operations of one chunk, or of one small batch, that wait at the gate of a limit."""

import asyncio
from typing import TYPE_CHECKING

from penstock.priority import Priority
from penstock.running.slots import Turn, TurnWithRoom
from penstock.running.token_lane import Waiter

if TYPE_CHECKING:
    from penstock.running.limit_gate import LimitGate


class PostponedChunk(Exception):
    """The operations of a chunk that wait for tokens are postponed by `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Line:
    """The operations of one chunk that wait at a gate.

    It takes the place of their turn. They wait for a token before they wait for a slot. The turn may be a line at
    another gate: then they pass this gate first. `behind` is the gate that they pass before this one.
    """

    def __init__(
        self,
        gate: "LimitGate",
        turn: "Turn | TurnWithRoom | Line",
        operations: int,
        *,
        may_be_postponed: bool,
        behind: "LimitGate | None" = None,
    ) -> None:
        slots = turn.turn if isinstance(turn, TurnWithRoom) else turn
        self.priority: Priority = slots.priority
        self.tenant: str = slots.tenant
        self.may_be_postponed = may_be_postponed
        self._postponed_seconds: float | None = None
        self._behind = behind
        self._next = turn if isinstance(turn, Line) else None
        self.left = operations  # that have no token; a call with several operations uses all its tokens when it starts
        self.waiters: set[Waiter] = set()
        self.gate = gate
        self._turn = turn
        self._has_unused = False  # the slot that was just acquired has a token that no call has used yet

    @property
    def is_behind_another(self) -> bool:
        """Return True if the operations pass another gate before this one."""
        return self._behind is not None

    @property
    def wanted(self) -> int:
        """Return how many tokens the operations need."""
        if self.postponed_seconds is not None:
            return 0
        if self._behind is not None:
            return min(max(self.left, self._waiting), self._waiting + self._behind.reach)
        return self.left if self.left > 0 else self._waiting

    @property
    def waiting(self) -> int:
        """Return how many operations wait at this gate."""
        return self.wanted if self._behind is None else self._waiting

    @property
    def _waiting(self) -> int:
        return sum(not waiter.done() for waiter in self.waiters)

    @property
    def postponed_seconds(self) -> float | None:
        """Return for how long the operations are postponed, or None if they are not."""
        if self._postponed_seconds is None and self._next is not None:
            return self._next.postponed_seconds
        return self._postponed_seconds

    @property
    def delay_seconds(self) -> float:
        """Return for how long operations must be postponed that have waited here, or 0 if they need no delay."""
        return max(self.gate.delay_seconds, 0.0 if self._next is None else self._next.delay_seconds)

    @property
    def count(self) -> int:
        return self._turn.count

    @property
    def are_wanted(self) -> bool:
        """Return True: whoever holds a slot releases it, because the next operation needs a token first."""
        return True

    async def acquire(self) -> None:
        """Wait for a token, and then for a slot. Raise PostponedChunk if the operation must not wait here."""
        await self.gate.take(self)
        try:
            await self._turn.acquire()
        except (asyncio.CancelledError, PostponedChunk):
            self.gate.give_back(self)
            self.gate.end()
            raise
        self._has_unused = True

    @property
    def may_start(self) -> bool:
        """Return True if the next operation may still start. It may have waited for its slot for long."""
        return self.gate.may_start and (self._next is None or self._next.may_start)

    def release(self) -> None:
        """Release a slot, and give its token back if nothing has started in it."""
        if self._has_unused:
            self._has_unused = False
            self.gate.give_back(self)
        self._turn.release()
        self.gate.end()

    def start(self, operations: int) -> None:
        """Use the tokens of a call with this many operations. One of them was taken before."""
        self._has_unused = False
        self.left -= operations - 1
        self.gate.take_extra(operations - 1)
        if self._next is not None:
            self._next.start(operations)

    def give_up(self, operations: int) -> None:
        """Note that operations do not start."""
        self.left -= operations
        if self._next is not None:
            self._next.give_up(operations)

    def isolate(self, operations: int) -> None:
        """Let the operations of failed calls wait, which run one by one. They are never postponed.

        Otherwise they would follow with the same attempt, and the same call would fail again and again.
        """
        self.may_be_postponed = False
        self._postponed_seconds = None
        self.left = operations
        if self._next is not None:
            self._next.isolate(operations)
        self.gate.note_waiting()

    def postpone(self, seconds: float) -> None:
        """Let nothing more of the chunk start here."""
        self._postponed_seconds = seconds
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(PostponedChunk(seconds))
        if self._next is not None:
            self._next.postpone(seconds)
