"""Reads the page size that a client asks for."""

from aiohttp import web

from penstock.errors import MalformedRequest

LONGEST_PAGE = 10_000


def read_limit(request: web.Request) -> int | None:
    given = request.query.get("limit")
    if given is None:
        return None
    if not (given.isdecimal() and len(given) < 8 and 1 <= int(given) <= LONGEST_PAGE):
        raise MalformedRequest(f"Invalid limit {given!r}. Use a number from 1 to {LONGEST_PAGE:,}.")
    return int(given)
