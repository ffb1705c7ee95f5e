"""All endpoints of the HTTP program, and what a caller needs to use each of them.

The applications get their routes from this table (`app.py`), and the tests try each row as every kind of caller.
"""

from collections.abc import Iterable

from penstock.api_key import Scope
from penstock.service.batches.cancel import cancel_batch
from penstock.service.batches.exports import create_export, show_export
from penstock.service.batches.failures import batch_failures
from penstock.service.batches.listing import list_batches
from penstock.service.batches.rejected import rejected_rows
from penstock.service.batches.results import batch_results
from penstock.service.batches.retry import retry_batch
from penstock.service.batches.status import batch_status
from penstock.service.batches.steer import steer_batch
from penstock.service.console import (
    assets,
    batch,
    batches,
    dead_letters,
    docs,
    exports,
    failures,
    files,
    handlers,
    keys,
    outcomes,
    sign_in,
)
from penstock.service.dialects.registered import spoken
from penstock.service.events.endpoint import batch_events
from penstock.service.intake.planned import submit_file_or_batch
from penstock.service.openapi.serving import openapi
from penstock.service.operators.api_keys import create_key, list_keys, revoke_key, rotate_key
from penstock.service.operators.dead_letters import list_dead_letters, redrive_dead_letters
from penstock.service.operators.health import live, ready
from penstock.service.operators.limits import list_limits
from penstock.service.operators.metrics import metrics
from penstock.service.operators.queues import list_queues, pause_queue, resume_queue
from penstock.service.route import For, Route
from penstock.service.uploads import create_upload
from penstock.service.webhooks.deliveries import list_deliveries, replay_delivery
from penstock.service.webhooks.endpoints import (
    create_endpoint,
    delete_endpoint,
    list_endpoints,
    rotate_secret,
    send_test,
    show_endpoint,
    show_secret,
    update_endpoint,
)
from penstock.settings import Settings

ROUTES = (
    Route("POST", "/batch", submit_file_or_batch, Scope.WRITE),
    Route("POST", "/uploads", create_upload, Scope.WRITE),
    Route("GET", "/batches", list_batches, Scope.READ),
    Route("GET", "/batch/{batch_id}", batch_status, Scope.READ),
    Route("GET", "/batch/{batch_id}/status", batch_status, Scope.READ),
    Route("GET", "/batch/{batch_id}/results", batch_results, Scope.READ),
    Route("GET", "/batch/{batch_id}/rejected", rejected_rows, Scope.READ),
    Route("PATCH", "/batch/{batch_id}", steer_batch, Scope.WRITE),
    Route("GET", "/batch/{batch_id}/events", batch_events, Scope.READ),
    Route("GET", "/batch/{batch_id}/failures", batch_failures, Scope.READ),
    Route("POST", "/batch/{batch_id}/export", create_export, Scope.READ),
    Route("GET", "/batch/{batch_id}/exports/{export_id}", show_export, Scope.READ),
    Route("POST", "/batch/{batch_id}/cancel", cancel_batch, Scope.WRITE),
    Route("POST", "/batch/{batch_id}/retry", retry_batch, Scope.WRITE),
    Route("POST", "/v1/webhook_endpoints", create_endpoint, Scope.WRITE),
    Route("GET", "/v1/webhook_endpoints", list_endpoints, Scope.READ),
    Route("GET", "/v1/webhook_endpoints/{endpoint_id}", show_endpoint, Scope.READ),
    Route("PATCH", "/v1/webhook_endpoints/{endpoint_id}", update_endpoint, Scope.WRITE),
    Route("DELETE", "/v1/webhook_endpoints/{endpoint_id}", delete_endpoint, Scope.WRITE),
    Route("GET", "/v1/webhook_endpoints/{endpoint_id}/secret", show_secret, Scope.WRITE),
    Route("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret", rotate_secret, Scope.WRITE),
    Route("POST", "/v1/webhook_endpoints/{endpoint_id}/test", send_test, Scope.WRITE),
    Route("GET", "/webhooks/deliveries", list_deliveries, Scope.READ),
    Route("POST", "/webhooks/deliveries/{delivery_id}/replay", replay_delivery, Scope.WRITE),
    Route("GET", "/health/live", live, None),
    Route("GET", "/health/ready", ready, None),
    Route("GET", "/openapi.json", openapi, None),
    Route("GET", "/dead-letters", list_dead_letters, Scope.OPERATE, For.OPERATORS),
    Route("POST", "/dead-letters/redrive", redrive_dead_letters, Scope.OPERATE, For.OPERATORS),
    Route("GET", "/keys", list_keys, Scope.OPERATE, For.OPERATORS),
    Route("POST", "/keys", create_key, Scope.OPERATE, For.OPERATORS),
    Route("POST", "/keys/{key_id}/rotate", rotate_key, Scope.OPERATE, For.OPERATORS),
    Route("DELETE", "/keys/{key_id}", revoke_key, Scope.OPERATE, For.OPERATORS),
    Route("GET", "/limits", list_limits, Scope.OPERATE, For.OPERATORS),
    Route("GET", "/queues", list_queues, Scope.OPERATE, For.OPERATORS),
    Route("POST", "/queues/{priority}/pause", pause_queue, Scope.OPERATE, For.OPERATORS),
    Route("POST", "/queues/{priority}/resume", resume_queue, Scope.OPERATE, For.OPERATORS),
    Route("GET", "/metrics", metrics, Scope.OPERATE, For.OPERATORS),
    Route("GET", "/batches", list_batches, Scope.OPERATE, For.OPERATOR_LISTENER),
    Route("GET", "/webhooks/deliveries", list_deliveries, Scope.OPERATE, For.OPERATOR_LISTENER),
    Route("GET", "/openapi.json", openapi, None, For.OPERATOR_LISTENER),
    Route("GET", "/docs", docs.show, None, For.PAGES),
    Route("GET", "/console", batches.show, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}", batch.show, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}/failures", failures.show, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}/outcomes", outcomes.show, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}/results", outcomes.download, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}/rejected", outcomes.download_rejected, Scope.READ, For.PAGES),
    Route("GET", "/console/batch/{batch_id}/exports/{export_id}", exports.show, Scope.READ, For.PAGES),
    Route("POST", "/console/batch/{batch_id}/export", exports.create, Scope.READ, For.PAGES),
    Route("POST", "/console/batch/{batch_id}/cancel", batch.cancel, Scope.WRITE, For.PAGES),
    Route("POST", "/console/batch/{batch_id}/retry", batch.retry, Scope.WRITE, For.PAGES),
    Route("POST", "/console/batch/{batch_id}/change", batch.change, Scope.WRITE, For.PAGES),
    Route("GET", "/console/file", files.show, Scope.WRITE, For.PAGES),
    Route("POST", "/console/file", files.submit_file, Scope.WRITE, For.PAGES),
    Route("POST", "/console/file/look", files.look, Scope.WRITE, For.PAGES),
    Route("GET", "/console/key", sign_in.show, None, For.PAGES),
    Route("POST", "/console/key", sign_in.sign_in, None, For.PAGES),
    Route("POST", "/console/key/forget", sign_in.sign_out, None, For.PAGES),
    Route("GET", "/console/static/{digest}/{name}", assets.static, None, For.PAGES),
    Route("GET", "/console/dead-letters", dead_letters.show, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/dead-letters/redrive", dead_letters.redrive, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("GET", "/console/handlers", handlers.show, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/queues/{priority}/pause", handlers.pause, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/queues/{priority}/resume", handlers.resume, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("GET", "/console/keys", keys.show, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/keys", keys.create, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/keys/{key_id}/rotate", keys.rotate, Scope.OPERATE, For.OPERATOR_PAGES),
    Route("POST", "/console/keys/{key_id}/revoke", keys.revoke, Scope.OPERATE, For.OPERATOR_PAGES),
)


def routes_for_clients(settings: Settings) -> list[Route]:
    """Return the endpoints of the listener for clients, with those of the dialects that are spoken."""
    whom = {For.CLIENTS, For.PAGES} | ({For.OPERATORS} if settings.needs_keys else set())
    of_dialects = [route for dialect in spoken(settings) for route in dialect.routes]
    return [route for route in ROUTES if route.whom in whom] + of_dialects


def scopes_of(routes: Iterable[Route]) -> dict[tuple[str, str], Scope]:
    """Return the scope that each route needs, by its method and path."""
    return {(route.method, route.path): route.scope for route in routes if route.scope is not None}


def routes_for_operators() -> list[Route]:
    """Return the endpoints of the listener for operators."""
    return [route for route in ROUTES if route.whom is not For.CLIENTS]


def is_page(route: Route) -> bool:
    return route.whom in {For.PAGES, For.OPERATOR_PAGES}
