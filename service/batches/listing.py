"""GET /batches: lists the batches of a tenant, newest first. Operators also list those of another tenant, or of all.

The table has a list of entries (`penstock/listing.py`). They are read in steps, each with its batches, until the page
is full or the request has read enough. So a page may be short although there are more batches.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from penstock.api_key import Scope
from penstock.batch import UNACCEPTED_STATES, Batch, Counts
from penstock.batch_id import BATCH_ID
from penstock.errors import MalformedRequest, MissingScope
from penstock.listing import Entry, Place
from penstock.priority import Priority
from penstock.service.base_url import public_url
from penstock.service.batches.status import Progress, status_of
from penstock.service.caller import is_tenant
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CALLER, CLOCK, METADATA, OPERATOR_HOST, TURNS
from penstock.service.paging import read_limit, read_once
from penstock.service.schemas import METADATA_PREFIX, SHOWN_STATES, read_time, shown_state

PATH = "/batches"
ALL_TENANTS = "*"
PAGE_BATCHES = 20
LONGEST_PAGE = 100
ENTRIES_IN_STEP = 50
MOST_ENTRIES = 1_000  # that one request reads
MOST_COUNTERS = 1_000  # that one request reads, unless its first batch has more
_PARAMETERS = ("status", "priority", "createdAfter", "createdBefore", "tenant", "limit", "cursor")
_CURSOR = re.compile(rf"([0-9]{{1,15}})\.({BATCH_ID})")
_END_OF_TIME = Place(10**15 - 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for: a page of the batches of a tenant (None: of all) from `since` to before `before`."""

    tenant: str | None
    since: Place
    before: Place
    limit: int
    status: str | None
    priority: Priority | None
    metadata: Mapping[str, str]

    @property
    def has_filter(self) -> bool:
        return bool(self.metadata) or self.status is not None or self.priority is not None

    def may_have(self, entry: Entry) -> bool:
        return self.metadata.items() <= entry.metadata.items()

    def has(self, batch: Batch, now: float) -> bool:
        """Return True if the batch is on the page. Its status may prove to be another one when it is counted."""
        exists = batch.state not in UNACCEPTED_STATES and not batch.is_forgotten(now)
        has_priority = self.priority in {None, batch.priority}
        return exists and has_priority and self.status in {None, shown_state(batch, Counts(), now)}


async def list_batches(request: web.Request) -> web.Response:
    statuses, following = await read_page(request.app, _read_wanted(request))
    cursor = None if following is None else f"{following.created_ms}.{following.batch_id}"
    return json_answer({"batches": statuses, "nextCursor": cursor}, headers=_link(request, cursor))


async def read_page(app: web.Application, wanted: Wanted) -> tuple[list[dict[str, Any]], Place | None]:
    """Return the statuses of batches, and the place before which the next page starts, if there is one."""
    batches, following = await _find_batches(app, wanted)
    # Counters are read after the batches, so they are never older than a state.
    counters = await app[BACKEND].store.read_groups_of(batches)
    found = [await status_of(app, Progress.of(*progress)) for progress in zip(batches, counters, strict=True)]
    return [status for status in found if wanted.status in {None, status["status"]}], following


async def _find_batches(app: web.Application, wanted: Wanted) -> tuple[list[Batch], Place | None]:
    store, page, before = app[BACKEND].store, _Page(wanted), wanted.before
    while page.entries < MOST_ENTRIES:
        count = ENTRIES_IN_STEP if wanted.has_filter else wanted.limit + 1 - len(page.batches)
        entries = await store.read_list(wanted.tenant, wanted.since, before, count)
        candidates = [entry for entry in entries if wanted.may_have(entry)]
        found = await store.read_batches([entry.place.batch_id for entry in candidates])
        for entry in entries:
            batch = found.get(entry.place.batch_id)
            if not page.add(batch, app[CLOCK].now()):
                return page.batches, before
            if batch is not None and batch.has_metadata:
                app[METADATA].note(batch.id, entry.metadata)  # otherwise its status would read it again
            before = entry.place
        if len(entries) < count:
            return page.batches, None
        await app[TURNS].next()
    return page.batches, before


class _Page:
    """The batches of a page that is being read, and how many entries and counters it takes to read them."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.batches: list[Batch] = []
        self.entries = 0
        self._counters = 0

    def add(self, batch: Batch | None, now: float) -> bool:
        """Take the batch of the next entry if it is wanted. Return False if the page is full."""
        if len(self.batches) == self._wanted.limit:
            return False
        self.entries += 1
        if batch is None or not self._wanted.has(batch, now):
            return True
        self._counters += len(batch.group_totals)
        if self.batches and self._counters > MOST_COUNTERS:
            return False
        self.batches.append(batch)
        return True


def _link(request: web.Request, cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    query = {**{name: value for name, value in request.query.items() if name != "cursor"}, "cursor": cursor}
    return {"Link": f'<{public_url(PATH)}?{urlencode(query)}>; rel="next"'}


def _read_wanted(request: web.Request) -> Wanted:
    """Read the query. Raises MalformedRequest, or MissingScope for the batches of another tenant."""
    for name in request.query:
        if name not in _PARAMETERS and not name.startswith(METADATA_PREFIX):
            names = f"{', '.join(_PARAMETERS)} or {METADATA_PREFIX}NAME"
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use {names}.")
    before = _read_place(request, "createdBefore") or _END_OF_TIME
    return Wanted(
        tenant=_read_tenant(request),
        since=_read_place(request, "createdAfter") or Place(0),
        before=min(before, _read_cursor(request) or before),
        limit=read_limit(request, LONGEST_PAGE) or PAGE_BATCHES,
        status=_read_one_of(request, "status", SHOWN_STATES),
        priority=None if (given := _read_one_of(request, "priority", list(Priority))) is None else Priority(given),
        metadata={
            name.removeprefix(METADATA_PREFIX): str(read_once(request, name))
            for name in request.query
            if name.startswith(METADATA_PREFIX)
        },
    )


def _read_tenant(request: web.Request) -> str | None:
    """Return the tenant whose batches are listed, or None for all tenants."""
    given, caller = read_once(request, "tenant"), request[CALLER]
    if given is None:
        return None if OPERATOR_HOST in request.app else caller.tenant
    if not caller.may_see(given):
        raise MissingScope(Scope.OPERATE)
    if given == ALL_TENANTS and Scope.OPERATE in caller.scopes:
        return None
    if not is_tenant(given):
        raise MalformedRequest("The tenant is not valid. Use 1 to 128 printable ASCII characters without spaces.")
    return given


def _read_place(request: web.Request, name: str) -> Place | None:
    """Return the first place in a list at or after a time. The times of batches are in milliseconds."""
    given = read_once(request, name)
    if given is None:
        return None
    try:
        return Place(math.ceil(round(read_time(given) * 1000, 3)))
    except ValueError as error:
        raise MalformedRequest(f"Invalid {name} {given!r}. {error}.") from None


def _read_one_of(request: web.Request, name: str, values: list[str]) -> str | None:
    given = read_once(request, name)
    if given is not None and given not in values:
        raise MalformedRequest(f"Invalid {name} {given!r}. Use one of {', '.join(values)}.")
    return given


def _read_cursor(request: web.Request) -> Place | None:
    given = read_once(request, "cursor")
    if given is None:
        return None
    match = _CURSOR.fullmatch(given)
    if match is None:
        raise MalformedRequest(f"Invalid cursor {given!r}. Use nextCursor from an earlier page.")
    return Place(int(match[1]), match[2])
