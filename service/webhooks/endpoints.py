"""/v1/webhook_endpoints: the URLs that get the events of a tenant's batches.

The secret of an endpoint is derived, so it can be shown again. The endpoint `callback` stands for the `callbackUrl` of
batches: it only has a secret.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from penstock.errors import Flaw, InvalidRequest, UnknownEndpoint, WebhookConflict
from penstock.service.audit import Action, auditing
from penstock.service.caller import tenant_of
from penstock.service.content import check_no_options, check_no_tags
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS, WEBHOOK_TENANTS
from penstock.service.models import read_model
from penstock.service.receivers import check_receiver
from penstock.service.schemas import time_text
from penstock.service.webhooks.deliveries import check_few_tests, delivery_body, new_delivery_of_test
from penstock.settings import Settings
from penstock.webhooks.endpoint import CALLBACK, MOST_ENDPOINTS, MOST_ROTATIONS, Endpoint, Endpoints
from penstock.webhooks.event import EventType
from penstock.webhooks.urls import LONGEST_URL

_SECRET = {"Cache-Control": "no-store"}
_Url = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)]
_Type = Annotated[EventType, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(EventType)})]
_Types = Annotated[list[_Type], Field(min_length=1, max_length=len(EventType))]
_Description = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class EndpointRequest(BaseModel):
    """A new endpoint. Without `types` it gets all events."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: _Url
    types: _Types | None = None
    description: _Description | None = None


class EndpointChange(BaseModel):
    """Changes of an endpoint. A member that is absent changes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: _Url = ""
    types: _Types = Field(default_factory=list)
    description: _Description | None = None
    disabled: bool = False


async def create_endpoint(request: web.Request) -> web.Response:
    """Answer 201 with a new endpoint and its secret."""
    wanted = await read_model(request, EndpointRequest)
    settings, now, tenant = request.app[SETTINGS], request.app[CLOCK].now(), tenant_of(request)
    _check_url(wanted.url, settings)
    endpoint = Endpoint(
        id=f"we_{secrets.token_hex(12)}",
        url=wanted.url,
        created_at=now,
        types=frozenset(wanted.types or EventType),
        description=wanted.description,
    )
    with auditing(request, Action.CREATE_WEBHOOK, endpoint_id=endpoint.id):
        await request.app[WEBHOOK_TENANTS].add(tenant)
        await _change(request, lambda endpoints: _with_another(endpoints, endpoint))
    return json_answer(_with_secret(request, endpoint), status=201, headers=_SECRET)


async def list_endpoints(request: web.Request) -> web.Response:
    """Answer with all endpoints of the tenant, without their secrets."""
    request.app[SETTINGS].require_webhook_secrets()
    endpoints = await request.app[BACKEND].store.read_endpoints(tenant_of(request))
    return json_answer({"endpoints": [endpoint_body(endpoint) for endpoint in endpoints.own]})


async def show_endpoint(request: web.Request) -> web.Response:
    return json_answer(endpoint_body(await _find(request)))


async def update_endpoint(request: web.Request) -> web.Response:
    """Answer with the changed endpoint. `disabled: false` enables one that had answered 410."""
    wanted = await read_model(request, EndpointChange)
    now, changes = request.app[CLOCK].now(), wanted.model_fields_set
    if "url" in changes:
        _check_url(wanted.url, request.app[SETTINGS])

    def apply(endpoint: Endpoint) -> Endpoint:
        given = {name: getattr(wanted, name) for name in changes - {"disabled", "types"}}
        given |= {"types": frozenset(wanted.types)} if "types" in changes else {}
        changed = replace(endpoint, **given)
        if "disabled" not in changes:
            return changed
        return changed.disabled(now) if wanted.disabled else changed.enabled()

    await _find(request)
    check_no_tags(request)
    with auditing(request, Action.UPDATE_WEBHOOK, endpoint_id=_id(request), members=sorted(changes)):
        changed = await _change_one(request, apply)
    return json_answer(endpoint_body(changed))


async def delete_endpoint(request: web.Request) -> web.Response:
    """Answer 204. What is still to be delivered to the endpoint fails."""
    await check_no_options(request)
    await _find(request)
    with auditing(request, Action.DELETE_WEBHOOK, endpoint_id=_id(request)):
        await _change(request, lambda endpoints: endpoints.without(_id(request)))
    return web.Response(status=204)


async def show_secret(request: web.Request) -> web.Response:
    """Answer with the secret of an endpoint, or with that of all callbacks."""
    return json_answer(_secret_body(request, await _find(request, callback=True)), headers=_SECRET)


async def rotate_secret(request: web.Request) -> web.Response:
    """Answer with a new secret. For 24 hours, events are signed with the old one, too."""
    await check_no_options(request)
    await _find(request, callback=True)
    now = request.app[CLOCK].now()
    with auditing(request, Action.ROTATE_WEBHOOK_SECRET, endpoint_id=_id(request)):
        rotated = await _change_one(request, lambda endpoint: _rotated(endpoint, now))
    return json_answer(_secret_body(request, rotated), headers=_SECRET)


def _rotated(endpoint: Endpoint, now: float) -> Endpoint:
    if len(endpoint.still_valid(now)) >= MOST_ROTATIONS:
        raise WebhookConflict(f"A secret can be rotated {MOST_ROTATIONS} times in 24 hours. Wait before the next one.")
    return endpoint.rotated(now)


async def send_test(request: web.Request) -> web.Response:
    """Answer 202 with the delivery of an event of the type webhook.test, which consumers send in a few seconds."""
    await check_no_options(request)
    endpoint, now = await _find(request), request.app[CLOCK].now()
    if not endpoint.is_enabled:
        raise WebhookConflict("The endpoint is disabled. Enable it before you send a test.")
    await check_few_tests(request, endpoint.id)
    delivery = new_delivery_of_test(tenant_of(request), endpoint.id, now)
    with auditing(request, Action.TEST_WEBHOOK, endpoint_id=endpoint.id):
        await request.app[BACKEND].store.create_delivery(delivery)
    return json_answer(delivery_body(delivery), status=202)


def endpoint_body(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "types": [kind for kind in EventType if kind in endpoint.types],
        "description": endpoint.description,
        "disabled": not endpoint.is_enabled,
        "disabledAt": time_text(endpoint.disabled_at),
        "disabledReason": endpoint.disabled_reason,
        "createdAt": time_text(endpoint.created_at),
        "secretRotatedAt": time_text(endpoint.rotated_at),
    }


def _with_secret(request: web.Request, endpoint: Endpoint) -> Mapping[str, Any]:
    return {**endpoint_body(endpoint), "secret": _secret(request, endpoint)}


def _secret_body(request: web.Request, endpoint: Endpoint) -> Mapping[str, Any]:
    return {
        "id": endpoint.id,
        "secret": _secret(request, endpoint),
        "secretRotatedAt": time_text(endpoint.rotated_at),
    }


def _secret(request: web.Request, endpoint: Endpoint) -> str:
    known = request.app[SETTINGS].require_webhook_secrets()
    return known.current(tenant_of(request), endpoint)


def _id(request: web.Request) -> str:
    return request.match_info["endpoint_id"]


async def _find(request: web.Request, *, callback: bool = False) -> Endpoint:
    """Return the endpoint in the path. Raises UnknownEndpoint if it does not exist, or is another tenant's."""
    request.app[SETTINGS].require_webhook_secrets()
    endpoint = (await request.app[BACKEND].store.read_endpoints(tenant_of(request))).find(_id(request))
    if endpoint is None or (endpoint.id == CALLBACK and not callback):
        raise UnknownEndpoint
    return endpoint


async def _change_one(request: web.Request, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
    changed = await _change(request, lambda endpoints: endpoints.with_endpoint(change(_existing(endpoints, request))))
    return _existing(changed, request)


def _existing(endpoints: Endpoints, request: web.Request) -> Endpoint:
    endpoint = endpoints.find(_id(request))
    if endpoint is None:  # another request has deleted it meanwhile
        raise UnknownEndpoint
    return endpoint


async def _change(request: web.Request, change: Callable[[Endpoints], Endpoints]) -> Endpoints:
    """Write changed endpoints. If another call has written them meanwhile, change what it has written."""
    store, tenant = request.app[BACKEND].store, tenant_of(request)
    while True:
        changed = change(await store.read_endpoints(tenant))
        if await store.write_endpoints(changed, secrets.token_hex(8)):
            return changed


def _with_another(endpoints: Endpoints, endpoint: Endpoint) -> Endpoints:
    if len(endpoints.own) >= MOST_ENDPOINTS:
        raise WebhookConflict(f"A tenant can have {MOST_ENDPOINTS} endpoints. Delete one of them first.")
    return endpoints.with_endpoint(endpoint)


def _check_url(url: str, settings: Settings) -> None:
    settings.require_webhook_secrets()
    try:
        check_receiver(url, settings)
    except ValueError as error:
        raise InvalidRequest([Flaw("/url", f"{error}.")]) from None
