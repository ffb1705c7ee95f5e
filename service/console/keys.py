"""GET and POST /console/keys, POST /console/keys/{id}/rotate and /revoke: the keys of all tenants."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from penstock.api_key import ApiKey, NewKey
from penstock.documents.validation import errors_of
from penstock.errors import Flaw, InvalidRequest
from penstock.reading.flaws import to_flaw
from penstock.service.console.forms import read_fields, to_number
from penstock.service.console.rendering import back_to, page
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.operators import api_keys

HOME = "/console/keys"
_TENANT = "Write 1 to 128 letters, digits or signs of ASCII, without spaces."


async def show(request: web.Request) -> web.Response:
    return await _page(request)


async def create(request: web.Request) -> web.Response:
    """Answer with the page that shows the new key. It is the only page that has it."""
    document = _document(await read_fields(request), request.app[CLOCK].now())
    try:
        wanted = api_keys.KeyRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest([_in_words(to_flaw(one, document)) for one in errors_of(error)]) from error
    made, key = await api_keys.create(request, wanted)
    return await _page(request, made, key)


async def rotate(request: web.Request) -> web.Response:
    """Answer with the page that shows the new key. The old one works for a day more."""
    made, key, _ = await api_keys.replace_key(request, api_keys.RotateRequest())
    return await _page(request, made, key)


async def revoke(request: web.Request) -> web.Response:
    await api_keys.revoke_key(request)
    return back_to(HOME, "revoked")


async def _page(request: web.Request, made: NewKey | None = None, of: ApiKey | None = None) -> web.Response:
    keys = await request.app[BACKEND].store.list_api_keys()
    now = request.app[CLOCK].now()
    rows = [{**api_keys.key_body(key), "state": _state(key, now), "replacedBy": key.replaced_by} for key in keys]
    rows.sort(key=lambda row: (row["state"] != "valid", row["tenant"], row["createdAt"]))
    return page(request, "keys.html", keys=rows, made=None if made is None else made.text, of=of)


def _in_words(flaw: Flaw) -> Flaw:
    """Return the error as a person reads it: the pattern of a tenant says little to most people."""
    return replace(flaw, detail=_TENANT) if flaw.pointer == "/tenant" else flaw


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.has_expired(now) else "valid"


def _document(fields: list[tuple[str, str]], now: float) -> dict[str, Any]:
    """Return the fields of the form as the API expects them. A field without text is left out."""
    given: Mapping[str, str] = {name: text for name, value in fields if (text := value.strip()) and name != "scope"}
    document: dict[str, Any] = {"scopes": [value for name, value in fields if name == "scope"]}
    for name, text in given.items():
        if name == "days":
            document["expiresAt"] = _in_days(text, now)
        elif name == "maxOpen":
            document[name] = to_number(text)
        else:
            document[name] = text
    return document


def _in_days(text: str, now: float) -> str:
    """Return the time in this number of days, or the text, which the API then rejects."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        return text
    return (datetime.fromtimestamp(now, UTC) + timedelta(days=int(text))).isoformat().replace("+00:00", "Z")
