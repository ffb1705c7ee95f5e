"""Faults in how operations are charged to a quota."""

from types import SimpleNamespace
from typing import Any

import pytest

from penstock.quota import Usage
from penstock.service import ledger
from penstock.service.abandoning import find_acceptance
from penstock.service.ledger import Ledger
from tests.simulation.rewriting import rewrite

Patching = pytest.MonkeyPatch


def charge_without_a_condition(patching: Patching) -> None:
    rewrite(patching, "charge", lambda request: request.pop("ConditionExpression", None))


def charge_again_when_repeated(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        request["ConditionExpression"] = request["ConditionExpression"].partition(" AND ")[2]

    rewrite(patching, "charge", change)


def charge_whatever_is_left(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        request["ConditionExpression"] = request["ConditionExpression"].replace(" AND tat <= :latest", "")
        request["ExpressionAttributeValues"].pop(":latest", None)

    rewrite(patching, "charge", change)


def give_back_without_a_condition(patching: Patching) -> None:
    rewrite(patching, "end_charge", lambda request: request.pop("ConditionExpression", None))


def give_back_when_it_lapses(patching: Patching) -> None:
    """Do not make sure that the batch will never be accepted."""

    async def as_if_abandoned(_batch_id: str) -> bool:
        return True

    async def mutant(_store: Any, *about: Any) -> bool | None:
        store: Any = SimpleNamespace(abandon_batch=as_if_abandoned)
        return await find_acceptance(store, *about)

    patching.setattr(ledger, "find_acceptance", mutant)


def keep_what_lapses(patching: Patching) -> None:
    async def always(*_: Any) -> bool:
        return True

    patching.setattr(ledger, "find_acceptance", always)


def give_back_what_has_come_back(patching: Patching) -> None:
    patching.setattr(ledger, "give_back", lambda cost, _until, _now: cost)


def forget_to_charge(patching: Patching) -> None:
    async def mutant(_self: Ledger, _limit: Any, charge: Any) -> Any:
        return Usage(0, {charge: 0})

    patching.setattr(Ledger, "charge", mutant)
