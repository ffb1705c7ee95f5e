"""The registry: which handler performs which operation.

    operations = Operations()

    @operations.post("/users", status=201)
    async def create_user(user: NewUser, context: Context) -> User: ...

Front end and consumers load the same registry; the front end validates with it, both run by it.
"""

import importlib
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, ParamSpec, Protocol
from urllib.parse import unquote

from typing_extensions import TypeVar

from penstock.errors import Flaw, Misconfigured
from penstock.forwarding.forward import (
    DEFAULT_RESULT_BYTES,
    AddedHeaders,
    Connections,
    ForwardRoute,
    build_forward_routes,
)
from penstock.route import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_TIMEOUT_SECONDS,
    InvalidOperation,
    Policy,
    Route,
    build_route,
)

T = TypeVar("T", default=Any)
P = ParamSpec("P")
R = TypeVar("R")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_NAMES_IN_ERROR = 20


class Registrar(Protocol):
    """Registers the handler it decorates, and gives it back as it was."""

    def __call__(self, handler: Callable[P, R], /) -> Callable[P, R]: ...


class RegisterMethod(Protocol):
    """`status` is the outcome's when the handler returns; `max_attempts` includes the first.

    An `async def` runs on the event loop, a `def` in a thread, a `def` with `cpu_bound` in another process. With `bulk`
    it is given lists, of `max_size` operations at most, and returns a list: a result, a Reject or a Retry for each.
    """

    def __call__(
        self,
        path: str,
        *,
        status: int = 200,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        cpu_bound: bool = False,
        bulk: bool = False,
        max_size: int | None = None,
    ) -> Registrar: ...


class Operations(Generic[T]):
    """An application's operations.

    `transaction` opens the application's database transaction: an async context manager that commits on a clean exit
    and rolls back when an exception leaves it; handlers find what it yields in `context.transaction`. `savepoint` opens
    a nested one in it, used where a small batch shares a transaction; by default what SQLAlchemy offers.
    """

    def __init__(
        self,
        *,
        transaction: Callable[[], AbstractAsyncContextManager[T]] | None = None,
        savepoint: Callable[[T], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        self.transaction = transaction
        self.savepoint = savepoint or _begin_nested
        self._exact: dict[tuple[str, str], Route] = {}
        self._with_parameters: dict[str, list[Route]] = {method: [] for method in METHODS}
        self._forwards: dict[str, list[ForwardRoute]] = {method: [] for method in METHODS}
        self._connections = Connections()
        self.get: RegisterMethod = self._registrars("GET")
        self.post: RegisterMethod = self._registrars("POST")
        self.put: RegisterMethod = self._registrars("PUT")
        self.patch: RegisterMethod = self._registrars("PATCH")
        self.delete: RegisterMethod = self._registrars("DELETE")

    @property
    def routes(self) -> list[Route]:
        return [
            *self._exact.values(),
            *(route for routes in self._with_parameters.values() for route in routes),
            *(route for routes in self._forwards.values() for route in routes),
        ]

    @property
    def passed_headers(self) -> frozenset[str]:
        """The headers of a batch's request, in lower case, that some forwarded operation takes along."""
        return frozenset(
            name for routes in self._forwards.values() for route in routes for name in route.forward.passed
        )

    def match(self, method: str, path: str) -> Route:
        """The route of an operation: a path without parameters goes before one with, and that before a forward.

        Raises InvalidOperation.
        """
        route = self._match_handler(method, path)
        if route is not None:
            return route
        for forward in self._forwards.get(method, ()):
            if forward.pattern.fullmatch(path):
                self._check_passes_by_handlers(method, path)
                return forward
        names = sorted(route.name for route in self.routes)
        known = ", ".join(names[:_NAMES_IN_ERROR]) + (", ..." if len(names) > _NAMES_IN_ERROR else "")
        raise InvalidOperation([Flaw("/path", f"{method} {path} is not offered here; there is: {known or 'nothing'}.")])

    def forward(
        self,
        path: str,
        *,
        to: str,
        methods: Iterable[str] = METHODS,
        headers: Iterable[str] = (),
        add_headers: AddedHeaders | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        max_result_bytes: int = DEFAULT_RESULT_BYTES,
    ) -> None:
        """Make a request to an existing API of every operation whose path no handler is registered for.

        `path` ends with `/{path}`, which takes all that follows. An operation's path is asked for at `to` as it is;
        where `to` ends with `/{path}` too, only what follows is.

        `headers` names those of the batch's request that go along. They are kept with the batch in the table for as
        long as that keeps it: name `Authorization` only if it may stand there. `add_headers` go along with every
        request and are kept nowhere: a mapping, or a function or coroutine function that is asked for one each time.
        """
        asked = tuple(methods)
        if unknown := [method for method in asked if method not in METHODS]:
            raise Misconfigured(f"Choose the methods of forward({path!r}) from {', '.join(METHODS)}; not {unknown[0]}.")
        for known in (route for method in asked for route in self._forwards[method]):
            if known.path == path:
                raise Misconfigured(f"Register forward({path!r}) once for {known.method}.")
            if known.pattern.fullmatch(path):
                raise Misconfigured(f"Register forward({path!r}) before {known.name}, which takes all of it.")
        for route in build_forward_routes(
            path,
            to=to,
            methods=asked,
            policy=Policy(timeout_seconds=timeout_seconds, max_attempts=max_attempts),
            headers=headers,
            add_headers=add_headers,
            max_result_bytes=max_result_bytes,
            connections=self._connections,
        ):
            self._forwards[route.method].append(route)

    def connections(self, for_each_host: int) -> AbstractAsyncContextManager[None]:
        """What a program is in while it runs: forwarded operations share its connections, closed at the end."""
        return self._connections.open(for_each_host)

    def _match_handler(self, method: str, path: str) -> Route | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact
        for route in self._with_parameters.get(method, ()):
            if route.pattern.fullmatch(path):
                return route
        return None

    def _check_passes_by_handlers(self, method: str, path: str) -> None:
        """What a handler is there for goes to no upstream for being written in another way, or with a query."""
        plain = unquote(path.partition("?")[0])
        handler = self._match_handler(method, plain) if plain != path else None
        if handler is not None:
            raise InvalidOperation(
                [Flaw("/path", f"Write it as {plain}: {handler.name} has a handler, without query.")]
            )

    def _registrars(self, method: str) -> RegisterMethod:
        def registrar(
            path: str,
            *,
            status: int = 200,
            timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
            max_attempts: int = DEFAULT_MAX_ATTEMPTS,
            cpu_bound: bool = False,
            bulk: bool = False,
            max_size: int | None = None,
        ) -> Registrar:
            if not isinstance(path, str):
                raise Misconfigured(f"Give the path: @operations.{method.lower()}(path), with parentheses.")
            policy = Policy(status, timeout_seconds, max_attempts, cpu_bound, bulk, max_size)

            def register(handler: Callable[P, R], /) -> Callable[P, R]:
                self._add(build_route(handler, method, path, policy))
                return handler

            return register

        return registrar

    def _add(self, route: Route) -> None:
        handled = [known for known in self.routes if not known.is_forwarded]
        twins = [known for known in handled if known.method == route.method and known.shape == route.shape]
        if twins:
            raise Misconfigured(f"Register {route.name} once: {twins[0].name} has a handler already.")
        if route.has_parameters:
            self._with_parameters[route.method].append(route)
        else:
            self._exact[route.method, route.path] = route


def load_application(name: str) -> Operations[Any]:
    """The Operations that `module:attribute` names. Raises Misconfigured, saying what is the matter."""
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise Misconfigured(f"Name the application as MODULE:ATTRIBUTE, such as shop.bulk:operations; {name!r} is not.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the application is there; what it imports is not
        raise Misconfigured(
            f"Start Penstock where the application can be imported: there is no module {error.name!r} (for {name!r})."
        ) from error
    operations = getattr(module, attribute, None)
    if not isinstance(operations, Operations):
        kind = "nothing" if operations is None else f"a {type(operations).__name__}"
        raise Misconfigured(f"Let {name!r} name an Operations(): {attribute!r} of {module_name!r} is {kind}.")
    if not operations.routes:
        raise Misconfigured(f"Register a handler in {name!r}: it has none.")
    return operations


def _begin_nested(transaction: Any) -> AbstractAsyncContextManager[Any]:
    """SQLAlchemy's way to open a savepoint, for its AsyncSession and AsyncConnection alike."""
    begin = getattr(transaction, "begin_nested", None)
    if begin is None:
        raise Misconfigured(
            "Tell Penstock how to open a savepoint: Operations(transaction=..., savepoint=...). The transaction yields "
            f"a {type(transaction).__name__}, which has no begin_nested()."
        )
    savepoint: AbstractAsyncContextManager[Any] = begin()
    return savepoint
