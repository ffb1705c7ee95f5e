"""Sends the chunks of a group that is planned. The operations are read from the file again.

A group may be sent again: its chunks have the same ids and the same operations, so the first of equal chunks to be
recorded counts. Nothing of them runs before the batch is accepted.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from typing import Any

from penstock.backend import Backend
from penstock.batch import Batch
from penstock.chunk import first_chunk
from penstock.clock import Clock
from penstock.consumer.patience import patient
from penstock.consumer.planning.source import FileSource
from penstock.consumer.planning.validation import OPERATIONS_IN_TURN, Turn, reader_at
from penstock.errors import UploadReplaced
from penstock.message import KEYS_VERSION, VERSION, encode_parts, join_message
from penstock.operations import Operations
from penstock.outcome import delay_seconds
from penstock.planning import GroupPlan, PlannedFile
from penstock.queue import LONGEST_DELAY_SECONDS, Message
from penstock.reading.forms import FileForm
from penstock.reading.operation_reader import OperationReader
from penstock.sending import in_calls, neighbouring_ids, tenant_on_queue
from penstock.settings import Settings

CALLS_AT_ONCE = 4  # the messages of a call take a mebibyte of memory, and another one in the AWS client


class GroupSender:
    """Sends groups of one file. `batch` has the totals of its groups."""

    def __init__(
        self,
        batch: Batch,
        file: PlannedFile,
        backend: Backend,
        *,
        operations: Operations[Any],
        settings: Settings,
        clock: Clock,
        turn: Turn,
    ) -> None:
        self._batch = batch
        self._form = FileForm.from_json(file.form)
        self._source = FileSource(patient(backend.require_bucket(), clock), file.stored)
        self._store = patient(backend.store, clock)
        self._queue = patient(backend.queues[batch.priority], clock)
        self._reader = OperationReader(operations.match, shows_errors=settings.show_errors)
        self._reader.accepts_unknown = self._form.accepts_unknown
        self._settings = settings
        self._clock = clock
        self._turn = turn

    async def send(self, plan: GroupPlan, before: GroupPlan | None, *, seconds_left: float) -> None:
        """Send a group. `before` is the plan of the group before it.

        The messages are delayed by `seconds_left`, which it will take until the batch is accepted.
        """
        ids: list[str] = []
        messages: list[bytes] = []
        operations = self._operations(plan, before)
        for number, size in enumerate(plan.sizes, first_chunk(plan.number)):
            encoded, version = [], VERSION
            for _ in range(size):
                operation_id, one, has_key = await anext(operations)
                ids.append(operation_id)
                encoded.append(one)
                version = KEYS_VERSION if has_key else version
            messages.append(join_message(self._batch.id, str(number), encoded, version=version).encode())
            if sum(map(len, messages)) >= CALLS_AT_ONCE * self._settings.message_bytes:
                await self._send(messages, seconds_left)
                messages = []
        await operations.aclose()
        await self._send(messages, seconds_left)
        if self._batch.has_own_ids:
            await self._write_ids(plan, ids)

    async def _operations(
        self, plan: GroupPlan, before: GroupPlan | None
    ) -> AsyncGenerator[tuple[str, bytes, bool], None]:
        """Yield the id, the encoded form, and whether it has a key, of each operation of a group."""
        reader = reader_at(self._form, self._settings, before)
        index, end = plan.first_index, plan.first_index + plan.total
        async for piece in self._source.pieces(reader.at[0]):
            for _, document in reader.feed(piece):
                yield self._encoded(index, document)
                index += 1
                if index == end:
                    return
                if index % OPERATIONS_IN_TURN == 0:
                    await self._turn(reader.at[0], index)
        for _, document in reader.end():
            yield self._encoded(index, document)
            index += 1
        if index < end:
            raise UploadReplaced

    def _encoded(self, index: int, document: Any) -> tuple[str, bytes, bool]:
        method, path, body, key = self._reader.read_valid(document)
        operation_id = document.get("id") or str(index)
        return operation_id, encode_parts(index, operation_id, method, path, body, key=key), key is not None

    async def _send(self, messages: Iterable[bytes], seconds_left: float) -> None:
        now = self._clock.now()
        not_before = max(self._batch.not_before or 0.0, now + seconds_left)
        delay = delay_seconds(not_before, now, LONGEST_DELAY_SECONDS)
        tenant = tenant_on_queue(self._batch, self._settings)
        calls = [
            [Message(one.decode(), delay, tenant, batch_id=self._batch.id) for one in sent_together]
            for sent_together in in_calls(messages, self._settings.message_bytes)
        ]
        for start in range(0, len(calls), CALLS_AT_ONCE):
            await asyncio.gather(*map(self._queue.send, calls[start : start + CALLS_AT_ONCE]))

    async def _write_ids(self, plan: GroupPlan, ids: list[str]) -> None:
        write = partial(self._store.write_ids, self._batch)
        pieces = [(plan.first_index + first, piece) for first, piece in neighbouring_ids(ids, [plan.total])]
        await asyncio.gather(*(write(first, piece) for first, piece in pieces))
