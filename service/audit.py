"""Logs and counts who did what: each change by an operator or a client, and each request that was rejected.

The line has the event `audit`, the `action`, the tenant and the id of the key. It never has a key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from aiohttp import web

from penstock.errors import InvalidRequest, NotPossibleNow, WebhookConflict
from penstock.service.caller import key_id_or_none, tenant_or_none
from penstock.service.keys import CALLER, METER, PRESENTED_KEY_ID
from penstock.service.problems import Endpoint
from penstock.service.request_ids import request_id
from penstock.telemetry import Event, get_log

_REJECTED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}


class Action(StrEnum):
    """What was done."""

    CREATE_KEY = "create key"
    ROTATE_KEY = "rotate key"
    REVOKE_KEY = "revoke key"
    CREATE_UPLOAD = "create upload"
    DELETE_UPLOAD = "delete upload"
    CANCEL = "cancel"
    EXPORT = "export"
    STEER = "steer"
    CREATE_WEBHOOK = "create webhook"
    UPDATE_WEBHOOK = "update webhook"
    DELETE_WEBHOOK = "delete webhook"
    ROTATE_WEBHOOK_SECRET = "rotate webhook secret"  # noqa: S105 - the name of an action
    TEST_WEBHOOK = "test webhook"
    REPLAY_WEBHOOK = "replay webhook"
    RETRY = "retry"
    REDRIVE = "redrive"
    PAUSE_QUEUE = "pause queue"
    RESUME_QUEUE = "resume queue"
    REJECTED = "rejected"


@contextmanager
def auditing(request: web.Request, action: Action, **fields: Any) -> Iterator[dict[str, Any]]:
    """Log and count an action of the caller at the end of the block. `fields` say on what; the block may add some.

    If the block fails, the line has the error: AWS may have done the action, or a part of it.
    """
    try:
        yield fields
    except (InvalidRequest, NotPossibleNow, WebhookConflict):
        raise  # nothing has changed
    except BaseException as error:
        _log_action(request, action, **fields, error=type(error).__name__)
        raise
    _log_action(request, action, **fields)


def _log_action(request: web.Request, action: Action, **fields: Any) -> None:
    request.app[METER].acted(tenant_or_none(request), action.value)
    _log(request, action, **fields)


def _log(request: web.Request, action: Action, **fields: Any) -> None:
    get_log().info(
        Event.AUDIT,
        action=action.value,
        tenant=tenant_or_none(request),
        key_id=key_id_or_none(request),
        request_id=request_id(request),
        **fields,
    )


@web.middleware
async def audited(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Log and count each answer that rejects a caller: 401, 403 and 429."""
    answer = await handler(request)
    if answer.status in _REJECTED:
        resource = request.match_info.route.resource
        request.app[METER].rejected(tenant_or_none(request), answer.status)
        _log(
            request,
            Action.REJECTED,
            status=answer.status,
            method=request.method,
            route=None if resource is None else resource.canonical,
            batch_id=request.match_info.get("batch_id"),
            **_presented(request),
        )
    return answer


def _presented(request: web.Request) -> dict[str, str]:
    """Return the id in a key that is not valid. Anybody can write such a key, so this does not prove who called."""
    key_id = request.get(PRESENTED_KEY_ID)
    return {"presented_key_id": key_id} if key_id and CALLER not in request else {}
