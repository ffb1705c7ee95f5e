"""Checks the URL of a receiver that a client names."""

from penstock.settings import Settings
from penstock.webhooks.urls import check_url


def check_receiver(url: str, settings: Settings) -> None:
    """Raise ValueError if no event may be sent to this URL. A key in it would be kept, and sent to the receiver."""
    if settings.redaction.finds_key(url):
        raise ValueError("The URL has a key of Penstock. Remove it")
    check_url(url, settings.webhook_targets)
