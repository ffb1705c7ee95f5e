"""GET /batch/{id}/results: returns the outcomes that are counted so far, in the order of the operations.

As NDJSON or CSV, it returns all outcomes, one per line. With `?limit=`, or as JSON, it is one page with a cursor to the
next. A page ends early if its results are large. While the batch runs, operations without an outcome are missing. Once
it is final, the results are complete.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode

from aiohttp import web

from penstock.batch import Batch, Ending
from penstock.chunk import GROUP_CHUNKS, group_of
from penstock.errors import LostItem, MalformedRequest, UnknownBatch
from penstock.negotiation import choose_type
from penstock.outcome import OutcomeState, never_ended
from penstock.record import EncodedRecord
from penstock.service.batches.csv_results import csv_blocks
from penstock.service.batches.families import WINDOW_OUTCOMES, BatchSource, Family, Window, read_families
from penstock.service.batches.read_ahead import ReadAhead
from penstock.service.batches.status import batch_id_of, find_only_chunk, find_with_groups
from penstock.service.batches.streaming import BLOCK_BYTES, FOR_SPREADSHEET, Blocks, stream, stream_csv
from penstock.service.content import CSV, JSON, NDJSON
from penstock.service.json_answer import BodyAnswer, encode
from penstock.service.keys import BACKEND, GROUP_NUMBERS, MEMORY, SHARE, TURNS
from penstock.service.memory import Share
from penstock.service.paging import is_number, read_limit, read_once
from penstock.service.schemas import outcome_body, results_url
from penstock.service.turns import Turns
from penstock.settings import MIB
from penstock.store import Group

_PARAMETERS = ("status", "limit", "cursor", "format")
_FORMATS = {"ndjson": NDJSON, "json": JSON, "csv": CSV}
PAGE_OUTCOMES = 1_000
RECORD_BYTES = 1024  # a record in memory takes less than this, besides its content
GROUP_BYTES = MIB // 16  # a group usually takes less, but costs two calls: at most 16 groups are read ahead
PAGE_BYTES = 4 * MIB  # a page is in memory as a whole, and ends after the first outcome that reaches this size


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the results: after operation `index`, which is in the planned chunk `chunk`."""

    chunk: int = 0
    index: int = -1

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the position that `str` has written as this text, or None if it has written none."""
        chunk, _, index = text.partition(".")
        is_valid = is_number(chunk) and is_number(index) and len(text) < 20
        return cls(int(chunk), int(index)) if is_valid else None

    def __str__(self) -> str:
        return f"{self.chunk}.{self.index}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for: the outcomes after a cursor, perhaps only those of one state."""

    cursor: Cursor
    state: OutcomeState | None

    def of(self, indexes: Sequence[int], state_of: Callable[[int], str | None]) -> Iterable[int]:
        """Return those of some operations, which are in order, that the client asks for."""
        after = indexes[bisect_right(indexes, self.cursor.index) :]
        return after if self.state is None else (index for index in after if state_of(index) == self.state)


async def batch_results(request: web.Request) -> web.StreamResponse:
    cursor = read_cursor(request)
    first = group_of(str(cursor.chunk))
    if request.app[GROUP_NUMBERS].has_one_chunk(batch_id_of(request)) and cursor.chunk == 0:
        batch, group, record = await find_only_chunk(request)
    else:
        batch, groups = await find_with_groups(request, [first], with_done=True)
        group, record = groups[first], None
    _check_names(request)
    kind = read_format(request, _FORMATS)
    wanted = Wanted(cursor, read_state(request))
    limit = read_limit(request)
    if kind == CSV and (limit is not None or "cursor" in request.query):
        raise MalformedRequest("CSV has all results. For pages of them, use NDJSON or JSON.")
    most = None if limit is None else limit + 1  # one more shows that there is a next page
    is_stream = kind == CSV or (kind == NDJSON and limit is None)
    reading = Reading(request.app, batch, wanted, record, most_outcomes=most, reads_all=is_stream)
    async with aclosing(reading.windows(group)) as windows:
        if kind == CSV:
            return await stream_csv(request, csv_blocks(windows, delimiter=await _delimiter(request, batch)))
        if is_stream:
            return await stream(request, NDJSON, _blocks(windows))
        page, following = await read_page(windows, limit or PAGE_OUTCOMES, request[SHARE], request.app[TURNS])
    return _page_answer(batch, kind, page, following, _kept_query(wanted.state, limit))


class Reading:
    """Reads the outcomes of a batch that a client wants, in the order of the operations."""

    def __init__(
        self,
        app: web.Application,
        batch: Batch,
        wanted: Wanted,
        record: EncodedRecord | None = None,
        *,
        most_outcomes: int | None = None,
        reads_all: bool = False,
    ) -> None:
        """Create a reading. `record` is the one of the only chunk of the batch, if it was read with its counter.

        A reader who needs only the first outcomes says how many: `most_outcomes`. Then the windows are small. One who
        needs all says `reads_all`: then calls to AWS read as much as they can, and before it is needed.
        """
        self._store = app[BACKEND].store
        self._memory = app[MEMORY]
        self._source = BatchSource(app[BACKEND], batch, self._memory)
        self._record = record
        self._batch = batch
        self._wanted = wanted
        self._turns = app[TURNS]
        self._reads_all = reads_all
        self._most_outcomes = min(most_outcomes or WINDOW_OUTCOMES, WINDOW_OUTCOMES)

    async def windows(self, group: Group) -> AsyncGenerator[tuple[int, Window]]:
        """Yield windows of outcomes, each with the chunk for cursors into it. `group` is the counter of the first.

        Raises UnknownBatch if the retention of the batch ends while it is read. Whoever does not need all windows
        closes the generator, so that no further records are read.
        """
        found = self._find(group)
        try:
            if not self._reads_all or self._record is not None:
                async for window in self._windows(found):
                    yield window
                return
            async with ReadAhead(found, _size, self._memory) as ahead:
                async for window in self._windows(ahead):
                    yield window
        except LostItem:
            raise UnknownBatch(self._batch.id) from None

    async def _find(self, group: Group) -> AsyncGenerator["_Found"]:
        """Yield the counted records of all groups. `group` is the counter of the first one."""
        cursor = self._wanted.cursor
        first = group_of(str(cursor.chunk))
        for number in range(first, len(self._batch.group_totals)):
            if number > first:
                group = await self._store.read_group(self._batch.id, number)
            records = self._records(number, group, cursor.chunk if group.closed is None else 0)
            async for record in _counted_records(records, group):
                yield _Found(number, group, record)
            yield _Found(number, group, None)

    def _records(self, number: int, group: Group, first_chunk: int) -> AsyncIterator[EncodedRecord]:
        if self._record is not None and group.done == {self._record.chunk_id}:
            return _only(self._record)
        return self._store.read_records(self._batch, number, first_chunk, reads_all=self._reads_all)

    async def _windows(self, found: AsyncIterator["_Found"]) -> AsyncIterator[tuple[int, Window]]:
        async for first in found:
            families = read_families(_records_of_group(first, found), self._source, self._turns)
            windows = (
                self._open_group(families)
                if first.group.closed is None
                else self._closed_group(first.number, families, first.group.closed)
            )
            async for window in windows:
                yield window

    async def _open_group(self, families: AsyncIterator[Family]) -> AsyncIterator[tuple[int, Window]]:
        async for family in families:
            indexes = self._wanted.of(family.indexes, family.state_of)
            async for window in family.windows(indexes, most_outcomes=self._most_outcomes):
                yield family.chunk, window

    async def _closed_group(
        self, number: int, families: AsyncIterator[Family], ending: Ending
    ) -> AsyncIterator[tuple[int, Window]]:
        """Yield what was counted before the group was closed. Every other operation gets the outcome of the ending."""
        missing_line = await self._missing_line(number, ending)
        first, chunk = self._batch.first_index(number), number * GROUP_CHUNKS
        following, end = first, first + self._batch.group_totals[number]
        async for family in families:
            until = max(family.indexes, default=following - 1) + 1
            indexes = self._all_wanted(family, following, until, ending)
            async for window in family.windows(indexes, missing_line, most_outcomes=self._most_outcomes):
                yield chunk, window
            following = until
        rest = Family(chunk, self._source)
        indexes = self._all_wanted(rest, following, end, ending)
        async for window in rest.windows(indexes, missing_line, most_outcomes=self._most_outcomes):
            yield chunk, window

    def _all_wanted(self, family: Family, start: int, end: int, ending: Ending) -> Iterable[int]:
        missing = never_ended(0, "", ending, None).state
        return self._wanted.of(range(start, end), lambda index: family.state_of(index) or missing)

    async def _missing_line(self, number: int, ending: Ending) -> Callable[[int], bytes]:
        # The group may have expired before the batch got its ending. Then the reason of that ending is not the group's.
        reason = self._batch.reason if ending is self._batch.ending else None
        has_own_ids, first = self._batch.has_own_ids, self._batch.first_index(number)
        ids = await self._store.read_ids(self._batch.id, number) if has_own_ids else []

        def missing_line(index: int) -> bytes:
            operation_id = ids[index - first] if has_own_ids else str(index)
            return encode(outcome_body(never_ended(index, operation_id, ending, reason)))

        return missing_line


@dataclass(frozen=True, slots=True)
class _Found:
    """A counted record of a group. Behind the last one comes one without a record."""

    number: int
    group: Group
    record: EncodedRecord | None


def _size(found: _Found) -> int:
    return GROUP_BYTES if found.record is None else RECORD_BYTES + len(found.record.content)


async def _records_of_group(first: _Found, following: AsyncIterator[_Found]) -> AsyncIterator[EncodedRecord]:
    """Yield the records of a group, of which `first` was found first."""
    found = first
    while found.record is not None:
        yield found.record
        found = await anext(following)


async def _only(record: EncodedRecord) -> AsyncIterator[EncodedRecord]:
    yield record


async def _counted_records(records: AsyncIterator[EncodedRecord], group: Group) -> AsyncIterator[EncodedRecord]:
    """Yield the counted records of a group. A record that is not counted yet may become void."""
    async for record in records:
        if record.chunk_id in group.done:
            yield record


async def _blocks(windows: AsyncIterator[tuple[int, Window]]) -> Blocks:
    """Yield the lines of the outcomes in blocks, each with about the memory that it takes with its window."""
    pieces: list[bytes] = []
    size = window_bytes = 0
    async for _, window in windows:
        window_bytes = window.memory_bytes
        for text in window.texts:
            for start in range(0, len(text), BLOCK_BYTES):
                pieces.append(text[start : start + BLOCK_BYTES])
                size += len(pieces[-1])
                if size >= BLOCK_BYTES:
                    yield b"".join(pieces), window_bytes + size
                    pieces, size = [], 0
            pieces.append(b"\n")
            size += 1
    if pieces:
        yield b"".join(pieces), window_bytes + size


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


async def read_page(
    windows: AsyncIterator[tuple[int, Window]], limit: int, share: Share, turns: Turns
) -> tuple[list[bytes], Cursor | None]:
    """Return up to `limit` outcomes as JSON, and the position after them if there are more."""
    page: list[bytes] = []
    size, in_turn, last = 0, 0, Cursor()
    await turns.next()
    async for chunk, window in windows:
        for index, line in zip(window.indexes, window.lines, strict=True):
            if len(page) == limit or size >= PAGE_BYTES:
                return page, last
            page.append(line)
            size, in_turn, last = size + len(line), in_turn + len(line), Cursor(chunk, index)
            share.grow_to(window.memory_bytes + 2 * size)  # as pieces, and as one answer
            if in_turn >= BLOCK_BYTES:
                in_turn = 0
                await turns.next()
    return page, None


def _page_answer(
    batch: Batch, kind: str, page: list[bytes], following: Cursor | None, query: dict[str, str]
) -> web.Response:
    headers = {}
    if following is not None:
        url = f"{results_url(batch.id)}?{urlencode({**query, 'cursor': str(following)})}"
        headers["Link"] = f'<{url}>; rel="next"'
    if kind == NDJSON:
        return BodyAnswer(body=_joined(page), headers=headers, content_type=NDJSON)
    cursor = encode(str(following) if following else None)
    content = b'{"results":[%b],"nextCursor":%b}' % (b",".join(page), cursor)
    return BodyAnswer(body=content, headers=headers, content_type=JSON)


async def _delimiter(request: web.Request, batch: Batch) -> str:
    """Return what separates cells. A spreadsheet that has written semicolons also expects them."""
    layout = await request.app[BACKEND].store.read_layout(batch.id) if FOR_SPREADSHEET in request else None
    return (layout and layout.delimiter) or ","


def read_format(request: web.Request, formats: Mapping[str, str]) -> str:
    """Return the media type that the client wants: by the parameter `format`, or else by its Accept header."""
    given = read_once(request, "format")
    if given is None:
        return choose_type(", ".join(request.headers.getall("Accept", ())), tuple(formats.values()))
    if given not in formats:
        raise MalformedRequest(f"Invalid format {given!r}. Use {' or '.join(formats)}.")
    return formats[given]


def _kept_query(state: OutcomeState | None, limit: int | None) -> dict[str, str]:
    kept = {"status": state, "limit": limit}
    return {name: str(value) for name, value in kept.items() if value is not None}


def _check_names(request: web.Request) -> None:
    """Raise MalformedRequest for an unknown parameter. If it were ignored, a client would get other results."""
    for name in request.query:
        if name not in _PARAMETERS:
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use {', '.join(_PARAMETERS)}.")


def read_state(request: web.Request) -> OutcomeState | None:
    given = read_once(request, "status")
    if given is None:
        return None
    try:
        return OutcomeState(given)
    except ValueError:
        raise MalformedRequest(f"Invalid status {given!r}. Use one of {', '.join(OutcomeState)}.") from None


def read_cursor(request: web.Request) -> Cursor:
    given = read_once(request, "cursor")
    if given is None:
        return Cursor()
    cursor = Cursor.parse(given)
    if cursor is None:
        raise MalformedRequest(f"Invalid cursor {given!r}. Use nextCursor from an earlier page.")
    return cursor
