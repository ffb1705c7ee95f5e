"""Limits the memory of all unfinished requests and answers together. Pure."""

from collections import Counter
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
        self._of_tenants = Counter[str]()

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

    def share(self, tenant: str | None = None) -> "Share":
        """Return the memory of a request or an answer. That of a tenant counts towards the half that a tenant gets."""
        return Share(self, tenant)

    def take(self, tenant: str | None, size: int) -> None:
        """Take memory, or give some back."""
        self.used_bytes += size
        if tenant is not None:
            self._of_tenants[tenant] += size
            if not self._of_tenants[tenant]:
                del self._of_tenants[tenant]

    def leaves_half(self, tenant: str | None, taken: int, size: int) -> bool:
        """Return True if a request that has `taken` memory, and takes `size` more, leaves half to other tenants.

        The only request of a tenant may take more. Otherwise, it might never be answered.
        """
        if tenant is None or self._of_tenants[tenant] == taken:
            return True
        return 2 * (self._of_tenants[tenant] + size) <= self.most_bytes


class Share:
    """The memory of one request or answer. It is released at the end of the `with` block."""

    def __init__(self, memory: Memory, tenant: str | None = None) -> None:
        self._memory = memory
        self._tenant = tenant
        self._size = 0
        self._is_released = False

    def another(self) -> "Share":
        """Return memory for something else of the same tenant."""
        return Share(self._memory, self._tenant)

    def grow_to(self, size: int) -> None:
        """Take at least so much memory. Raises Overloaded if it is not available.

        A request that is alone may take any memory. Otherwise, it would never be answered, however often it is sent.
        """
        if size <= self._size:
            return
        if not self._memory.leaves_half(self._tenant, self._size, size - self._size):
            raise Overloaded(
                "Your requests in progress use half of the memory for requests, and the other half is for other "
                "tenants. Try again in a moment."
            )
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
        self._memory.take(self._tenant, size - self._size)
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
