"""The state of a stop. Code that runs operations checks it before it starts another operation."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """The stages of stopping. They come in this order, and none is ever undone. Followers stop together with it.

    1. `spend`: the time budget is used up. Nothing new starts, but the operations of a failed bulk call still run.
    2. `begin`: nothing at all starts any more. Handlers in flight go on.
    3. `cut_off`: the grace period is over. Handlers in flight are cancelled.
    """

    def __init__(self) -> None:
        self.spent = asyncio.Event()
        self.begun = asyncio.Event()
        self.cut = asyncio.Event()
        self.has_come = (
            False  # True as soon as any of these has come: it is read for each operation, so it is no method
        )
        self._followers: dict[Stop, None] = {}  # in a fixed order, or a simulated run could not be replayed

    def spend(self) -> None:
        """Mark the time budget as used up. Followers have budgets of their own and are not affected."""
        self.has_come = True
        self.spent.set()

    def begin(self) -> None:
        """Let nothing start any more, here and in all followers."""
        self.has_come = True
        self.begun.set()
        for follower in self._followers:
            follower.begin()

    def cut_off(self) -> None:
        """Cancel the handlers in flight, here and in all followers."""
        self.has_come = True
        self.cut.set()
        for follower in self._followers:
            follower.cut_off()

    @contextmanager
    def follower(self) -> Iterator["Stop"]:
        """Open a stop that stops when this one does. It may also stop earlier by itself."""
        follower = Stop()
        self._followers[follower] = None
        if self.begun.is_set():
            follower.begin()
        if self.cut.is_set():
            follower.cut_off()
        try:
            yield follower
        finally:
            del self._followers[follower]
