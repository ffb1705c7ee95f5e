"""Describes webhook endpoints and deliveries."""

from penstock.service.openapi.answers import REJECTED, add_headers, answers_of, endpoint, problems
from penstock.service.openapi.values import (
    COUNT,
    OPTIONAL_TEXT,
    TEXT,
    TIME,
    Fragment,
    list_of,
    object_of,
    one_of,
    ref,
    schema_of,
    schema_of_changes,
)
from penstock.service.webhooks.endpoints import EndpointChange, EndpointRequest
from penstock.webhooks.delivery import DeliveryState
from penstock.webhooks.event import EventType

TAG: Fragment = {
    "name": "Webhooks",
    "description": "URLs that are told when a batch is final, and the deliveries to them.",
}
REQUESTS: Fragment = {
    "EndpointRequest": schema_of(EndpointRequest),
    "EndpointChange": schema_of_changes(EndpointChange),
}
_ENDPOINT_MEMBERS: Fragment = {
    "id": TEXT,
    "url": TEXT,
    "types": list_of(one_of(EventType)),
    "description": OPTIONAL_TEXT,
    "disabled": {"type": "boolean"},
    "disabledReason": OPTIONAL_TEXT,
    **dict.fromkeys(("createdAt", "disabledAt", "secretRotatedAt"), TIME),
}


def paths() -> Fragment:
    of_body = (400, 408, 413, 415, 422, 501, 503)
    of_endpoint = (400, 404, 408, 501, 503)
    path, on_endpoint = "/v1/webhook_endpoints", ["endpoint_id"]
    return {
        path: {
            "get": endpoint(
                "listWebhookEndpoints",
                "The webhook endpoints of the tenant",
                answers_of(200, "WebhookEndpoints", 501, 503),
            ),
            "post": endpoint(
                "createWebhookEndpoint",
                "Make a webhook endpoint. It gets the events of batches that are accepted from now on",
                answers_of(201, "NewWebhookEndpoint", 409, *of_body),
                body="EndpointRequest",
            ),
        },
        f"{path}/{{endpoint_id}}": {
            "get": endpoint(
                "getWebhookEndpoint",
                "A webhook endpoint",
                answers_of(200, "WebhookEndpoint", *of_endpoint),
                on_endpoint,
            ),
            "patch": endpoint(
                "changeWebhookEndpoint",
                "Change a webhook endpoint",
                answers_of(200, "WebhookEndpoint", 404, 412, *of_body),
                on_endpoint,
                body="EndpointChange",
            ),
            "delete": endpoint(
                "deleteWebhookEndpoint",
                "Delete a webhook endpoint. What is still to be delivered to it fails",
                {"204": {"description": "It is deleted."}, **problems(*of_endpoint)},
                on_endpoint,
            ),
        },
        f"{path}/{{endpoint_id}}/secret": {
            "get": endpoint(
                "getWebhookSecret",
                "The secret of a webhook endpoint. The id `callback` is for the callbackUrl of all batches",
                answers_of(200, "WebhookSecret", *of_endpoint),
                on_endpoint,
            )
        },
        f"{path}/{{endpoint_id}}/rotate_secret": {
            "post": endpoint(
                "rotateWebhookSecret",
                "Replace the secret of a webhook endpoint. Events are signed with both for 24 hours",
                answers_of(200, "WebhookSecret", 409, *of_endpoint),
                on_endpoint,
            )
        },
        f"{path}/{{endpoint_id}}/test": {
            "post": endpoint(
                "testWebhookEndpoint",
                "Send an event of the type webhook.test",
                answers_of(202, "WebhookDelivery", 409, *of_endpoint),
                on_endpoint,
            )
        },
        **_paths_of_deliveries(),
        "/webhooks/deliveries/{delivery_id}/replay": {
            "post": endpoint(
                "replayDelivery",
                "Send an event again",
                answers_of(202, "WebhookDelivery", 409, *of_endpoint),
                ["delivery_id"],
            )
        },
    }


def paths_for_operators() -> Fragment:
    return _paths_of_deliveries(*REJECTED)


def _paths_of_deliveries(*errors: int) -> Fragment:
    answers = answers_of(200, "WebhookDeliveries", 400, *errors, 501, 503)
    add_headers(answers["200"], "Link")
    return {
        "/webhooks/deliveries": {
            "get": endpoint(
                "listDeliveries",
                "Deliveries of events, the newest first",
                answers,
                ["limit", "cursor", "tenant_of_deliveries"],
            )
        }
    }


SCHEMAS: Fragment = {
    "WebhookEndpoint": object_of(_ENDPOINT_MEMBERS),
    "WebhookEndpoints": object_of({"endpoints": list_of(ref("WebhookEndpoint"))}),
    "NewWebhookEndpoint": object_of({**_ENDPOINT_MEMBERS, "secret": TEXT}),
    "WebhookSecret": object_of({"id": TEXT, "secret": TEXT, "secretRotatedAt": TIME}),
    "WebhookDelivery": object_of(
        {
            **dict.fromkeys(("id", "eventId", "endpointId", "type"), TEXT),
            "batchId": OPTIONAL_TEXT,
            "state": one_of(DeliveryState),
            "attempts": COUNT,
            **dict.fromkeys(("createdAt", "attemptedAt", "nextAttemptAt"), TIME),
            "status": {"description": "The status of the last response.", "type": ["integer", "null"]},
            "error": {"description": "Why there was no response, or is no further attempt.", **OPTIONAL_TEXT},
        },
        {"response": {"description": "The beginning of the last response, for operators only.", **TEXT}},
    ),
    "WebhookDeliveries": object_of(
        {"deliveries": list_of(ref("WebhookDelivery")), "nextCursor": {"type": ["string", "null"]}}
    ),
}

PARAMETERS: Fragment = {
    "endpoint_id": {"name": "endpoint_id", "in": "path", "required": True, "schema": TEXT},
    "delivery_id": {"name": "delivery_id", "in": "path", "required": True, "schema": TEXT},
    "tenant_of_deliveries": {
        "name": "tenant",
        "in": "query",
        "description": "The deliveries of this tenant. This needs the scope operate.",
        "schema": TEXT,
    },
}
