"""The exports in the DynamoDB table.

item      pk           sk
export    batch#<id>   export#<export id>
"""

from msgspec.structs import replace

from penstock import zstd
from penstock.aws.attributes import Item, Value, binary, read_binary, text, whole_seconds
from penstock.aws.table import Done, Table
from penstock.export import Export, decode_export, encode_export


class DynamoDbExports:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def read_export(self, batch_id: str, export_id: str) -> Export | None:
        item = await self._table.get(_key(batch_id, export_id))
        return None if item is None else _from_item(item)

    async def write_export(self, export: Export, seen: Export | None, revision: str) -> Export | None:
        written = replace(export, revision=revision)
        item = {
            **_key(export.batch_id, export.id),
            "revision": text(revision),
            "content": binary(zstd.compress(encode_export(written))),
            "expires_at": whole_seconds(export.expires_at),
        }
        condition = "attribute_not_exists(pk)" if seen is None else "revision = :seen"
        values = {} if seen is None else {"seen": text(seen.revision)}
        done = await self._table.put_if(condition, item, values, return_blocker=True)
        # If the answer to the first call was lost, its repetition is blocked by its own effect.
        is_ours = isinstance(done, Done) or ("revision" in done.item and done.item["revision"] == item["revision"])
        return written if is_ours else None


def _key(batch_id: str, export_id: str) -> dict[str, Value]:
    return {"pk": text(f"batch#{batch_id}"), "sk": text(f"export#{export_id}")}


def _from_item(item: Item) -> Export:
    return decode_export(zstd.decompress(read_binary(item, "content")))
