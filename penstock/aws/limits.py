"""The states of the fleet's limits in the DynamoDB table.

item            pk              sk
limit           limit#<name>    limit
"""

from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any

from penstock.aws.attributes import Item, Value, number_list, read_text, text, whole_seconds
from penstock.aws.table import Done, Table
from penstock.fleet_limit import LimitState
from penstock.fleet_permits import Holder, Holders
from penstock.settings import DAY_SECONDS

KEEP_SECONDS = 30 * DAY_SECONDS  # after the last lease
_PREFIX = "limit#"
_NUMBERS = tuple(field.name for field in fields(LimitState) if field.name not in {"lease", "holders"})
_WHOLE = {"used", "throttled", "leases", "consumers"}


class DynamoDbLimits:
    """Keeps the states. A write has the condition that nobody else has written since the state was read."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def read_limit(self, name: str) -> LimitState:
        return _state_from_item(await self._table.get(_key(name)) or {})

    async def read_limits(self, names: Sequence[str]) -> dict[str, LimitState]:
        found = await self._table.get_many([_key(name) for name in names]) if names else []
        return {read_text(item, "pk").removeprefix(_PREFIX): _state_from_item(item) for item in found}

    async def lease_limit(self, name: str, seen: LimitState, state: LimitState) -> bool:
        condition = "#lease = :seen" if seen.lease else "attribute_not_exists(#lease)"
        values = {name: _number(value) for name in _NUMBERS if (value := getattr(state, name)) is not None}
        values |= {"holders": _map_of(state.holders)} if state.holders else {}
        absent = [name for name in (*_NUMBERS, "holders") if name not in values]
        leased = await self._table.update_if(
            condition,
            _key(name),
            f"SET #lease = :lease, #expires_at = :expires_at, {', '.join(f'#{name} = :{name}' for name in values)}"
            + (f" REMOVE {', '.join(f'#{name}' for name in absent)}" if absent else ""),
            {
                **values,
                "lease": text(state.lease),
                "expires_at": whole_seconds(state.at + KEEP_SECONDS),
                **({"seen": text(seen.lease)} if seen.lease else {}),
            },
            return_blocker=True,
        )
        # If the answer to the first call was lost, its repetition is blocked by its own effect.
        return isinstance(leased, Done) or _state_from_item(leased.item).lease == state.lease


def _key(name: str) -> dict[str, Value]:
    return {"pk": text(f"{_PREFIX}{name}"), "sk": text("limit")}


def _number(value: float) -> Value:
    return {"N": f"{value:.6f}".rstrip("0").rstrip(".")}


def _state_from_item(item: Item) -> LimitState:
    """Decode a state, of which the table may have no item yet."""
    if "lease" not in item:
        return LimitState()
    numbers: dict[str, Any] = {name: float(item[name]["N"]) for name in _NUMBERS if name in item}
    numbers |= {name: int(numbers[name]) for name in _WHOLE & numbers.keys()}
    return LimitState(**numbers, lease=read_text(item, "lease"), holders=_holders_from(item))


def _map_of(holders: Holders) -> Value:
    return {"M": {name: number_list(astuple(holder)) for name, holder in holders.items()}}


def _holders_from(item: Item) -> Holders:
    entries = item["holders"]["M"].items() if "holders" in item else ()
    return {name: Holder(*(int(value["N"]) for value in entry["L"])) for name, entry in entries}
