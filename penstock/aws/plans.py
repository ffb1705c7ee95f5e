"""Files of batches and their plans in the DynamoDB table.

item               pk                    sk
batch              batch#<id>            batch     with the attributes `plan_...`, `planner`: how far the planning is
file of a batch    batch#<id>            file
errors in a file   batch#<id>            errors
plan of a group    batch#<id>#<group>    plan
"""

from collections.abc import Sequence

from penstock.aws import items
from penstock.aws.attributes import (
    Item,
    Value,
    binary,
    flag,
    number,
    number_list,
    read_binary,
    seconds,
    text,
    whole_seconds,
)
from penstock.aws.table import Done, Table
from penstock.aws.webhook_items import DUE, events_value
from penstock.batch import Batch, BatchState, Ending
from penstock.cost import Units
from penstock.planning import Errors, GroupPlan, PlannedFile, Planning
from penstock.webhooks.event import FinalEvent

_VALIDATING = {"validating": text(BatchState.VALIDATING)}


class DynamoDbPlans:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def write_file(self, batch: Batch, file: PlannedFile) -> None:
        await self._table.put(_item(items.batch_pk(batch.id), "file", batch, {"file": binary(file.encode())}))

    async def read_file(self, batch_id: str) -> PlannedFile | None:
        item = await self._table.get(items.key_of(items.batch_pk(batch_id), "file"))
        return None if item is None else PlannedFile.decode(read_binary(item, "file"))

    async def take_planning(self, batch_id: str, planner: str, now: float, until: float) -> Batch | None:
        taken = await self._table.update_if(
            "#state = :validating AND (attribute_not_exists(planner) OR plan_until < :now)",
            items.batch_key(batch_id),
            "SET planner = :planner, plan_until = :until, due_at = :until REMOVE reason ADD plan_takes :one",
            {
                **_VALIDATING,
                "planner": text(planner),
                "now": seconds(now),
                "until": seconds(until),
                "one": number(1),
            },
            return_new=True,
            return_blocker=True,
        )
        return items.batch_from_item(taken.item) if taken.item else None

    async def note_planning(self, batch_id: str, planning: Planning, due_at: float) -> bool:
        values = items.planning_to_values(planning)
        noted = await self._table.update_if(
            "#state = :validating AND planner = :planner AND plan_sent_groups <= :plan_sent_groups",
            items.batch_key(batch_id),
            f"SET {', '.join(f'{name} = :{name}' for name in values if name != 'planner')}, due_at = :due_at",
            {**values, **_VALIDATING, "due_at": seconds(due_at)},
        )
        return isinstance(noted, Done)

    async def extend_planning(self, batch_id: str, planner: str, until: float, due_at: float) -> bool:
        extended = await self._table.update_if(
            "#state = :validating AND planner = :planner",
            items.batch_key(batch_id),
            "SET plan_until = :until, due_at = :due_at",
            {**_VALIDATING, "planner": text(planner), "until": seconds(until), "due_at": seconds(due_at)},
        )
        return isinstance(extended, Done)

    async def leave_planning(self, batch_id: str, planner: str, due_at: float, reason: str | None = None) -> None:
        await self._table.update_if(
            "#state = :validating AND planner = :planner",
            items.batch_key(batch_id),
            f"SET due_at = :due_at, plan_takes = :none{'' if reason is None else ', reason = :reason'} REMOVE planner",
            {
                **_VALIDATING,
                "planner": text(planner),
                "due_at": seconds(due_at),
                "none": number(0),
                **({} if reason is None else {"reason": text(reason)}),
            },
        )

    async def postpone_planning(self, batch_id: str, due_at: float) -> None:
        await self._table.update_if(
            "#state = :validating",
            items.batch_key(batch_id),
            "SET due_at = :due_at",
            {**_VALIDATING, "due_at": seconds(due_at)},
        )

    async def write_plan(self, batch: Batch, plan: GroupPlan) -> GroupPlan:
        pk = items.group_pk(batch.id, plan.number)
        errors: dict[str, Value] = {"errors": binary(plan.errors.encode())} if plan.errors.count else {}
        written = await self._table.put_if(
            "attribute_not_exists(pk)",
            _item(pk, "plan", batch, {"plan": binary(plan.encode()), **errors}),
            return_blocker=True,
        )
        return plan if isinstance(written, Done) else _plan_from_item(written.item)

    async def read_plans(self, batch_id: str, numbers: Sequence[int]) -> dict[int, GroupPlan]:
        keys = [items.key_of(items.group_pk(batch_id, number), "plan") for number in numbers]
        found = [_plan_from_item(item) for item in (await self._table.get_many(keys) if keys else [])]
        return {plan.number: plan for plan in found}

    async def write_errors(self, batch: Batch, errors: Errors) -> None:
        await self._table.put(_item(items.batch_pk(batch.id), "errors", batch, {"errors": binary(errors.encode())}))

    async def read_errors(self, batch_id: str) -> Errors | None:
        item = await self._table.get(items.key_of(items.batch_pk(batch_id), "errors"))
        return None if item is None else Errors.decode(read_binary(item, "errors"))

    async def accept_planned(self, batch: Batch, at: float) -> bool:
        limit = {} if batch.failure_limit is None else {"failure_limit": number(batch.failure_limit.count)}
        written: dict[str, Value] = {
            "total": number(batch.total),
            "chunk_count": number(batch.chunk_count),
            "group_totals": number_list(batch.group_totals),
            "has_own_ids": flag(batch.has_own_ids),
            **limit,
        }
        with self._table.bills.report(batch.id, Units(writes=1, requests=1)) as report:
            written |= items.spent_to_values(report.units)
            changes = ", ".join(f"#{name} = :{name}" for name in written)
            accepted = await self._table.update_if(
                "#state = :validating AND plan_valid = :yes AND plan_groups = :groups AND plan_sent_groups = :groups",
                items.batch_key(batch.id),
                f"SET #state = :queued, accepted_at = :at, due_at = deadline_at, {changes} REMOVE planner",
                {
                    **_VALIDATING,
                    "queued": text(BatchState.QUEUED),
                    "at": seconds(at),
                    "yes": flag(True),
                    "groups": number(len(batch.group_totals)),
                    **written,
                },
                return_blocker=True,
            )
            report.is_done = isinstance(accepted, Done)
        # A call that took effect, but whose answer was lost, is blocked by its own effect when it is repeated.
        return isinstance(accepted, Done) or items.was_accepted(accepted.item, at)

    async def end_planning(
        self,
        batch_id: str,
        state: BatchState,
        at: float,
        reason: str,
        *,
        ending: Ending | None = None,
        errors: int = 0,
        event: FinalEvent | None = None,
    ) -> bool:
        removed = "REMOVE planner" if event is not None else "REMOVE planner, #open, due_at"
        due = "" if event is None else ", #open = :due, due_at = :at"
        added = "" if event is None else " ADD events :event"
        ended = await self._table.update_if(
            "#state = :validating",
            items.batch_key(batch_id),
            f"SET #state = :final, finished_at = :at, reason = :reason, plan_errors = :errors"
            f"{'' if ending is None else ', ending = :ending'}{due} {removed}{added}",
            {
                **_VALIDATING,
                "final": text(state),
                "at": seconds(at),
                "reason": text(reason),
                "errors": number(errors),
                **({} if ending is None else {"ending": text(ending)}),
                **({} if event is None else {"event": events_value([event]), "due": text(DUE)}),
            },
            return_blocker=True,
        )
        return isinstance(ended, Done) or items.was_finished(ended.item, state, at)


def _item(pk: str, sk: str, batch: Batch, values: dict[str, Value]) -> dict[str, Value]:
    return {**items.key_of(pk, sk), **values, "expires_at": whole_seconds(batch.expires_at)}


def _plan_from_item(item: Item) -> GroupPlan:
    return GroupPlan.decode(read_binary(item, "plan"), read_binary(item, "errors") if "errors" in item else None)
