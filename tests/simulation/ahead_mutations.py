"""Faults in batches whose chunks are sent before the batch is written."""

from typing import Any

import pytest

from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch, Counts
from penstock.consumer.batches import Batches, NotAdmitted
from penstock.queue import SentAhead
from penstock.service import idempotency
from penstock.service.intake.acceptance import Acceptance
from penstock.store import KeyClaim, Store
from tests.simulation.rewriting import drop_condition, rewrite

Patching = pytest.MonkeyPatch


def write_before_the_chunks_are_sent(patching: Patching) -> None:
    store_ahead, accept_new = Acceptance._store_ahead, DynamoDbStore.accept_new

    async def mutant(self: Acceptance, batch: Batch) -> Counts:
        store: Any = self._backend.store
        await accept_new(store, batch, batch.created_at)
        return await store_ahead(self, batch)

    async def nothing(_self: DynamoDbStore, _batch: Batch, _at: float) -> None:
        """Change nothing: the batch is written."""

    patching.setattr(Acceptance, "_store_ahead", mutant)
    patching.setattr(DynamoDbStore, "accept_new", nothing)


def accept_in_place_of_what_is_abandoned(patching: Patching) -> None:
    rewrite(patching, "accept_new", drop_condition)


def drop_chunks_without_a_stand_in(patching: Patching) -> None:
    admit = Batches.admit

    async def mutant(self: Batches, batch_id: str, sent_ahead: SentAhead | None = None) -> Batch | NotAdmitted:
        is_written = await self.read(batch_id) is not None
        is_overdue = sent_ahead is not None and sent_ahead.is_overdue(self._clock.now())
        return NotAdmitted.ABANDONED if is_overdue and not is_written else await admit(self, batch_id, sent_ahead)

    patching.setattr(Batches, "admit", mutant)


def set_chunks_aside_that_come_before_their_batch(patching: Patching) -> None:
    admit = Batches.admit

    async def mutant(self: Batches, batch_id: str, _sent_ahead: SentAhead | None = None) -> Batch | NotAdmitted:
        return await admit(self, batch_id)

    patching.setattr(Batches, "admit", mutant)


def write_a_stand_in_over_the_batch(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        if request["Item"]["total"] == {"N": "0"}:
            drop_condition(request)

    rewrite(patching, "create_batch", change)


def take_a_key_over_without_a_stand_in(patching: Patching) -> None:
    was_accepted = idempotency._was_accepted

    async def mutant(store: Store, existing: KeyClaim, now: float) -> bool:
        is_written = await store.read_batch(existing.batch_id) is not None
        return is_written and await was_accepted(store, existing, now)

    patching.setattr(idempotency, "_was_accepted", mutant)
