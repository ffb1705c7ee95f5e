"""An endpoint of the HTTP program, as `routes.py` and the dialects list it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from aiohttp import web

from penstock.api_key import Scope


class For(Enum):
    """Whom an endpoint is for, which decides the listeners that have it."""

    CLIENTS = auto()
    # On the listener for operators. If requests need a key, on the listener for clients as well.
    OPERATORS = auto()
    OPERATOR_LISTENER = auto()
    # Pages of the console. Those for operators are on their listener only, which a load balancer does not let through.
    PAGES = auto()
    OPERATOR_PAGES = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint. `scope` is what its caller needs; None means that everybody may use it."""

    method: str
    path: str
    endpoint: Callable[[web.Request], Awaitable[web.StreamResponse]]
    scope: Scope | None
    whom: For = For.CLIENTS
