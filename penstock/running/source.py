"""Where operations come from: their batch, and whose turn it is to run them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from penstock.chunk import Operation
from penstock.priority import Priority


@dataclass(frozen=True, slots=True)
class Source:
    """The batch that operations belong to.

    Slots are shared by priority, and the tenants of one priority take turns. `headers` are those of the batch's request
    that forwarded operations carry along.
    """

    batch_id: str
    key_prefix: str  # the key of an operation starts with it, unless the client gave the operation a key
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    concurrency: int | None = None  # how many operations of the batch may run at the same time in the fleet

    def key_of(self, operation: Operation) -> str:
        """Return the idempotency key that a handler finds in its context."""
        return self.name_of(operation) if operation.key is None else operation.key

    def name_of(self, operation: Operation) -> str:
        """Return a text that no other operation of any batch has."""
        return f"{self.key_prefix}/{operation.id}"


class Urgency:
    """The priority of a batch while one of its chunks runs: a client may change it meanwhile."""

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self._followers: list[Callable[[Priority], None]] = []

    def change(self, priority: Priority) -> None:
        """Tell all followers the priority, if it is another one than before."""
        if priority is self.priority:
            return
        self.priority = priority
        for follower in list(self._followers):
            follower(priority)

    @contextmanager
    def followed_by(self, follower: Callable[[Priority], None]) -> Iterator[None]:
        """Call `follower` with each new priority while the block runs."""
        self._followers.append(follower)
        try:
            yield
        finally:
            self._followers.remove(follower)
