"""The lists of batches in the DynamoDB table.

item                              pk                sk
entry in the list of a tenant     tenant#<tenant>   batch#<created, milliseconds>#<batch id>
entry in the list of all          batches           the same

A batch of the default tenant has no entry in the list of all. So an installation with one tenant writes one entry for a
batch. Whoever reads the list of all reads the list of the default tenant, too.
"""

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from penstock.api_key import DEFAULT_TENANT
from penstock.aws.attributes import Item, Value, read_text, text, whole_seconds
from penstock.aws.items import batch_from_item, batch_id_of, batch_key
from penstock.aws.table import Table
from penstock.batch import Batch
from penstock.listing import Entry, Place

_ALL = "batches"
_MS_DIGITS = 15


class DynamoDbLists:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def list_batch(self, batch: Batch, metadata: Mapping[str, str]) -> None:
        lists = [_list_of(batch.tenant)] if batch.tenant == DEFAULT_TENANT else [_list_of(batch.tenant), _ALL]
        for name in lists:
            await self._table.put(_entry_to_item(name, batch, metadata))

    async def read_list(self, tenant: str | None, since: Place, before: Place, limit: int) -> list[Entry]:
        if since >= before:
            return []  # DynamoDB rejects a range that ends before it starts
        lists = [_ALL, _list_of(DEFAULT_TENANT)] if tenant is None else [_list_of(tenant)]
        found = await asyncio.gather(*(self._read_list(name, since, before, limit) for name in lists))
        entries = [entry for part in found for entry in part]
        return sorted(entries, key=lambda entry: entry.place, reverse=True)[:limit]

    async def _read_list(self, name: str, since: Place, before: Place, limit: int) -> list[Entry]:
        # A query includes its last key, which may be the entry at `before`.
        items = await self._table.query_backwards(name, _sk(since), _sk(before), limit + 1)
        return [entry for entry in map(_entry_from_item, items) if entry.place < before][:limit]

    async def read_metadata(self, batch: Batch) -> dict[str, str]:
        if not batch.has_metadata:
            return {}
        return _metadata(await self._table.get(_key(_list_of(batch.tenant), Place.of(batch))) or {})

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        items = await self._table.get_many([batch_key(batch_id) for batch_id in batch_ids]) if batch_ids else []
        return {batch_id_of(item): batch_from_item(item) for item in items}


def _list_of(tenant: str) -> str:
    return f"tenant#{quote(tenant, safe='')}"


def _sk(place: Place) -> str:
    return f"batch#{place.created_ms:0{_MS_DIGITS}}#{place.batch_id}"


def _key(name: str, place: Place) -> dict[str, Value]:
    return {"pk": text(name), "sk": text(_sk(place))}


def _entry_to_item(name: str, batch: Batch, metadata: Mapping[str, str]) -> dict[str, Value]:
    return {
        **_key(name, Place.of(batch)),
        "expires_at": whole_seconds(batch.expires_at),
        **({"metadata": {"M": {key: text(value) for key, value in metadata.items()}}} if metadata else {}),
    }


def _entry_from_item(item: Item) -> Entry:
    _, created_ms, batch_id = read_text(item, "sk").split("#")
    return Entry(Place(int(created_ms), batch_id), _metadata(item))


def _metadata(item: Item) -> dict[str, str]:
    return {key: value["S"] for key, value in item.get("metadata", {"M": {}})["M"].items()}
