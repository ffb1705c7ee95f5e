"""Faults in the lists of batches."""

from collections.abc import Mapping

import pytest

from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch
from penstock.service.batches import listing

Patching = pytest.MonkeyPatch


def list_a_batch_once_it_is_accepted(patching: Patching) -> None:
    accept, accept_new, write = DynamoDbStore.accept_batch, DynamoDbStore.accept_new, DynamoDbStore.list_batch
    waiting: dict[str, tuple[Batch, Mapping[str, str]]] = {}

    async def put_off(_self: DynamoDbStore, batch: Batch, metadata: Mapping[str, str]) -> None:
        waiting[batch.id] = batch, metadata

    async def mutant(self: DynamoDbStore, batch_id: str, at: float) -> None:
        await accept(self, batch_id, at)
        await write(self, *waiting[batch_id])

    async def mutant_of_new(self: DynamoDbStore, batch: Batch, at: float) -> None:
        await accept_new(self, batch, at)
        await write(self, *waiting[batch.id])

    patching.setattr(DynamoDbStore, "list_batch", put_off)
    patching.setattr(DynamoDbStore, "accept_new", mutant_of_new)
    patching.setattr(DynamoDbStore, "accept_batch", mutant)


def list_what_was_not_accepted(patching: Patching) -> None:
    patching.setattr(listing, "UNACCEPTED_STATES", frozenset())
