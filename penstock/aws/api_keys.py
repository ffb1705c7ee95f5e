"""The API keys in the DynamoDB table. `api_key_items.py` knows what their items look like."""

from dataclasses import replace

from penstock.api_key import ApiKey
from penstock.aws import api_key_items as items
from penstock.aws.attributes import Value, seconds, text, whole_seconds
from penstock.aws.table import Table


class DynamoDbApiKeys:
    """Keeps the keys. A key is written after its place in the list, so no key exists that is not listed."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def create_api_key(self, key: ApiKey) -> None:
        await self._table.put(items.listed_to_item(key))
        await self._table.put(items.api_key_to_item(key))

    async def find_api_key(self, digest: str) -> ApiKey | None:
        item = await self._table.get(items.api_key_key(digest))
        return None if item is None else items.api_key_from_item(item)

    async def read_api_key(self, key_id: str) -> ApiKey | None:
        listed = await self._table.get(items.listed_key(key_id))
        return None if listed is None else await self.find_api_key(items.digest_of_listed(listed))

    async def list_api_keys(self) -> list[ApiKey]:
        listed = [item async for item in self._table.query(items.LIST, *items.LIST_RANGE)]
        found = await self._table.get_many([items.api_key_key(items.digest_of_listed(item)) for item in listed])
        return sorted((items.api_key_from_item(item) for item in found), key=lambda key: key.id)

    async def replace_api_key(self, key: ApiKey, new_id: str, until: float) -> None:
        await self._table.update_if(
            "attribute_exists(pk) AND (attribute_not_exists(valid_until) OR valid_until >= :until)",
            items.api_key_key(key.digest),
            "SET valid_until = :until, replaced_by = :new_id, expires_at = :deleted",
            {"until": seconds(until), "new_id": text(new_id), **_deleted(replace(key, expires_at=until))},
        )
        await self._table.put(items.listed_to_item(replace(key, expires_at=until)))

    async def revoke_api_key(self, key: ApiKey, at: float) -> None:
        await self._table.update_if(
            "attribute_exists(pk)",
            items.api_key_key(key.digest),
            "SET revoked_at = if_not_exists(revoked_at, :at), expires_at = :deleted",
            {"at": seconds(at), **_deleted(replace(key, revoked_at=at))},
        )
        await self._table.put(items.listed_to_item(replace(key, revoked_at=at)))

    async def note_api_key_use(self, key: ApiKey, hour: float) -> None:
        await self._table.update_if(
            "attribute_exists(pk)", items.api_key_key(key.digest), "SET used_at = :hour", {"hour": seconds(hour)}
        )


def _deleted(key: ApiKey) -> dict[str, Value]:
    return {} if key.forgotten_at is None else {"deleted": whole_seconds(key.forgotten_at)}
