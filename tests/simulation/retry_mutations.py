"""Faults in how chosen failures run again."""

from dataclasses import replace

import pytest

from penstock.chunk import Chunk
from penstock.consumer import processor
from penstock.consumer.attempt import ChunkAttempt, Discard
from penstock.consumer.processor import Processor
from penstock.outcome import ChunkRecord, in_next_round, next_round

Patching = pytest.MonkeyPatch


def forget_what_another_retry_has_not_chosen(patching: Patching) -> None:
    """Drop a chunk whose round has a record, although the record has other operations."""

    async def mutant(_self: Processor, _attempt: ChunkAttempt, _record: ChunkRecord) -> Discard:
        return Discard()

    patching.setattr(Processor, "_send_to_next_round", mutant)


def run_what_two_retries_have_chosen_twice(patching: Patching) -> None:
    """Run the whole chunk in the next round, with what another retry has chosen as well."""

    def mutant(chunk: Chunk, record: ChunkRecord) -> Chunk | None:
        following = next_round(chunk, record)
        return following and replace(following, operations=chunk.operations)

    patching.setattr(processor, "next_round", mutant)


def record_what_two_retries_have_run_twice(patching: Patching) -> None:
    """Record the whole chunk in the next round, with what another retry has recorded as well."""

    def mutant(made: ChunkRecord, standing: ChunkRecord) -> ChunkRecord | None:
        following = in_next_round(made, standing)
        return following and replace(made, chunk_id=following.chunk_id)

    patching.setattr(processor, "in_next_round", mutant)


def drop_what_has_run_while_another_retry_ran(patching: Patching) -> None:
    """Forget outcomes if the round of their chunk was recorded meanwhile, with other operations."""
    patching.setattr(processor, "in_next_round", lambda _made, _standing: None)
