"""Secrets and signatures of Standard Webhooks 1.0. Pure.

A secret is derived from PENSTOCK_WEBHOOK_SECRET, the owner and a version. So the table has no secret.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable

SECRET_BYTES = 24
PREFIX = "whsec_"


def derive_secret(master: str, owner: str, version: int) -> str:
    """Return the secret of an owner, which is an endpoint, or a tenant for its callbacks."""
    digest = hmac.digest(master.encode(), f"{owner}\n{version}".encode(), hashlib.sha256)
    return PREFIX + base64.b64encode(digest[:SECRET_BYTES]).decode()


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature for each secret. A receiver accepts any of them."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets)


def headers_of(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id, timestamp, body),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
