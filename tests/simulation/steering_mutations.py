"""Faults in how a batch is changed while it runs."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.batch import Batch
from penstock.consumer.attempt import ChunkAttempt, Decision, Discard
from penstock.consumer.lease import Leases
from penstock.consumer.pauses import Pauses
from penstock.consumer.processor import Processor
from penstock.consumer.queue_switches import QueueSwitches
from penstock.priority import Priority
from penstock.queue import Delivery
from penstock.running.source import Urgency
from penstock.running.stop import Stop
from tests.simulation.rewriting import drop_condition, rewrite

Patching = pytest.MonkeyPatch


def start_although_paused(patching: Patching) -> None:
    patching.setattr(Processor, "_is_paused", lambda _self, _attempt: False)


def finish_chunks_although_paused(patching: Patching) -> None:
    async def mutant(self: Processor, attempt: ChunkAttempt, stop: Stop, _urgency: Urgency) -> None:
        def is_over(batch: Batch) -> bool:
            return replace(attempt, batch=batch).is_over_at(self._clock.now())

        await self._batches.wait_until(attempt.batch.id, is_over)
        stop.begin()

    patching.setattr(Processor, "_watch", mutant)


def drop_what_was_received_often_while_paused(patching: Patching) -> None:
    wait = Processor._wait_for_resume

    async def mutant(self: Processor, attempt: ChunkAttempt) -> Decision:
        return Discard() if self._pauses.must_renew(attempt.delivery) else await wait(self, attempt)

    patching.setattr(Processor, "_wait_for_resume", mutant)


def hold_paused_chunks_while_stopping(patching: Patching) -> None:
    create = Pauses.__init__

    def mutant(self: Pauses, _stop: Stop, *arguments: Any) -> None:
        create(self, Stop(), *arguments)

    patching.setattr(Pauses, "__init__", mutant)


def hide_paused_chunks_without_a_note(patching: Patching) -> None:
    async def mutant(self: Processor, delivery: Any, _chunk: Any, after_seconds: int) -> None:
        await self._leases.release(delivery, after_seconds=after_seconds)

    patching.setattr(Processor, "_release_patiently", mutant)


def release_beside_a_heartbeat(patching: Patching) -> None:
    async def mutant(self: Leases, delivery: Delivery, *, after_seconds: int = 0) -> None:
        self.let_go(delivery)
        await self._queues[delivery.priority].extend([delivery], after_seconds)

    patching.setattr(Leases, "release", mutant)


def change_batches_that_are_over(patching: Patching) -> None:
    rewrite(patching, "steer_batch", drop_condition)


def move_the_deadline_without_the_sweep(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        request["UpdateExpression"] = request["UpdateExpression"].replace(", #due_at = :deadline_at", "")
        if "#due_at" not in request["UpdateExpression"]:
            request["ExpressionAttributeNames"].pop("#due_at", None)

    rewrite(patching, "steer_batch", change)


def start_chunks_of_paused_queues(patching: Patching) -> None:
    patching.setattr(QueueSwitches, "is_paused", lambda _self, _priority: False)


def leave_a_queue_paused(patching: Patching) -> None:
    follow = QueueSwitches._follow

    def mutant(self: QueueSwitches, paused: frozenset[Priority]) -> None:
        follow(self, paused | self._paused)

    patching.setattr(QueueSwitches, "_follow", mutant)
