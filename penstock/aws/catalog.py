"""The catalog in the DynamoDB table.

item     pk                         sk
entry    catalog#<kind>#<tenant>    <id>
"""

from collections.abc import Sequence
from urllib.parse import quote

from pydantic_core import from_json, to_json

from penstock.aws.attributes import Item, Value, binary, read_text, text, whole_seconds
from penstock.aws.table import Table
from penstock.catalog import CatalogEntry

_FIRST, _LAST = "!", "~"  # before and after all ids, which are printable ASCII


class DynamoDbCatalog:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def write_entry(self, entry: CatalogEntry) -> None:
        await self._table.put(
            {
                **_key(entry.kind, entry.tenant, entry.id),
                "content": binary(to_json(entry.content)),
                "expires_at": whole_seconds(entry.expires_at),
            }
        )

    async def read_entry(self, kind: str, tenant: str, entry_id: str) -> CatalogEntry | None:
        item = await self._table.get(_key(kind, tenant, entry_id))
        return None if item is None else _entry_from_item(kind, tenant, item)

    async def read_entries(self, kind: str, tenant: str, ids: Sequence[str]) -> list[CatalogEntry]:
        items = await self._table.get_many([_key(kind, tenant, one) for one in ids]) if ids else []
        return [_entry_from_item(kind, tenant, item) for item in items]

    async def list_entries(
        self, kind: str, tenant: str, after: str | None, limit: int, *, now: float, oldest_first: bool = False
    ) -> list[CatalogEntry]:
        # A query includes its first key, which may be the entry that the page comes after.
        first, last = (after or _FIRST, _LAST) if oldest_first else (_FIRST, after or _LAST)
        items = await self._table.query_existing(
            _pk(kind, tenant), first, last, limit + 1, now=whole_seconds(now), is_forward=oldest_first
        )
        return [_entry_from_item(kind, tenant, item) for item in items if read_text(item, "sk") != after][:limit]


def _pk(kind: str, tenant: str) -> str:
    return f"catalog#{kind}#{quote(tenant, safe='')}"


def _key(kind: str, tenant: str, entry_id: str) -> dict[str, Value]:
    return {"pk": text(_pk(kind, tenant)), "sk": text(entry_id)}


def _entry_from_item(kind: str, tenant: str, item: Item) -> CatalogEntry:
    return CatalogEntry(
        kind,
        tenant,
        read_text(item, "sk"),
        float(item["expires_at"]["N"]),
        from_json(item["content"]["B"]),
    )
