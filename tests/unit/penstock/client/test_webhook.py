"""What `verify_webhook` accepts and rejects, compared with the library of the standard."""

import time
from collections.abc import Callable

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from penstock.client import InvalidWebhook, verify_webhook
from penstock.webhooks.signature import derive_secret, headers_of

SECRET = derive_secret("a master secret of thirty-two characters", "default", 1)
OTHER = derive_secret("a master secret of thirty-two characters", "default", 2)
BODY = b'{"id":"evt_1","type":"batch.completed","data":{}}'


def signed(seconds_ago: float = 0, *secrets: str) -> dict[str, str]:
    return headers_of(secrets or (SECRET,), "evt_1", int(time.time() - seconds_ago), BODY)


Headers = Callable[[], dict[str, str]]


@pytest.mark.parametrize(
    "headers",
    [
        signed,
        lambda: signed(0, OTHER, SECRET),  # while a secret is rotated, both sign
        lambda: signed(240),
        lambda: signed(-240),
        lambda: {name.title(): value for name, value in signed().items()},
    ],
)
def test_event_with_a_valid_signature_is_returned(headers: Headers) -> None:
    given = headers()
    assert verify_webhook(BODY, given, SECRET)["id"] == "evt_1"
    assert verify_webhook(BODY.decode(), given, SECRET) == Webhook(SECRET).verify(BODY, given)


@pytest.mark.parametrize(
    "headers",
    [
        dict,
        lambda: signed(0, OTHER),
        lambda: signed(360),
        lambda: signed(-360),
        lambda: {**signed(), "webhook-id": "evt_2"},
        lambda: {**signed(), "webhook-timestamp": "soon"},
        lambda: {**signed(), "webhook-timestamp": str(int(time.time()) - 1)},
        lambda: {**signed(), "webhook-signature": signed()["webhook-signature"].replace("v1,", "v2,")},
        lambda: {**signed(), "webhook-signature": "v1,AAAA"},
    ],
)
def test_event_without_one_is_rejected(headers: Headers) -> None:
    given = headers()
    with pytest.raises(InvalidWebhook):
        verify_webhook(BODY, given, SECRET)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-signature", "v1,é"),
        ("webhook-signature", "v1,A"),
        ("webhook-id", "evt_\udcff"),  # as a web framework shows a byte that is not UTF-8
        ("webhook-timestamp", "9" * 400),
        ("webhook-timestamp", "9" * 5_000),
        ("webhook-timestamp", "²"),
    ],
)
def test_hostile_header_is_rejected_like_any_invalid_one(name: str, value: str) -> None:
    with pytest.raises(InvalidWebhook):
        verify_webhook(BODY, {**signed(), name: value}, SECRET)


def test_changed_body_is_rejected() -> None:
    with pytest.raises(InvalidWebhook, match="No signature of the event"):
        verify_webhook(BODY + b" ", signed(), SECRET)


@pytest.mark.parametrize("make", [lambda: "whsec_*", lambda: "a secret"])
def test_secret_that_is_none_is_an_error_of_the_program(make: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match="should look like whsec_"):
        verify_webhook(BODY, signed(), make())


def test_signed_text_that_is_no_event() -> None:
    headers = headers_of((SECRET,), "evt_1", int(time.time()), b"[]")
    with pytest.raises(InvalidWebhook, match="not a JSON object"):
        verify_webhook(b"[]", headers, SECRET)
