"""Faults in how a consumer plans the batch that is an uploaded file."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from penstock.aws.s3 import S3Bucket
from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch, BatchState
from penstock.bucket import StoredFile
from penstock.consumer.batches import Batches, NotAdmitted
from penstock.consumer.planning import duplicates, planner
from penstock.consumer.planning.duplicates import Duplicates
from penstock.consumer.planning.sending import GroupSender
from penstock.planning import Errors
from penstock.reading.forms import FileForm
from tests.simulation.rewriting import drop_condition, rewrite

Patching = pytest.MonkeyPatch


def replace_a_plan(patching: Patching) -> None:
    """Write the plan of a group although it has one."""
    rewrite(patching, "write_plan", drop_condition)


def go_on_sending_one_group_too_late(patching: Patching) -> None:
    """Take the group in which a planner has died for one that was sent."""
    take_planning = DynamoDbStore.take_planning

    async def mutant(self: DynamoDbStore, *arguments: Any) -> Batch | None:
        batch = await take_planning(self, *arguments)
        if batch is None or batch.planning is None or not batch.planning.is_valid:
            return batch
        sent = min(batch.planning.sent_groups + 1, batch.planning.groups)
        return replace(batch, planning=replace(batch.planning, sent_groups=sent))

    patching.setattr(DynamoDbStore, "take_planning", mutant)


def go_on_validating_one_line_too_late(patching: Patching) -> None:
    """Skip the first line of a group if another planner has read the group before it."""
    reader = FileForm.reader

    def mutant(self: FileForm, limits: Any, most_elements: int, place: Any) -> Any:
        return reader(self, limits, most_elements, {**place, "byte": place["byte"] and place["byte"] + 1})

    patching.setattr(FileForm, "reader", mutant)


def accept_before_everything_is_sent(patching: Patching) -> None:
    """Accept the batch while a group is still being sent."""
    send = GroupSender.send

    async def mutant(self: GroupSender, *arguments: Any, **options: Any) -> None:
        task = asyncio.create_task(send(self, *arguments, **options))
        await asyncio.wait([task], timeout=0.001)

    patching.setattr(GroupSender, "send", mutant)


def read_whatever_file_is_there(patching: Patching) -> None:
    """Read a file without its ETag, so that nobody notices that it was replaced."""
    read = S3Bucket.read

    async def mutant(self: S3Bucket, file: StoredFile, first: int, count: int) -> bytes:
        return await read(self, await self.find(file.key) or file, first, count)

    patching.setattr(S3Bucket, "read", mutant)


def run_what_is_not_accepted(patching: Patching) -> None:
    """Run the chunks of a batch as soon as its totals are known."""
    admit = Batches.admit

    async def mutant(self: Batches, batch_id: str) -> Batch | NotAdmitted:
        batch = await self.read(batch_id)
        if batch is None or batch.state is not BatchState.VALIDATING:
            return await admit(self, batch_id)
        return replace(batch, state=BatchState.QUEUED, chunk_count=1_000, group_totals=(1_000,))

    patching.setattr(Batches, "admit", mutant)


def compare_no_ids(patching: Patching) -> None:
    """Accept a file in which two operations have the same id."""

    async def mutant(_self: Duplicates, _plans: Any) -> Errors:
        return Errors()

    patching.setattr(Duplicates, "find", mutant)


def count_the_lines_of_a_group_alone(patching: Patching) -> None:
    """Count the lines from the beginning of a group, so that rows get ids that others have."""
    reader = FileForm.reader

    def mutant(self: FileForm, limits: Any, most_elements: int, place: Any) -> Any:
        return reader(self, limits, most_elements, {**place, "line": min(place["line"], 1)})

    patching.setattr(FileForm, "reader", mutant)


def compare_only_the_ids_that_are_written(patching: Patching) -> None:
    """Forget that an operation without an id has its index as its id."""

    async def mutant(_self: Duplicates, plans: Any, _pause: Any) -> Any:
        return [duplicates._Packed(plan, plan.digests, plan.parts) for plan in plans if plan.digests]

    patching.setattr(Duplicates, "_files", mutant)


def forget_the_errors_of_earlier_groups(patching: Patching) -> None:
    """Look at the errors of the last group only."""
    patching.setattr(planner, "_joined", lambda _errors, more: more)
