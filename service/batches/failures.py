"""GET /batch/{id}/failures: groups the failures that are counted so far by their cause.

The records of the groups with failures are read, one planned chunk with its follow-ups after the other. An answer
covers a limited number of bytes of them. The rest follows with a cursor.
"""

import itertools
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from penstock.batch import Ending
from penstock.chunk import GROUP_CHUNKS, group_of, planned_number
from penstock.errors import LostItem, MalformedRequest, UnknownBatch
from penstock.outcome import OutcomeState, never_ended
from penstock.record import OutcomeColumns, decode_columns
from penstock.service.batches.causes import LONGEST_DETAIL, SAMPLES, Cause, Causes, Failure, shortened, title_of
from penstock.service.batches.status import Progress, find_progress
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, SHARE, TURNS
from penstock.service.paging import read_once
from penstock.service.schemas import failures_url, time_text
from penstock.settings import MIB
from penstock.store import Group

READ_BYTES = 64 * MIB  # of decoded records in an answer: about 200,000 operations with small results
TURN_BYTES = MIB  # of records that are decoded in one turn, which takes a few milliseconds
_CURSOR = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")


class _Error(msgspec.Struct):
    title: Any = ""
    detail: Any = None


_error_decoder = msgspec.json.Decoder(_Error | None)
_id_decoder = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Position:
    """Where an answer starts: at a planned chunk, with the number of failures in the chunks before it in its group."""

    chunk: int = 0
    failures_before: int = 0

    def __str__(self) -> str:
        return f"{self.chunk}.{self.failures_before}"


async def batch_failures(request: web.Request) -> web.Response:
    for name in request.query:
        if name != "cursor":
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use cursor.")
    body = await find_failures(request, read_once(request, "cursor"))
    cursor = body["nextCursor"]
    link = {} if cursor is None else {"Link": f'<{failures_url(body["batchId"])}?cursor={cursor}>; rel="next"'}
    return json_answer(body, headers=link)


async def find_failures(request: web.Request, cursor: str | None) -> dict[str, Any]:
    """Return the failures of the batch in the path, from a cursor on. Raises UnknownBatch as `find_batch` does."""
    start = _read_cursor(cursor)
    progress = await find_progress(request)
    reading = FailureReading(request, progress)
    try:
        following = await reading.read_from(start)
    except LostItem:  # the retention of the batch has ended
        raise UnknownBatch(progress.batch.id) from None
    causes, other = reading.causes.listed()
    return {
        "batchId": progress.batch.id,
        "failed": progress.counts.failed,
        "counted": reading.causes.counted,
        "groups": [_cause_body(cause) for cause in causes],
        "other": other,
        "nextCursor": None if following is None else str(following),
    }


class Family:
    """The failures of a planned chunk and its follow-ups, by the index of the operation."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self.failures: dict[int, Failure] = {}
        self.recorded: list[Sequence[int]] = []

    def add(self, columns: OutcomeColumns) -> None:
        """Add the next record. Its outcomes are later than those in the records before it."""
        self.recorded.append(columns.indexes)
        if self.failures:
            for index in columns.indexes:
                self.failures.pop(index, None)
        if OutcomeState.FAILED in columns.states:
            for position, state in enumerate(columns.states):
                if state == OutcomeState.FAILED:
                    failure = _failure(columns, position)
                    self.failures[failure.index] = failure


class FailureReading:
    """Reads failures until all are read, or as much as an answer covers."""

    def __init__(self, request: web.Request, progress: Progress) -> None:
        self.causes = Causes()
        self._batch = progress.batch
        self._groups = progress.groups
        self._store = request.app[BACKEND].store
        self._turns = request.app[TURNS]
        self._share = request[SHARE]
        self._bytes = 0
        self._bytes_in_turn = 0

    @property
    def _is_enough(self) -> bool:
        return self._bytes >= READ_BYTES

    async def read_from(self, start: Position) -> Position | None:
        """Return where the next answer must start, or None if everything was read."""
        first = group_of(str(start.chunk))
        for number in range(first, len(self._batch.group_totals)):
            position = start if number == first else Position(number * GROUP_CHUNKS)
            if not self._groups[number].counts.failed:
                continue
            following = position if self._is_enough else await self._read_group(number, position)
            if following is not None:
                return following
        return None

    async def _read_group(self, number: int, start: Position) -> Position | None:
        group = await self._store.read_group(self._batch.id, number)
        is_stopped, recorded = group.closed is Ending.FAILED, set[int]()
        failures, end = start.failures_before, min((number + 1) * GROUP_CHUNKS, self._batch.chunk_count)
        async for family in self._families(number, group, start.chunk):
            if is_stopped:
                recorded.update(*family.recorded)
            failures += len(family.failures)
            for failure in family.failures.values():
                self.causes.add(failure)
            if self._is_enough and family.chunk + 1 < end:
                return Position(family.chunk + 1, failures)
        if is_stopped:
            is_whole = start.chunk == number * GROUP_CHUNKS
            await self._add_stopped(number, group.counts.failed - failures, recorded if is_whole else None)
        return None

    async def _families(self, number: int, group: Group, first_chunk: int) -> AsyncIterator[Family]:
        family = Family(first_chunk)
        async for record in self._store.read_records(self._batch, number, first_chunk):
            if record.chunk_id not in group.done:
                continue  # it may become void
            chunk = planned_number(record.chunk_id)
            if chunk != family.chunk:
                yield family
                family = Family(chunk)
            columns = decode_columns(record.content, with_results=False)
            family.add(columns)
            await self._count_bytes(columns.memory_bytes)
        yield family

    async def _count_bytes(self, count: int) -> None:
        self._bytes += count
        self._bytes_in_turn += count
        self._share.take(count)
        if self._bytes_in_turn >= TURN_BYTES:
            self._bytes_in_turn = 0
            await self._turns.next()

    async def _add_stopped(self, number: int, count: int, recorded: set[int] | None) -> None:
        """Add the operations that had not finished when the batch was stopped. They have no record.

        `recorded` are the operations of the group that have one, or None if this answer has not read all of them.
        `count` is below 0 if a retry has corrected failures that an earlier answer has counted.
        """
        if count <= 0:
            return
        stopped = never_ended(0, "", Ending.FAILED, self._batch.reason)
        title = str((stopped.error or {})["title"])
        samples: list[Failure] = []
        if recorded is not None:
            first, total = self._batch.first_index(number), self._batch.group_totals[number]
            unrecorded = (index for index in range(first, first + total) if index not in recorded)
            ids = await self._store.read_ids(self._batch.id, number) if self._batch.has_own_ids else []
            samples = [
                Failure(index, ids[index - first] if ids else str(index), stopped.status, title, self._batch.reason)
                for index in itertools.islice(unrecorded, SAMPLES)
            ]
        self.causes.add_many(stopped.status, title, count, samples)


def _failure(columns: OutcomeColumns, position: int) -> Failure:
    index = columns.indexes[position]
    error = _error_decoder.decode(columns.errors[position]) or _Error()
    return Failure(
        index,
        str(index) if columns.ids is None else _id_decoder.decode(columns.ids[position]),
        int(bytes(columns.statuses[position])),
        title_of({"title": error.title}),
        shortened(error.detail, LONGEST_DETAIL) if isinstance(error.detail, str) else None,
        columns.recorded_at,
    )


def _cause_body(cause: Cause) -> dict[str, Any]:
    return {
        "status": cause.status,
        "title": cause.title,
        "count": cause.count,
        "retryable": cause.retryable,
        "firstAt": time_text(cause.first_at),
        "lastAt": time_text(cause.last_at),
        "samples": [{"id": one.id, "index": one.index, "detail": one.detail} for one in cause.samples],
    }


def _read_cursor(given: str | None) -> Position:
    if given is None:
        return Position()
    match = _CURSOR.fullmatch(given)
    if match is None:
        raise MalformedRequest(f"Invalid cursor {given!r}. Use nextCursor from an earlier answer.")
    return Position(int(match[1]), int(match[2]))
