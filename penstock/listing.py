"""The lists of batches, newest first: one for each tenant, and one for all of them. Pure, with the port to the table.

A front end writes the entry of a batch while it accepts the batch. So a list has every batch that was accepted, and it
may have some that were not. An entry never changes. It has the metadata of its batch. Everything else changes while
the batch runs, so whoever reads a list reads the batches, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from penstock.batch import Batch


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place of a batch in a list, which is in the order of creation. A list is read from a later place on."""

    created_ms: int
    batch_id: str = ""  # a place without a batch is before all batches of its millisecond

    @classmethod
    def of(cls, batch: Batch) -> Self:
        # The table has the time to the millisecond. So round it first: the batch may not come from the table.
        return cls(round(round(batch.created_at, 3) * 1000), batch.id)


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch in a list."""

    place: Place
    metadata: Mapping[str, str] = field(default_factory=dict)


class ListStore(Protocol):
    """The part of the store that has the lists."""

    async def list_batch(self, batch: Batch, metadata: Mapping[str, str]) -> None:
        """Write the entries of a batch that is being accepted: in the list of its tenant, and in the list of all."""

    async def read_list(self, tenant: str | None, since: Place, before: Place, limit: int) -> list[Entry]:
        """Return entries of a tenant, or of all if it is None: the last `limit` from `since` to before `before`.

        The newest comes first. The table may have deleted entries that are past the retention of their batches.
        """

    async def read_metadata(self, batch: Batch) -> dict[str, str]:
        """Return the metadata of a batch. This makes a call only if the batch has any."""

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        """Return those of these batches that the table has, in one call for up to 100."""
