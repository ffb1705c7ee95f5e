"""Describes API keys."""

from penstock.api_key import Scope
from penstock.service.openapi.answers import REJECTED, answers_of, endpoint
from penstock.service.openapi.values import (
    OPTIONAL_TEXT,
    TEXT,
    TIME,
    Fragment,
    list_of,
    object_of,
    one_of,
    ref,
    schema_of,
)
from penstock.service.operators.api_keys import KeyRequest, RotateRequest

TAG: Fragment = {"name": "Keys", "description": "API keys. They need the scope `operate`."}
REQUESTS: Fragment = {"KeyRequest": schema_of(KeyRequest), "RotateRequest": schema_of(RotateRequest)}
_KEY_MEMBERS: Fragment = {
    "id": TEXT,
    "tenant": TEXT,
    "scopes": list_of(one_of(Scope)),
    "name": OPTIONAL_TEXT,
    "limit": OPTIONAL_TEXT,
    "maxOpen": {"type": ["integer", "null"], "minimum": 1},
    **dict.fromkeys(("createdAt", "expiresAt", "revokedAt", "lastUsedAt"), TIME),
}


def paths_for_operators() -> Fragment:
    of_body = (400, *REJECTED, 408, 413, 415, 422, 503)
    return {
        "/keys": {
            "get": endpoint(
                "listKeys", "All keys. Their texts are not stored", answers_of(200, "Keys", *REJECTED, 503)
            ),
            "post": endpoint("createKey", "Make a key", answers_of(201, "NewKey", *of_body), body="KeyRequest"),
        },
        "/keys/{key_id}/rotate": {
            "post": endpoint(
                "rotateKey",
                "Replace a key by a new one. The old one works until the overlap is over",
                answers_of(201, "RotatedKey", 404, 409, *of_body),
                ["key_id"],
                body="RotateRequest",
            )
        },
        "/keys/{key_id}": {
            "delete": endpoint(
                "revokeKey", "Revoke a key", answers_of(200, "Key", 400, *REJECTED, 404, 408, 503), ["key_id"]
            )
        },
    }


SCHEMAS: Fragment = {
    "Key": object_of(_KEY_MEMBERS),
    "Keys": object_of({"keys": list_of(ref("Key"))}),
    "NewKey": {
        "description": "A new key. `key` is its text, which no other answer has.",
        **object_of({**_KEY_MEMBERS, "key": TEXT}),
    },
    "RotatedKey": {
        "description": "A new key, and the one that it replaces, which works until its `expiresAt`.",
        **object_of({**_KEY_MEMBERS, "key": TEXT, "replaces": ref("Key")}),
    },
}

PARAMETERS: Fragment = {
    "key_id": {"name": "key_id", "in": "path", "required": True, "schema": TEXT},
}
