"""GET /console: the batches, newest first. An open page keeps its rows, and says how many batches are new.

`upto` in the query is the place of the newest row. A refresh asks for the same rows again, so nothing moves while a
person points at it. `before` is the place of the last row of the page before this one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from aiohttp import hdrs, web

from penstock.api_key import Scope
from penstock.batch import FINAL_STATES
from penstock.batch_id import BATCH_ID, is_batch_id
from penstock.listing import Place
from penstock.priority import Priority
from penstock.service.batches.listing import Wanted, read_page
from penstock.service.console.live import LIVE, note_progress
from penstock.service.console.progress import bar_of, rate_of
from penstock.service.console.rendering import page
from penstock.service.console.texts import to_seconds
from penstock.service.keys import CALLER, CLOCK
from penstock.service.schemas import SHOWN_STATES

SHOWN = 25
MOST_NEW = 20  # that are counted: "20 or more new batches"
SHARED_SECONDS = 2.0
_PLACE = re.compile(rf"([0-9]{{1,15}})\.({BATCH_ID})")
_AFTER = "~"  # sorts behind every character of an id
_END_OF_TIME = Place(10**15 - 1)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a person looks for. Empty texts filter nothing. `label` is a pair of the metadata: `team=sales`."""

    status: str = ""
    priority: str = ""
    tenant: str = ""
    label: str = ""

    @property
    def query(self) -> dict[str, str]:
        given = {name: getattr(self, name) for name in self.__slots__}
        return {name: text for name, text in given.items() if text}

    @property
    def metadata(self) -> dict[str, str]:
        name, separator, value = self.label.partition("=")
        return {name.strip(): value.strip()} if separator and name.strip() else {}


async def show(request: web.Request) -> web.Response:
    if wanted_id := request.query.get("id", "").strip():
        return _go_to(wanted_id)
    filters, before = _read_filters(request), _read_place(request.query.get("before"))
    upto = _read_place(request.query.get("upto"))
    wanted = _wanted(request, filters)
    rows, following = await _read(request, replace(wanted, before=_behind(upto) or before or _END_OF_TIME))
    new = 0
    if upto is not None and before is None:
        after = replace(wanted, since=_behind(upto) or upto, limit=MOST_NEW)
        new = len((await _read(request, after))[0])
    return page(
        request,
        "batches.html",
        rows=[_row(request, status) for status in rows],
        filters=filters,
        states=SHOWN_STATES,
        priorities=list(Priority),
        new=new,
        most_new=MOST_NEW,
        is_first=before is None,
        refresh=_url(filters, before=request.query.get("before"), upto=_top(rows) or request.query.get("upto")),
        newest=_url(filters),
        older=None if following is None else _url(filters, before=f"{following.created_ms}.{following.batch_id}"),
    )


async def _read(request: web.Request, wanted: Wanted) -> tuple[list[dict[str, Any]], Place | None]:
    """Read a page of the list. Open pages that show the same share it."""
    columns = (getattr(wanted, one.name) for one in fields(wanted) if one.name != "metadata")
    key = ("list", *columns, *wanted.metadata.items())
    return await request.app[LIVE].read(key, lambda: _read_noting(request.app, wanted), SHARED_SECONDS)


async def _read_noting(app: web.Application, wanted: Wanted) -> tuple[list[dict[str, Any]], Place | None]:
    statuses, following = await read_page(app, wanted)
    for status in statuses:
        note_progress(app, status)
    return statuses, following


def _wanted(request: web.Request, filters: Filters) -> Wanted:
    caller = request[CALLER]
    sees_all = Scope.OPERATE in caller.scopes
    return Wanted(
        tenant=(filters.tenant or None) if sees_all else caller.tenant,
        since=Place(0),
        before=_END_OF_TIME,
        limit=SHOWN,
        status=filters.status or None,
        priority=Priority(filters.priority) if filters.priority else None,
        metadata=filters.metadata,
    )


def _row(request: web.Request, status: dict[str, Any]) -> dict[str, Any]:
    history, now = request.app[LIVE].history, request.app[CLOCK].now()
    rate = rate_of(status, history.rate(status["batchId"]), now)
    return {**status, "bar": bar_of(status), "rate": rate, "isFinal": status["status"] in FINAL_STATES}


def _read_filters(request: web.Request) -> Filters:
    """Return the filters of the form. A choice that does not exist filters nothing."""
    query: Mapping[str, str] = request.query
    status, priority = query.get("status", ""), query.get("priority", "")
    return Filters(
        status=status if status in SHOWN_STATES else "",
        priority=priority if priority in set(Priority) else "",
        tenant=query.get("tenant", "").strip(),
        label=query.get("label", "").strip(),
    )


def _read_place(given: str | None) -> Place | None:
    match = _PLACE.fullmatch(given or "")
    return None if match is None else Place(int(match[1]), match[2])


def _behind(place: Place | None) -> Place | None:
    """Return the place directly behind a batch, so that a page that ends there includes the batch."""
    return None if place is None else Place(place.created_ms, place.batch_id + _AFTER)


def _top(rows: list[dict[str, Any]]) -> str | None:
    if not rows:
        return None
    return f"{round(to_seconds(rows[0]['createdAt']) * 1000)}.{rows[0]['batchId']}"


def _url(filters: Filters, **more: str | None) -> str:
    query = filters.query | {name: text for name, text in more.items() if text}
    return f"/console?{urlencode(query)}" if query else "/console"


def _go_to(batch_id: str) -> web.Response:
    path = f"/console/batch/{batch_id}" if is_batch_id(batch_id) else "/console/batch/-"
    return web.Response(status=303, headers={hdrs.LOCATION: path})
