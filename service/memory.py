"""Limits the memory of all unfinished requests and answers together. Pure."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from penstock.errors import Overloaded


class Memory:
    """The bytes that the requests and answers of this process take. They are estimated, not measured."""

    def __init__(self, most_bytes: int) -> None:
        self.used_bytes = 0
        self.most_bytes = most_bytes
        self._caches: list[Callable[[], None]] = []

    def share_of_cache(self, empty: Callable[[], None]) -> "Share":
        """Return the memory of a cache. `empty` is called when a request needs it, and must release it."""
        self._caches.append(empty)
        return self.share()

    def empty_caches(self) -> None:
        for empty in self._caches:
            empty()

    def is_available(self, size: int) -> bool:
        return self.used_bytes + size <= self.most_bytes

    @property
    def is_half_free(self) -> bool:
        """Return True if what only saves time may take some. It leaves the other half of the memory for requests."""
        return 2 * self.used_bytes < self.most_bytes

    def share(self) -> "Share":
        return Share(self)


class Share:
    """The memory of one request or answer. It is released at the end of the `with` block."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._size = 0
        self._is_released = False

    def grow_to(self, size: int) -> None:
        """Take at least so much memory. Raises Overloaded if it is not available.

        A request that is alone may take any memory. Otherwise, it would never be answered, however often it is sent.
        """
        if size <= self._size:
            return
        if not self._may_grow_to(size):
            self._memory.empty_caches()
        if not self._may_grow_to(size):
            raise Overloaded("The requests in progress use all memory for requests. Try again in a moment.")
        self.take(size)

    def _may_grow_to(self, size: int) -> bool:
        is_alone = self._memory.used_bytes == self._size
        return is_alone or self._memory.is_available(size - self._size)

    def take(self, size: int) -> None:
        """Take so much memory, even if it is not available: an answer must be sent, and leaves less for requests."""
        self._memory.used_bytes += size - self._size
        self._size = size

    def add(self, size: int) -> None:
        """Take more memory for what is in memory already, unless the request is finished and has left it behind."""
        if not self._is_released:
            self.take(self._size + size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.take(0)
        self._is_released = True
