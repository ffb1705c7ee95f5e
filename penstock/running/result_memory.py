"""Limits the memory that the results of a process take until they are recorded.

The sizes are those of the results as JSON. Results are *held* by their chunk from the end of their handler until they
are recorded. For each running handler, memory is *reserved*, as much as its recent results took. Two things keep both
together within the limit:

- No further handler gets a slot while the memory is full.
- A chunk that holds much is *cut*: nothing of it starts any more, so it is recorded, and the rest follows as a chunk.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from penstock.outcome import Verdict, has_long_result, size_of

MOST_BYTES = 16 * 1024 * 1024  # of all results together. Recording them takes about as much again
CHUNK_BYTES = 4 * 1024 * 1024  # a chunk that holds more is cut, because whoever reads its record needs all of it
FIRST_CALLS = 16  # calls of a handler that may run together before the first has returned
PATIENCE = 7 / 8  # what a second takes from the reservation of a handler that has not returned yet
LONG_ERROR_BYTES = 1_024  # a shorter error says nothing about how long the results of its handler are
FORGETTING = 32  # a smaller result lowers the estimate by this part

Running = Any  # identifies a call, such as the task that makes it


class ChunkResults:
    """What a chunk holds. Once it `is_cut`, nothing of the chunk may start."""

    def __init__(self, memory: "ResultMemory") -> None:
        self.memory = memory
        self.held = 0
        self.is_cut = False
        self._when_cut: list[Callable[[], None]] = []

    def add(self, size: int) -> None:
        self.held += size
        self.memory.hold(size)
        if self.held >= CHUNK_BYTES:
            self.cut()

    def cut(self) -> None:
        if not self.is_cut:
            self.is_cut = True
            for notify in list(self._when_cut):
                notify()

    @contextmanager
    def when_cut(self, notify: Callable[[], None]) -> Iterator[None]:
        """Call `notify` if the chunk is cut inside the block."""
        self._when_cut.append(notify)
        try:
            yield
        finally:
            self._when_cut.remove(notify)


class ResultMemory:
    """The memory for the results of a process."""

    def __init__(self) -> None:
        self.used = 0  # held and reserved bytes
        self._chunks: dict[ChunkResults, None] = {}
        self._estimates: dict[str, int] = {}  # the size of a result, by handler
        self._guesses: dict[str, int] = {}  # the size of what a call returns, by handlers that have not returned yet
        self._running: dict[Running, tuple[str, int]] = {}  # handlers and their reservations
        self._when_free: list[Callable[[], None]] = []

    @property
    def is_full(self) -> bool:
        """Return True if no further handler may start.

        Then memory becomes free by itself: a running handler returns, or a chunk that is cut is recorded. If there is
        neither, a handler may start, whatever it returns.
        """
        if self.used < MOST_BYTES:
            return False
        return bool(self._running) or any(results.is_cut for results in self._chunks)

    def when_free(self, notify: Callable[[], None]) -> None:
        """Call `notify` whenever the memory is not full any more."""
        self._when_free.append(notify)

    @contextmanager
    def for_chunk(self) -> Iterator[ChunkResults]:
        """Count the results of a chunk inside the block. They are recorded, or given up, at its end."""
        results = ChunkResults(self)
        self._chunks[results] = None
        try:
            yield results
        finally:
            del self._chunks[results]
            if results.held:
                self._release(results.held)

    def hold(self, size: int) -> None:
        """Note that a chunk holds more. If the memory is full, cut the chunks that hold most."""
        self.used += size
        if self.used < MOST_BYTES:
            return
        growing = sorted((one for one in self._chunks if not one.is_cut), key=lambda one: one.held)
        left = sum(one.held for one in growing)
        while growing and left > CHUNK_BYTES:
            largest = growing.pop()
            left -= largest.held
            largest.cut()

    def expects_much(self, handler: str) -> bool:
        """Return False if the recent results of a handler were short, so that its calls need no reservation."""
        return self._estimates.get(handler) != 0

    def start(self, handler: str, count: int, call: Running) -> None:
        """Reserve memory for a call that performs `count` operations."""
        estimate = self._estimates.get(handler)
        size = self._guess(handler) if estimate is None else estimate * count
        if size:
            self._running[call] = handler, size
            self.used += size

    def end(self, call: Running) -> None:
        """Release what is reserved for a call, if anything is."""
        ended = self._running.pop(call, None)
        if ended is not None:
            self._release(ended[1])

    def learn(self, handler: str, verdicts: Mapping[int, Verdict]) -> int:
        """Learn from what a call has returned, and return its size."""
        total = largest = 0
        for verdict in verdicts.values():
            if size := size_of(verdict):
                total += size
                if size > LONG_ERROR_BYTES or has_long_result(verdict):
                    largest = max(size, largest)
        if largest or self.expects_much(handler):
            self._estimate(handler, largest)
        return total

    def _estimate(self, handler: str, largest: int) -> None:
        estimate = self._estimates.get(handler, 0)
        self._estimates[handler] = max(largest, estimate - 1 - estimate // FORGETTING)
        self._guesses.pop(handler, None)

    def lower_guesses(self) -> None:
        """Reserve less for handlers that have not returned yet. Call this once a second.

        Otherwise handlers that take an hour would leave most slots idle in the first hour of every process.
        """
        if not self._guesses:
            return
        for handler, size in self._guesses.items():
            self._guesses[handler] = int(size * PATIENCE)
        released = 0
        for call, (handler, size) in self._running.items():
            if handler in self._guesses:
                lower = int(size * PATIENCE)
                self._running[call] = handler, lower
                released += size - lower
        self._release(released)

    def _guess(self, handler: str) -> int:
        return self._guesses.setdefault(handler, MOST_BYTES // FIRST_CALLS)

    def _release(self, size: int) -> None:
        may_be_awaited = self.used >= MOST_BYTES
        self.used -= size
        if may_be_awaited and not self.is_full:
            for notify in self._when_free:
                notify()
