"""Pages of lists, as OpenAI's clients ask for them: `after`, `limit` and, of files, `order`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.paging import is_number

LARGEST_ENTRY_BYTES = 128 * 1024  # that an entry of the catalog takes in memory: most of it are errors
_ORDERS = {"desc": False, "asc": True}


@dataclass(frozen=True, slots=True)
class Page:
    """What a client asks for: `limit` objects after the one with the id `after`. The newest come first."""

    after: str | None
    limit: int
    oldest_first: bool = False


def read_page(
    request: web.Request, is_id: Callable[[str], bool], *, most: int, usual: int, others: Sequence[str] = ()
) -> Page:
    """Read the query of a request. Raises an error if a parameter is unknown or invalid, or `after` is no such id."""
    known = ("after", "limit", *others)
    for name in request.query:
        if name not in known:
            message = f"Unknown parameter: '{name}'. Use {', '.join(known)}."
            raise OpenAIError(message, param=name, code="unknown_parameter")
    order = request.query.get("order", "desc")
    if order not in _ORDERS:
        raise OpenAIError("'order' must be 'asc' or 'desc'.", param="order", code="invalid_value")
    after = request.query.get("after") or None
    if after is not None and not is_id(after):
        raise OpenAIError("'after' must be the id of an object of this list.", param="after", code="invalid_value")
    return Page(after, _limit(request, most, usual), _ORDERS[order])


def _limit(request: web.Request, most: int, usual: int) -> int:
    given = request.query.get("limit", str(usual))
    if not (is_number(given) and len(given) <= len(str(most)) and 1 <= int(given) <= most):
        raise OpenAIError(f"'limit' must be a number from 1 to {most:,}.", param="limit", code="invalid_value")
    return int(given)


def list_body(objects: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page as OpenAI writes it."""
    ids = [one["id"] for one in objects] or [None]
    return {"object": "list", "data": objects, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}
