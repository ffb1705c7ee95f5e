"""Faults in how open operations are counted."""

from typing import Any

import pytest

from penstock.open_limit import OpenBatch, OpenOperations
from penstock.service import open_ledger
from penstock.service.open_ledger import OpenLedger, _Progress
from tests.simulation.rewriting import rewrite

Patching = pytest.MonkeyPatch


def open_without_room(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        request["ConditionExpression"] = request["ConditionExpression"].rpartition(" AND ")[0]
        request["ExpressionAttributeValues"].pop(":room")

    rewrite(patching, "add_open", change)


def open_again_when_repeated(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        request["ConditionExpression"] = request["ConditionExpression"].partition(" AND ")[2]

    rewrite(patching, "add_open", change)


def count_out_without_a_condition(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        names = request.pop("ConditionExpression").split(" AND ")
        for number in range(len(names)):
            request["ExpressionAttributeValues"].pop(f":seen{number}")

    rewrite(patching, "lower_open", change)


def count_out_what_is_running(patching: Patching) -> None:
    patching.setattr(open_ledger, "_progress_of", lambda *_: _Progress(0))


def count_out_what_may_be_accepted(patching: Patching) -> None:
    async def never(*_: Any) -> bool:
        return False

    patching.setattr(open_ledger, "find_acceptance", never)


def keep_what_was_not_accepted(patching: Patching) -> None:
    async def always(*_: Any) -> bool:
        return True

    patching.setattr(open_ledger, "find_acceptance", always)


def forget_to_open(patching: Patching) -> None:
    async def mutant(_self: OpenLedger, _limit: Any, entry: OpenBatch, operations: int, **_: Any) -> OpenOperations:
        return OpenOperations(operations, {entry: operations})

    patching.setattr(OpenLedger, "add", mutant)
