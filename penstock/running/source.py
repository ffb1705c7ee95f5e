"""Where operations come from: their batch, and whose turn it is to run them."""

from collections.abc import Mapping
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
    key_prefix: str  # the keys of all its operations start with it
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def key_of(self, operation: Operation) -> str:
        """Return the idempotency key that a handler finds in its context."""
        return f"{self.key_prefix}/{operation.id}"
