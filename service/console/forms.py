"""Reads the forms of the pages."""

from urllib.parse import parse_qsl

from aiohttp import web

from penstock.errors import MalformedRequest
from penstock.service.content import check_type, read_content

FORM = "application/x-www-form-urlencoded"
MOST_BYTES = 65_536
MOST_FIELDS = 100


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form. If a field is there more than once, its last value counts."""
    return dict(await read_fields(request))


async def read_choice_field(request: web.Request, name: str) -> str | None:
    """Return the only field that a form may have, or None without it: then the request acts on everything.

    Raises MalformedRequest if there is anything else. Ignored, it would be a choice that the request does not keep to.
    """
    form = await read_form(request)
    if request.query or form.keys() - {name}:
        raise MalformedRequest("The form has a field that is unknown here. Reload the page and try it again.")
    return form.get(name)


async def read_fields(request: web.Request) -> list[tuple[str, str]]:
    if not request.can_read_body:
        return []
    check_type(request, [FORM])
    content = bytes(await read_content(request, MOST_BYTES))
    try:
        return parse_qsl(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise MalformedRequest("The form cannot be read. Reload the page and try it again.") from error


def to_number(text: str) -> int | str | None:
    """Return the number that a person wrote, None for an empty field, or the text, which the API then rejects."""
    text = text.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) < 16
    return int(text) if is_number else text or None
