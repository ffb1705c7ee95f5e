"""Faults in how a front end answers with the end of a batch before the table has it."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from aiohttp import web

from penstock import ending, finishing
from penstock.batch import Batch
from penstock.ending import as_ended
from penstock.service.batches import cancel, retry, status, steer
from penstock.service.batches.status import Progress, find_batch
from penstock.store import Group

Patching = pytest.MonkeyPatch


def tell_the_end_although_it_may_be_stopped(patching: Patching) -> None:
    """Forget that a consumer cancels a batch with too many failures, which gives it a reason."""
    patching.setattr(ending, "_may_be_stopped", lambda _batch, _counts: False)


def finish_by_the_clock_of_the_consumer(patching: Patching) -> None:
    """Write the time of the call that makes the batch final, and not the time of the last count."""
    patching.setattr(finishing, "counted_at", lambda _groups: None)


def finish_with_the_start_of_the_last_consumer(patching: Patching) -> None:
    """Forget that the start is in the counter. The consumer that counted everything may have died."""
    patching.setattr(finishing, "start_in", lambda _groups: None)


def retry_without_waiting_for_the_end(patching: Patching) -> None:
    patching.setattr(retry, "find_finished", find_batch)


def tell_the_end_without_the_start(patching: Patching) -> None:
    """Forget that the start of a small batch is in its counter only, until the batch is final."""

    def mutant(batch: Batch, groups: Mapping[int, Group]) -> Batch:
        return replace(as_ended(batch, groups), started_at=batch.started_at)

    patching.setattr(status, "as_ended", mutant)


async def _progress_as_in_the_table(request: web.Request) -> Progress:
    return Progress(await find_batch(request), {})


def cancel_what_is_told_as_final(patching: Patching) -> None:
    patching.setattr(cancel, "find_progress", _progress_as_in_the_table)


def change_what_is_told_as_final(patching: Patching) -> None:
    patching.setattr(steer, "find_progress", _progress_as_in_the_table)
