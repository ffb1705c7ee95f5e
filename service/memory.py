"""Limits the memory of all unfinished requests and answers together. Pure."""

from types import TracebackType
from typing import Self

from penstock.errors import Overloaded


class Memory:
    """The bytes that the requests and answers of this process take. They are estimated, not measured."""

    def __init__(self, most_bytes: int) -> None:
        self.used_bytes = 0
        self._most_bytes = most_bytes

    def is_available(self, size: int) -> bool:
        return self.used_bytes + size <= self._most_bytes

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
        is_alone = self._memory.used_bytes == self._size
        if not (is_alone or self._memory.is_available(size - self._size)):
            raise Overloaded("The requests in progress use all memory for requests. Try again in a moment.")
        self.take(size)

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
