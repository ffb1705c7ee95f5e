"""Knows the metadata of the batches that were read lately. It never changes, so it is read once."""

from collections.abc import Mapping

from penstock.batch import Batch
from penstock.store import Store

MOST_CHARACTERS = 1_000_000  # of all metadata that is kept


class KnownMetadata:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Mapping[str, str]] = {}  # by batch id, only of batches that have some
        self._characters = 0

    async def of(self, batch: Batch) -> Mapping[str, str]:
        """Return the metadata of a batch. This makes a call if the batch has some, and it is not known."""
        if not batch.has_metadata:
            return {}
        if batch.id not in self._known:
            self.note(batch.id, await self._store.read_metadata(batch))
        return self._known[batch.id]

    def note(self, batch_id: str, metadata: Mapping[str, str]) -> None:
        """Keep metadata that was read, and forget what was read first if it is too much."""
        if batch_id not in self._known:
            self._known[batch_id] = metadata
            self._characters += _characters(metadata)
        while self._characters > MOST_CHARACTERS:
            self._characters -= _characters(self._known.pop(next(iter(self._known))))


def _characters(metadata: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in metadata.items())
