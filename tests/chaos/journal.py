"""Records what the handlers did in all processes: a separate table has an item for each start of a handler."""

import asyncio
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from penstock import Context

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_dynamodb.type_defs import UniversalAttributeValueTypeDef

CONNECTIONS = 50


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler. `key` is the key of the operation. `at` is the wall time of the start, as in the logs."""

    key: str
    operation_id: str
    batch_id: str
    attempt: int
    pid: int
    at: float


@dataclass
class Journal:
    """Writes runs. Its client is opened at the first use and never closed, since most of these processes are killed."""

    table: str
    url: str
    _client: "DynamoDBClient | None" = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, context: Context[Any]) -> None:
        run: Mapping[str, UniversalAttributeValueTypeDef] = {
            "key": {"S": context.key},
            "run": {"S": secrets.token_hex(8)},
            "operation_id": {"S": context.operation_id},
            "batch_id": {"S": context.batch_id},
            "attempt": {"N": str(context.attempt)},
            "pid": {"N": str(os.getpid())},
            "at": {"N": repr(time.time())},
        }
        client = await self._open()
        await client.put_item(TableName=self.table, Item=run)

    async def _open(self) -> "DynamoDBClient":
        async with self._opening:
            if self._client is None:
                self._client = await open_dynamodb(self.url)
            return self._client


async def open_dynamodb(url: str) -> "DynamoDBClient":
    config = AioConfig(max_pool_connections=CONNECTIONS, user_agent="chaos")
    region = os.environ["AWS_REGION"]
    opened = get_session().create_client("dynamodb", region_name=region, endpoint_url=url, config=config)
    client: DynamoDBClient = await opened.__aenter__()
    return client


async def create_journal(client: "DynamoDBClient", table: str) -> None:
    await client.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}, {"AttributeName": "run", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "key", "AttributeType": "S"},
            {"AttributeName": "run", "AttributeType": "S"},
        ],
    )


async def read_journal(client: "DynamoDBClient", table: str) -> dict[str, list[Run]]:
    """Return the runs of each operation by its id, in the order of their starts."""
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    async for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            run = Run(
                key=item["key"]["S"],
                operation_id=item["operation_id"]["S"],
                batch_id=item["batch_id"]["S"],
                attempt=int(item["attempt"]["N"]),
                pid=int(item["pid"]["N"]),
                at=float(item["at"]["N"]),
            )
            runs[run.operation_id].append(run)
    return {operation_id: sorted(found, key=lambda run: run.at) for operation_id, found in runs.items()}
