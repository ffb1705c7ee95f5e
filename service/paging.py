"""Reads the page that a client asks for from the query of its request."""

from aiohttp import web

from penstock.errors import MalformedRequest

LONGEST_PAGE = 10_000


def read_once(request: web.Request, name: str) -> str | None:
    """Return the value of a parameter of the query. Raise MalformedRequest if it is there more than once."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise MalformedRequest(f"The parameter {name} is in the query {len(values)} times. Send it once.")
    return values[0] if values else None


def is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def read_limit(request: web.Request, longest: int = LONGEST_PAGE) -> int | None:
    given = read_once(request, "limit")
    if given is None:
        return None
    if not (is_number(given) and len(given) < 8 and 1 <= int(given) <= longest):
        raise MalformedRequest(f"Invalid limit {given!r}. Use a number from 1 to {longest:,}.")
    return int(given)
