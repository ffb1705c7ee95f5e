"""Patches for all requests to moto: the cost of routing a request, and the memory that each request leaves behind.

They also fix a bug: moto parses every body as a form, so a message or an item whose text contains
`&Action=DeleteQueue&` deletes the queue.
"""

from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from moto.core import responses
from moto.core.utils import camelcase_to_underscores, method_names_from_class
from moto.dynamodb.models.dynamo_type import Item
from moto.dynamodb.models.table import Table
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sqs.models import Message


class Dispatcher(DomainDispatcherApplication):
    """moto's WSGI application with a cache of the service for each host name.

    moto itself lists its own folder and tries 170 patterns for each request.
    """

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self._services: dict[str | None, Any] = {}

    def get_backend_for_host(self, host: str | None) -> Any:
        if host not in self._services:
            self._services[host] = super().get_backend_for_host(host)
        return self._services[host]


def _form_fields(body: str, **options: Any) -> list[tuple[str, str]]:
    """Do not parse JSON as a form. moto gets the same result as for JSON without `&` and `=`."""
    return [(body, "")] if body.startswith("{") else parse_qsl(body, **options)


def untracked(kind: type, *_: Any, **__: Any) -> Any:
    """Create an object without tracking it. moto keeps each message, item and copy in a list for its dashboard."""
    return object.__new__(kind)


PATCHES: tuple[tuple[object, str, object], ...] = (
    (responses, "parse_qsl", _form_fields),
    (responses, "method_names_from_class", cache(method_names_from_class)),
    (responses, "camelcase_to_underscores", cache(camelcase_to_underscores)),
    (Message, "__new__", staticmethod(untracked)),
    (Item, "__new__", staticmethod(untracked)),
    (Table, "__new__", staticmethod(untracked)),
)
