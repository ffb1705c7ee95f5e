"""GET /batch/{id}/results: returns the outcomes that are counted so far, in the order of the operations.

As NDJSON, it returns all outcomes, one per line. With `?limit=`, or as JSON, it is one page with a cursor to the
next. A page ends early if its results are large. While the batch runs, operations without an outcome are missing. Once
it is final, the results are complete.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import hdrs, web

from penstock.batch import Batch, Ending
from penstock.chunk import GROUP_CHUNKS, group_of, planned_number
from penstock.errors import MalformedRequest
from penstock.negotiation import choose_type
from penstock.outcome import ChunkRecord, Outcome, OutcomeState, never_ended
from penstock.service.batches.status import find_batch
from penstock.service.content import JSON, NDJSON
from penstock.service.json_answer import BodyAnswer, encode, writing
from penstock.service.keys import BACKEND, SHARE, TURNS
from penstock.service.memory import Share
from penstock.service.paging import is_number, read_limit, read_once
from penstock.service.schemas import outcome_body, results_url
from penstock.service.turns import Turns
from penstock.settings import MIB
from penstock.store import Group, Store
from penstock.telemetry import Event, get_log

_PARAMETERS = ("status", "limit", "cursor")
PAGE_OUTCOMES = 1_000
BLOCK_BYTES = 65_536  # results are encoded, and a stream of them is written, in blocks of this size
PAGE_BYTES = 4 * MIB  # a page is in memory as a whole, and ends after the first outcome that reaches this size


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the results: after operation `index`, which is in the planned chunk `chunk`."""

    chunk: int = 0
    index: int = -1

    def __str__(self) -> str:
        return f"{self.chunk}.{self.index}"


async def batch_results(request: web.Request) -> web.StreamResponse:
    batch = await find_batch(request)
    _check_names(request)
    kind = choose_type(", ".join(request.headers.getall("Accept", ())), (NDJSON, JSON))
    state, cursor = _read_state(request), _read_cursor(request)
    limit = read_limit(request)
    outcomes = _outcomes(request.app[BACKEND].store, batch, cursor, state)
    if kind == NDJSON and limit is None:
        return await _stream(request, outcomes)
    page, following = await _page(outcomes, limit or PAGE_OUTCOMES, request[SHARE], request.app[TURNS])
    return _page_answer(batch, kind, page, following, _kept_query(state, limit))


async def _outcomes(
    store: Store, batch: Batch, cursor: Cursor, state: OutcomeState | None
) -> AsyncIterator[tuple[Cursor, Outcome]]:
    for number in range(group_of(str(cursor.chunk)), len(batch.group_totals)):
        group = await store.read_group(batch.id, number)
        outcomes = (
            _open_group(store, batch, number, group, cursor.chunk)
            if group.closed is None
            else _closed_group(store, batch, number, group, group.closed)
        )
        async for chunk, outcome in outcomes:
            if outcome.index > cursor.index and state in {None, outcome.state}:
                yield Cursor(chunk, outcome.index), outcome


async def _open_group(
    store: Store, batch: Batch, number: int, group: Group, first_chunk: int
) -> AsyncIterator[tuple[int, Outcome]]:
    async for records in _counted_records(store, batch, number, group, first_chunk):
        chunk = planned_number(records[0].chunk_id)
        for outcome in _merge(records):
            yield chunk, outcome


async def _closed_group(
    store: Store, batch: Batch, number: int, group: Group, ending: Ending
) -> AsyncIterator[tuple[int, Outcome]]:
    """Yield what was counted before the group was closed. Every other operation gets the outcome of the ending."""
    # The group may have expired before the batch got its ending. Then the reason of that ending is not the group's.
    reason = batch.reason if ending is batch.ending else None
    ids = await store.read_ids(batch.id, number) if batch.has_own_ids else []
    first, chunk = batch.first_index(number), number * GROUP_CHUNKS
    following = first

    def missing(until: int) -> Iterator[tuple[int, Outcome]]:
        for index in range(following, until):
            operation_id = ids[index - first] if batch.has_own_ids else str(index)
            yield chunk, never_ended(index, operation_id, ending, reason)

    async for records in _counted_records(store, batch, number, group, 0):
        for outcome in _merge(records):
            for one in missing(outcome.index):
                yield one
            yield chunk, outcome
            following = outcome.index + 1
    for one in missing(first + batch.group_totals[number]):
        yield one


async def _counted_records(
    store: Store, batch: Batch, number: int, group: Group, first_chunk: int
) -> AsyncIterator[list[ChunkRecord]]:
    """Yield the counted records of each planned chunk. A record that is not counted yet may become void."""
    async for family in store.read_records(batch, number, first_chunk):
        counted = [record for record in family if record.chunk_id in group.done]
        if counted:
            yield counted


def _merge(records: list[ChunkRecord]) -> list[Outcome]:
    """Return the latest outcome of each operation, from a planned chunk and the chunks that followed from it."""
    latest = {outcome.index: outcome for record in records for outcome in record.outcomes}
    return [latest[index] for index in sorted(latest)]


async def _stream(request: web.Request, outcomes: AsyncIterator[tuple[Cursor, Outcome]]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": NDJSON})
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return answer
    try:
        async for block in _blocks(outcomes):
            request[SHARE].take(len(block))
            async with writing(request, len(block)):
                await answer.write(block)
            await request.app[TURNS].next()  # a write does not wait while the client reads fast
    except ConnectionResetError:
        return answer  # the client closed the connection, or does not read
    except Exception as error:  # noqa: BLE001 - any error: the middleware cannot answer it any more
        # The 200 has already been sent. Only a broken connection can show the client that results are missing.
        get_log().error(Event.REQUEST_BROKE, path=request.path, exc_info=error)
        if request.transport is not None:
            request.transport.abort()
        return answer
    await answer.write_eof()
    return answer


async def _blocks(outcomes: AsyncIterator[tuple[Cursor, Outcome]]) -> AsyncIterator[bytes]:
    """Yield the lines of the outcomes, as many at a time as reach the size of a block."""
    block = bytearray()
    async for _, outcome in outcomes:
        block += encode(outcome_body(outcome)) + b"\n"
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


async def _page(
    outcomes: AsyncIterator[tuple[Cursor, Outcome]], limit: int, share: Share, turns: Turns
) -> tuple[list[bytes], Cursor | None]:
    """Return up to `limit` outcomes as JSON, and the position after them if there are more."""
    page: list[bytes] = []
    size, in_turn, last = 0, 0, Cursor()
    await turns.next()
    async for place, outcome in outcomes:
        if len(page) == limit or size >= PAGE_BYTES:
            return page, last
        page.append(encode(outcome_body(outcome)))
        size, in_turn, last = size + len(page[-1]), in_turn + len(page[-1]), place
        share.grow_to(2 * size)  # as pieces, and as one answer
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
        return BodyAnswer(body=b"".join(line + b"\n" for line in page), headers=headers, content_type=NDJSON)
    cursor = encode(str(following) if following else None)
    content = b'{"results":[%b],"nextCursor":%b}' % (b",".join(page), cursor)
    return BodyAnswer(body=content, headers=headers, content_type=JSON)


def _kept_query(state: OutcomeState | None, limit: int | None) -> dict[str, str]:
    kept = {"status": state, "limit": limit}
    return {name: str(value) for name, value in kept.items() if value is not None}


def _check_names(request: web.Request) -> None:
    """Raise MalformedRequest for an unknown parameter. If it were ignored, a client would get other results."""
    for name in request.query:
        if name not in _PARAMETERS:
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use {', '.join(_PARAMETERS)}.")


def _read_state(request: web.Request) -> OutcomeState | None:
    given = read_once(request, "status")
    if given is None:
        return None
    try:
        return OutcomeState(given)
    except ValueError:
        raise MalformedRequest(f"Invalid status {given!r}. Use one of {', '.join(OutcomeState)}.") from None


def _read_cursor(request: web.Request) -> Cursor:
    given = read_once(request, "cursor")
    if given is None:
        return Cursor()
    chunk, _, index = given.partition(".")
    if not (is_number(chunk) and is_number(index) and len(given) < 20):
        raise MalformedRequest(f"Invalid cursor {given!r}. Use nextCursor from an earlier page.")
    return Cursor(int(chunk), int(index))
