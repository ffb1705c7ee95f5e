"""/webhooks/deliveries: what was sent to the receivers of a tenant, and to send it again.

Only operators see what a receiver has answered. A tenant chooses the URL, so it must not read with it what is inside.
"""

import re
import secrets
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from penstock.api_key import Scope
from penstock.errors import MalformedRequest, UnknownDelivery, WebhookConflict
from penstock.service.audit import Action, auditing
from penstock.service.base_url import public_url
from penstock.service.caller import is_tenant, tenant_of
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CALLER, CLOCK, SETTINGS
from penstock.service.paging import read_limit, read_once
from penstock.service.public_urls import path_in_app
from penstock.service.schemas import time_text
from penstock.webhooks.delivery import KEPT_SECONDS, DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.event import TEST_TYPE, body_of_test, event_id

PAGE = 100  # each delivery has its body, of up to 20 KB
MOST_TESTS = 5  # of an endpoint that are pending
_ID = re.compile(r"evt_[0-9a-f]{32}\.(callback|we_[0-9a-f]{24})")


async def list_deliveries(request: web.Request) -> web.Response:
    """Answer with a page of deliveries, the newest first. Operators can ask for those of any tenant."""
    request.app[SETTINGS].require_webhook_secrets()
    _check_names(request)
    limit, cursor = min(read_limit(request) or PAGE, PAGE), _read_cursor(request)
    found = await request.app[BACKEND].store.list_deliveries(_tenant(request), cursor, limit + 1)
    page, following = found[:limit], found[limit - 1].id if len(found) > limit else None
    headers = {}
    if following is not None:
        query = urlencode({**request.query, "cursor": following})
        headers["Link"] = f'<{public_url(path_in_app(request))}?{query}>; rel="next"'
    answers = [delivery_body(delivery, for_operator=_is_operator(request)) for delivery in page]
    return json_answer({"deliveries": answers, "nextCursor": following}, headers=headers)


async def replay_delivery(request: web.Request) -> web.Response:
    """Answer 202 with the delivery, whose schedule starts again."""
    request.app[SETTINGS].require_webhook_secrets()
    await check_no_options(request)
    store, key = request.app[BACKEND].store, DeliveryKey(tenant_of(request), request.match_info["delivery_id"])
    found = await store.read_delivery(key) if _ID.fullmatch(key.id) else None
    if found is None:
        raise UnknownDelivery
    now = request.app[CLOCK].now()
    with auditing(request, Action.REPLAY_WEBHOOK, delivery_id=key.id):
        replayed = await store.replay_delivery(key, now, max(found.expires_at, now + KEPT_SECONDS))
        if replayed is None:
            raise WebhookConflict("The delivery is pending, so it is attempted anyway.")
    return json_answer(delivery_body(replayed), status=202)


async def check_few_tests(request: web.Request, endpoint_id: str) -> None:
    """Raise WebhookConflict if several of the tenant's last deliveries are tests of this endpoint that are pending."""
    newest = await request.app[BACKEND].store.list_deliveries(tenant_of(request), None, PAGE)
    tests = [one for one in newest if one.type == TEST_TYPE and one.endpoint_id == endpoint_id]
    if sum(one.state is DeliveryState.PENDING for one in tests) >= MOST_TESTS:
        raise WebhookConflict(
            f"{MOST_TESTS} tests of this endpoint are pending. Wait until they are delivered or fail."
        )


def new_delivery_of_test(tenant: str, endpoint_id: str, now: float) -> EventDelivery:
    id_ = event_id(now, secrets.token_hex(10))
    return EventDelivery(
        tenant=tenant,
        event_id=id_,
        endpoint_id=endpoint_id,
        type=TEST_TYPE,
        body=body_of_test(id_, now),
        created_at=now,
        expires_at=now + KEPT_SECONDS,
        due_at=now,
    )


def delivery_body(delivery: EventDelivery, *, for_operator: bool = False) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "eventId": delivery.event_id,
        "endpointId": delivery.endpoint_id,
        "type": delivery.type,
        "batchId": delivery.batch_id,
        "state": delivery.state,
        "attempts": delivery.attempt,
        "createdAt": time_text(delivery.created_at),
        "attemptedAt": time_text(delivery.attempted_at),
        "nextAttemptAt": time_text(delivery.due_at),
        "status": delivery.status,
        "error": delivery.error,
        **({"response": delivery.response} if for_operator else {}),
    }


def _is_operator(request: web.Request) -> bool:
    return Scope.OPERATE in request[CALLER].scopes


def _tenant(request: web.Request) -> str:
    tenant = read_once(request, "tenant")
    if tenant is None:
        return tenant_of(request)
    if not is_tenant(tenant) or not request[CALLER].may_see(tenant):
        raise MalformedRequest("Only operators can name a tenant. Send the request without it.")
    return tenant


def _read_cursor(request: web.Request) -> str | None:
    cursor = read_once(request, "cursor")
    if cursor is not None and _ID.fullmatch(cursor) is None:
        raise MalformedRequest("Invalid cursor. Use the nextCursor of an earlier page.")
    return cursor


def _check_names(request: web.Request) -> None:
    unknown = sorted(set(request.query) - {"limit", "cursor", "tenant"})
    if unknown:
        raise MalformedRequest(f"Unknown parameter {unknown[0]!r}. Use limit, cursor or tenant.")
