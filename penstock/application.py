"""The application that the settings name: an application's own operations, or one forward of everything."""

from typing import Any

from penstock.forwarding.upstream import REST
from penstock.operations import Operations, load_application
from penstock.settings import Settings, require_app


def find_application(settings: Settings) -> Operations[Any]:
    """Raises Misconfigured, saying what is the matter. An upstream that is not there is not: operations wait for it."""
    if settings.upstream is None:
        return load_application(require_app(settings))
    secret = settings.upstream_authorization
    operations: Operations[Any] = Operations()
    operations.forward(
        f"/{REST}",
        to=settings.upstream,
        headers=settings.passed_headers,
        add_headers={"Authorization": secret.get_secret_value()} if secret else None,
        timeout_seconds=settings.upstream_timeout_seconds,
        max_attempts=settings.upstream_max_attempts,
        max_result_bytes=settings.upstream_result_bytes,
    )
    return operations
