"""Changes the requests that a method of the store sends to DynamoDB, for faults that are put in on purpose."""

from collections.abc import Callable
from typing import Any

import pytest

from penstock.aws.store import DynamoDbStore


class _Rewriting:
    """A client that changes the UpdateItem and PutItem requests on their way."""

    def __init__(self, client: Any, change: Callable[[dict[str, Any]], None]) -> None:
        self._client = client
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def update_item(self, **request: Any) -> Any:
        self._change(request)
        return await self._client.update_item(**request)

    async def put_item(self, **request: Any) -> Any:
        self._change(request)
        return await self._client.put_item(**request)


def rewrite(patching: pytest.MonkeyPatch, method: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the requests that one method of the store sends to DynamoDB."""
    original = getattr(DynamoDbStore, method)

    async def mutant(self: DynamoDbStore, *arguments: Any, **options: Any) -> Any:
        rewriting: Any = _Rewriting(self._table.client, change)
        return await original(DynamoDbStore(rewriting, self._table.name), *arguments, **options)

    patching.setattr(DynamoDbStore, method, mutant)


def drop_condition(request: dict[str, Any]) -> None:
    request.pop("ConditionExpression", None)
