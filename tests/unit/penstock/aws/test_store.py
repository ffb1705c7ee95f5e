"""Which calls the store makes. The tests in tests/contract show what they do."""

import asyncio
from typing import Any, cast

from types_aiobotocore_dynamodb import DynamoDBClient

from penstock.aws.store import FIRST_RECORDS, READS_IN_CALL, DynamoDbStore
from tests.support.builders import build_batch


class Server:
    """A table without items. It keeps the number of keys of each call, in the order in which the calls arrive."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    async def get_item(self, **_: Any) -> Any:
        self.calls.append(("GetItem", 1))
        return {}

    async def query(self, **request: Any) -> Any:
        self.calls.append(("Query", request.get("Limit", 0)))
        return {"Items": []}

    async def batch_get_item(self, **request: Any) -> Any:
        self.calls.append(("BatchGetItem", len(request["RequestItems"]["penstock"]["Keys"])))
        await asyncio.sleep(0)
        return {"Responses": {}}


async def calls_for(chunks: int) -> list[tuple[str, int]]:
    """Read these chunks and their batch in the same turn of the loop. Return the calls."""
    server = Server()
    store = DynamoDbStore(cast("DynamoDBClient", server), "penstock")
    await asyncio.gather(*(store.read_traces("a", str(chunk)) for chunk in range(chunks)), store.read_batch("a"))
    return server.calls


async def test_batch_is_read_in_the_call_of_its_chunks_only_if_it_has_room() -> None:
    assert await calls_for(READS_IN_CALL - 1) == [("BatchGetItem", READS_IN_CALL)]
    full = ("BatchGetItem", READS_IN_CALL)
    assert await calls_for(READS_IN_CALL) == [("GetItem", 1), full]
    assert await calls_for(READS_IN_CALL + 5) == [("GetItem", 1), full, ("BatchGetItem", 5)]


async def test_first_call_for_records_reads_few_unless_all_are_needed() -> None:
    server = Server()
    store = DynamoDbStore(cast("DynamoDBClient", server), "penstock")
    for reads_all in (False, True):
        assert [one async for one in store.read_records(build_batch(), 0, 0, reads_all=reads_all)] == []
    assert server.calls == [("Query", FIRST_RECORDS), ("Query", 0)]
