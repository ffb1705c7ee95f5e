"""The state of a limit as an item."""

from typing import Any, cast

from penstock.aws.attributes import Item
from penstock.aws.limits import DynamoDbLimits
from penstock.aws.table import Table
from penstock.fleet_limit import LimitState


class OneItem:
    def __init__(self, item: Item) -> None:
        self._item = item

    async def get(self, _: Any) -> Item:
        return self._item


async def test_item_of_another_version_may_lack_fields_and_have_others() -> None:
    item: Item = {"lease": {"S": "first"}, "rate": {"N": "5"}, "used": {"N": "3"}, "newer": {"S": "unknown"}}
    limits = DynamoDbLimits(cast("Table", OneItem(item)))
    assert await limits.read_limit("upstream") == LimitState(rate=5.0, used=3, lease="first")
