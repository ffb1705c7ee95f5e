"""One body verifies with the libraries of Standard Webhooks and of OpenAI alike."""

import base64
import json
import time
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from penstock.webhooks.endpoint import CALLBACK, ROTATION_SECONDS, Endpoint, Secrets
from penstock.webhooks.event import FinalEvent, body_of_batch
from penstock.webhooks.signature import headers_of
from tests.support.builders import build_batch

SECRETS = Secrets("the master secret of this test suite")
NOW = 1_700_000_000.0
ENDPOINT = Endpoint("we_1", "https://example.com", NOW)


def signed(*secrets: str) -> tuple[bytes, dict[str, str]]:
    event = FinalEvent("evt_1", "completed", NOW, (("succeeded", 2), ("failed", 0)))
    body = body_of_batch(event, build_batch(2), {"team": "b\u00fccher"})
    return body, headers_of(secrets, event.id, int(time.time()), body)


def test_secret_has_24_bytes_and_belongs_to_an_endpoint_and_a_version() -> None:
    secret = SECRETS.current("acme", ENDPOINT)
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 24
    others = {
        SECRETS.current("acme", ENDPOINT.rotated(NOW)),
        SECRETS.current("acme", Endpoint("we_2", "", NOW)),
        SECRETS.current("acme", Endpoint(CALLBACK, "", NOW)),
        SECRETS.current("other", Endpoint(CALLBACK, "", NOW)),
        Secrets("another master secret").current("acme", ENDPOINT),
    }
    assert len(others - {secret}) == 5
    assert secret == SECRETS.current("acme", ENDPOINT)


def test_master_is_never_shown() -> None:
    assert "master" not in repr(SECRETS).replace("Secrets(", "")


def test_receiver_verifies_with_standardwebhooks() -> None:
    secret = SECRETS.current("acme", ENDPOINT)
    body, headers = signed(secret)
    assert Webhook(secret).verify(body, headers)["type"] == "batch.completed"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS.current("acme", ENDPOINT.rotated(NOW))).verify(body, headers)


def test_after_a_rotation_both_secrets_work_for_a_day() -> None:
    rotated = ENDPOINT.rotated(NOW)
    old, new = SECRETS.current("acme", ENDPOINT), SECRETS.current("acme", rotated)
    assert SECRETS.valid("acme", rotated, NOW + ROTATION_SECONDS - 1) == [new, old]
    assert SECRETS.valid("acme", rotated, NOW + ROTATION_SECONDS) == [new]
    body, headers = signed(new, old)
    for secret in (old, new):
        Webhook(secret).verify(body, headers)


def test_every_secret_that_was_replaced_in_the_last_day_works() -> None:
    rotated = Endpoint.decode(json.loads(json.dumps(ENDPOINT.rotated(NOW).rotated(NOW + 60).encode())))
    assert len(SECRETS.valid("acme", rotated, NOW + 70)) == 3
    assert SECRETS.valid("acme", rotated, NOW + 70)[2] == SECRETS.current("acme", ENDPOINT)
    assert len(SECRETS.valid("acme", rotated, NOW + ROTATION_SECONDS)) == 2


@pytest.mark.full
def test_receiver_verifies_with_openai() -> None:
    import openai  # it takes most of a second

    secret = SECRETS.current("acme", ENDPOINT)
    body, headers = signed(secret)
    client = openai.OpenAI(api_key="none", webhook_secret=secret)
    event: Any = client.webhooks.unwrap(body, headers)
    assert (event.type, event.id, event.data.id) == ("batch.completed", "evt_1", json.loads(body)["data"]["id"])
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers)
