"""POST /keys, GET /keys, POST /keys/{id}/rotate and DELETE /keys/{id}: make, list, replace and revoke API keys.

These endpoints are for operators. A key is in one answer only, the one that it was made for.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from penstock.api_key import DAY_SECONDS, ApiKey, NewKey, Scope, environment_of, is_key_id, make_key
from penstock.errors import Flaw, InvalidRequest, KeyEnded, KeyReplaced, UnknownApiKey
from penstock.open_limit import MOST_OPERATIONS
from penstock.quota import Quota
from penstock.service.audit import Action, auditing
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.service.models import check_no_query, read_model
from penstock.service.schemas import Time, time_text

OVERLAP_SECONDS = DAY_SECONDS  # how long a replaced key still works, if the request does not say
LONGEST_OVERLAP_SECONDS = 30 * DAY_SECONDS
LONGEST_LIFE_SECONDS = 36_525 * DAY_SECONDS  # 100 years: every client can read the time of the end
_SECRET = {"Cache-Control": "no-store"}


def _check_limit(text: str) -> str:
    return str(Quota.parse(text))


class KeyRequest(BaseModel):
    """A new key: for whom, and what it allows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tenant: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")]
    scopes: Annotated[list[Literal["write", "read", "operate"]], Field(min_length=1, max_length=3)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    expiresAt: Time | None = None  # noqa: N815 - the name in the JSON
    limit: Annotated[str, AfterValidator(_check_limit)] | None = None
    maxOpen: Annotated[int, Field(ge=1, le=MOST_OPERATIONS)] | None = None  # noqa: N815 - the name in the JSON


class RotateRequest(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlapSeconds: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP_SECONDS)] = OVERLAP_SECONDS  # noqa: N815
    expiresAt: Time | None = None  # noqa: N815


async def create_key(request: web.Request) -> web.Response:
    """Answer 201 with a new key."""
    made, key = await create(request, await read_model(request, KeyRequest))
    return json_answer(_with_text(made, key), status=201, headers=_SECRET)


async def create(request: web.Request, wanted: KeyRequest) -> tuple[NewKey, ApiKey]:
    """Make a key. Raises InvalidRequest if it would have no use."""
    made, now = _make(request), request.app[CLOCK].now()
    _check_has_no_key(request, wanted)
    _check_end(wanted.expiresAt, now)
    _check_limits(wanted)
    key = ApiKey(
        id=made.id,
        digest=made.digest,
        tenant=wanted.tenant,
        scopes=frozenset(map(Scope, wanted.scopes)),
        created_at=now,
        name=wanted.name,
        limit=wanted.limit,
        max_open=wanted.maxOpen,
        expires_at=wanted.expiresAt,
    )
    with auditing(request, Action.CREATE_KEY, **_subject(key)):
        await request.app[BACKEND].store.create_api_key(key)
    return made, key


async def list_keys(request: web.Request) -> web.Response:
    """Answer with all keys, without their texts."""
    keys = await request.app[BACKEND].store.list_api_keys()
    return json_answer({"keys": [key_body(key) for key in keys]})


async def rotate_key(request: web.Request) -> web.Response:
    """Answer 201 with a new key for the same tenant and scopes. The old one works until the overlap is over."""
    check_no_query(request)
    wanted = await read_model(request, RotateRequest) if request.can_read_body else RotateRequest()
    made, new, replaced = await replace_key(request, wanted)
    return json_answer({**_with_text(made, new), "replaces": key_body(replaced)}, status=201, headers=_SECRET)


async def replace_key(request: web.Request, wanted: RotateRequest) -> tuple[NewKey, ApiKey, ApiKey]:
    """Make a key that replaces the one in the path. Return its text, the new key, and the old one.

    Raises KeyEnded, KeyReplaced or InvalidRequest.
    """
    old, now = await _find(request), request.app[CLOCK].now()
    if old.revoked_at is not None or old.has_expired(now):
        raise KeyEnded(f"The key {old.id} has ended, so it cannot be replaced. Make a new key with POST /keys.")
    if old.replaced_by is not None:  # it was shortened, so a second new key would end too early
        raise KeyReplaced(old.id, old.replaced_by)
    _check_end(wanted.expiresAt, now)
    made, store = _make(request), request.app[BACKEND].store
    new = replace(
        old,
        id=made.id,
        digest=made.digest,
        created_at=now,
        expires_at=wanted.expiresAt or _end_after_same_life(old, now),
        used_at=None,
    )
    overlap_end = now + wanted.overlapSeconds
    with auditing(request, Action.ROTATE_KEY, **_subject(new), replaces=old.id):
        await store.create_api_key(new)
        await store.replace_api_key(old, new.id, min(overlap_end, old.expires_at or overlap_end))
    return made, new, await store.find_api_key(old.digest) or old


async def revoke_key(request: web.Request) -> web.Response:
    """Answer with the revoked key. A second call gives the same answer."""
    await check_no_options(request)
    key, store = await _find(request), request.app[BACKEND].store
    with auditing(request, Action.REVOKE_KEY, **_subject(key)):
        await store.revoke_api_key(key, request.app[CLOCK].now())
    return json_answer(key_body(await store.find_api_key(key.digest) or key))


def key_body(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": [scope for scope in Scope if scope in key.scopes],
        "name": key.name,
        "limit": key.limit,
        "maxOpen": key.max_open,
        "createdAt": time_text(key.created_at),
        "expiresAt": time_text(key.expires_at),
        "revokedAt": time_text(key.revoked_at),
        "lastUsedAt": time_text(key.used_at),
    }


def _with_text(made: NewKey, key: ApiKey) -> dict[str, Any]:
    return {"id": key.id, "key": made.text, **key_body(key)}


def _subject(key: ApiKey) -> Mapping[str, Any]:
    return {"of_key": key.id, "of_tenant": key.tenant, "scopes": sorted(scope.value for scope in key.scopes)}


def _make(request: web.Request) -> NewKey:
    return make_key(environment_of(request.app[SETTINGS].name))


async def _find(request: web.Request) -> ApiKey:
    key_id = request.match_info["key_id"]
    key = await request.app[BACKEND].store.read_api_key(key_id) if is_key_id(key_id) else None
    if key is None:
        raise UnknownApiKey
    return key


def _check_has_no_key(request: web.Request, wanted: KeyRequest) -> None:
    """Raise InvalidRequest if the tenant or the name has a key: the list of keys would show it."""
    finds_key = request.app[SETTINGS].redaction.finds_key
    texts = {"/tenant": wanted.tenant, "/name": wanted.name or ""}
    with_key = [pointer for pointer, text in texts.items() if finds_key(text)]
    if with_key:
        raise InvalidRequest([Flaw(pointer, "This has a key. Use another text.") for pointer in with_key])


def _end_after_same_life(old: ApiKey, now: float) -> float | None:
    """Return when a new key ends that lives as long as the old one was made for, or None if that has no end."""
    if old.expires_at is None:
        return None
    return now + min(old.expires_at - old.created_at, LONGEST_LIFE_SECONDS)


def _check_limits(wanted: KeyRequest) -> None:
    """Raise InvalidRequest if a key has a limit without effect."""
    if Scope.OPERATE not in wanted.scopes:
        return
    limits = {"limit": wanted.limit, "maxOpen": wanted.maxOpen}
    detail = "A key with the scope operate has no limits. Remove this one, or the scope."
    if flaws := [Flaw(f"/{name}", detail) for name, limit in limits.items() if limit is not None]:
        raise InvalidRequest(flaws)


def _check_end(at: float | None, now: float) -> None:
    if at is None:
        return
    if at <= now:
        raise InvalidRequest([Flaw("/expiresAt", "This time is over. Use a time in the future.")])
    if at > now + LONGEST_LIFE_SECONDS:
        raise InvalidRequest(
            [Flaw("/expiresAt", "This is more than 100 years from now. Use an earlier time, or none.")]
        )
