"""The catalog: what a dialect remembers of each tenant, such as its files. Pure, with the port to the table.

An entry has a kind, an id that sorts by time, and a content that the engine does not read. Only its writer changes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from penstock.clock import SKEW_SECONDS


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """`content` is a JSON object. With its key, it takes less than 400 KB. From `expires_at` on, the entry is gone."""

    kind: str
    tenant: str
    id: str
    expires_at: float
    content: Mapping[str, Any] = field(default_factory=dict)

    def is_gone(self, now: float) -> bool:
        """Return True if the entry has expired or was deleted. The table deletes its item within days."""
        return now >= int(self.expires_at)

    def deleted(self, now: float) -> "CatalogEntry":
        """Return what to write in order to delete the entry. It is gone for programs whose clock is behind, too."""
        return replace(self, content={}, expires_at=float(int(now) - SKEW_SECONDS))


class CatalogStore(Protocol):
    """The part of the store that has the catalog."""

    async def write_entry(self, entry: CatalogEntry) -> None:
        """Write an entry, and replace the one that has its place."""

    async def read_entry(self, kind: str, tenant: str, entry_id: str) -> CatalogEntry | None:
        """Return an entry, also if it is gone, or None if there is none."""

    async def read_entries(self, kind: str, tenant: str, ids: Sequence[str]) -> list[CatalogEntry]:
        """Return those of these entries that are there, in any order, also if they are gone."""

    async def list_entries(
        self, kind: str, tenant: str, after: str | None, limit: int, *, now: float, oldest_first: bool = False
    ) -> list[CatalogEntry]:
        """Return the next `limit` entries of a kind, after the place of the id `after`. The newest comes first.

        Entries that are gone are left out. The table still reads those that it has not deleted yet.
        """
