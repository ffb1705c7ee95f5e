"""GET /console/batch/{id}/outcomes, /results and /rejected: what became of a batch, to read, to search, to download."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from pydantic_core import from_json, to_json

from penstock.batch import Batch
from penstock.chunk import GROUP_CHUNKS, group_of
from penstock.outcome import OutcomeState
from penstock.service.batches.rejected import rejected_rows
from penstock.service.batches.results import Cursor, Reading, Wanted, batch_results, read_cursor, read_page
from penstock.service.batches.status import find_batch
from penstock.service.batches.streaming import FOR_SPREADSHEET
from penstock.service.console.rendering import DOWNLOAD, page
from penstock.service.keys import BACKEND, SHARE, TURNS
from penstock.service.paging import is_number, read_once
from penstock.service.public_urls import path_and_query_in_app
from penstock.store import Store

SHOWN = 25
LONGEST_SHOWN = 2_000  # characters of a result. The download has all of it


async def show(request: web.Request) -> web.Response:
    batch, state, wanted_id = await find_batch(request), _read_state(request), _read_id(request)
    if wanted_id:
        found, following = await find_outcome(request, batch, wanted_id), None
        lines = [] if found is None else [found]
    else:
        lines, following = await _read_page(request, batch, Wanted(read_cursor(request), state))
    return page(
        request,
        "outcomes.html",
        batch=batch,
        state=state,
        wanted_id=wanted_id,
        outcomes=[_shown(line) for line in lines],
        following=None if following is None else _query(state, following),
        refresh=path_and_query_in_app(request),
        may_grow=following is None and not batch.is_final,
    )


async def download(request: web.Request) -> web.StreamResponse:
    """Answer with all outcomes as a file."""
    state = _read_state(request)
    _offer_file(request, "" if state is None else f"-{state}")
    return await batch_results(request)


async def download_rejected(request: web.Request) -> web.StreamResponse:
    """Answer with the rows that failed as a file."""
    _offer_file(request, "-rejected")
    return await rejected_rows(request)


def _offer_file(request: web.Request, suffix: str) -> None:
    """Let the browser save the answer. A CSV file is written for a spreadsheet."""
    kind = "csv" if request.query.get("format") == "csv" else "ndjson"
    request[DOWNLOAD] = f"{request.match_info['batch_id']}{suffix}.{kind}"
    request[FOR_SPREADSHEET] = True


async def find_outcome(request: web.Request, batch: Batch, operation_id: str) -> bytes | None:
    """Return the outcome of an operation as JSON, or None if there is none with this id, or none yet."""
    store = request.app[BACKEND].store
    index = await _index_of(store, batch, operation_id)
    if index is None:
        return None
    number = batch.group_at(index)
    wanted = Wanted(Cursor(number * GROUP_CHUNKS, index - 1), None)
    reading = Reading(request.app, batch, wanted, most_outcomes=1)
    async with aclosing(reading.windows(await store.read_group(batch.id, number))) as windows:
        async for _, window in windows:
            return next(window.lines) if window.indexes[0] == index else None
    return None


async def _index_of(store: Store, batch: Batch, operation_id: str) -> int | None:
    if not batch.has_own_ids:
        is_index = is_number(operation_id) and len(operation_id) < 10 and int(operation_id) < batch.total
        return int(operation_id) if is_index else None
    for number in range(len(batch.group_totals)):
        ids = await store.read_ids(batch.id, number)
        if operation_id in ids:
            return batch.first_index(number) + ids.index(operation_id)
    return None


async def _read_page(request: web.Request, batch: Batch, wanted: Wanted) -> tuple[list[bytes], Cursor | None]:
    group = await request.app[BACKEND].store.read_group(batch.id, group_of(str(wanted.cursor.chunk)))
    reading = Reading(request.app, batch, wanted, most_outcomes=SHOWN + 1)
    async with aclosing(reading.windows(group)) as windows:
        return await read_page(windows, SHOWN, request[SHARE], request.app[TURNS])


def _shown(line: bytes) -> dict[str, Any]:
    """Return an outcome as the page shows it. `text` is its result as JSON, or the detail of its error."""
    outcome = from_json(line)
    error = outcome.get("error") or {}
    text = error.get("detail") or "" if "error" in outcome else _result_text(outcome)
    is_cut = len(text) > LONGEST_SHOWN
    return {
        "id": outcome["id"],
        "status": outcome["status"],
        "title": error.get("title"),
        "text": f"{text[:LONGEST_SHOWN]} …" if is_cut else text,
    }


def _result_text(outcome: Mapping[str, Any]) -> str:
    return outcome.get("resultMissing") or to_json(outcome["result"]).decode()


def _read_state(request: web.Request) -> OutcomeState | None:
    """Return the state that the person chose. The empty choice, or one that does not exist, means all."""
    given = request.query.get("status", "")
    return OutcomeState(given) if given in set(OutcomeState) else None


def _read_id(request: web.Request) -> str:
    return (read_once(request, "id") or "").strip()


def _query(state: OutcomeState | None, cursor: Cursor) -> str:
    return urlencode({**({} if state is None else {"status": state.value}), "cursor": str(cursor)})
