"""Knows which chunks wait at a place of the consumer, and when it is full: they hold no slot, but stay in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.queue import Delivery

MOST_BYTES = 2 * 1024 * 1024  # of all chunks that wait at one place


class WaitingChunks:
    """The chunks of a place, which is full if their sizes come to `most` or if they take much memory.

    A size is what the place limits: 1 for each chunk, or the number of its letters. `on_wait` is called when a chunk
    starts to wait.
    """

    def __init__(self, most: int, on_wait: Callable[[], None]) -> None:
        self._most = most
        self._on_wait = on_wait
        self._waiting: dict[str, tuple[Delivery, int]] = {}  # with their sizes, by their receipts

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery.receipt in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        size = sum(size for _, size in self._waiting.values())
        waiting_bytes = sum(len(delivery.body) for delivery, _ in self._waiting.values())
        return size >= self._most or waiting_bytes >= MOST_BYTES

    @contextmanager
    def including(self, delivery: Delivery, size: int = 1) -> Iterator[None]:
        """Let a chunk wait until the block ends or the place is cleared."""
        self._waiting[delivery.receipt] = (delivery, size)
        self._on_wait()
        try:
            yield
        finally:
            self._waiting.pop(delivery.receipt, None)

    def clear(self) -> None:
        """End the wait of all chunks before their blocks end."""
        self._waiting.clear()
