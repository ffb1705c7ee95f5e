"""The registry of an application: it knows which handler performs which operation.

    operations = Operations()

    @operations.post("/users", status=201)
    async def create_user(user: NewUser, context: Context) -> User: ...

Front ends and consumers load the same registry. Front ends validate operations with it; both run operations with it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol
from urllib.parse import unquote

from typing_extensions import TypeVar

from penstock.errors import Flaw, Misconfigured
from penstock.forwarding.headers import AddedHeaders
from penstock.limit import NAME_FORM, Limit, is_limit_name
from penstock.route import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_TIMEOUT_SECONDS,
    InvalidOperation,
    Policy,
    Route,
    UnknownOperation,
    build_route,
)
from penstock.surroundings import Lifespan, Middleware, Surroundings

if TYPE_CHECKING:
    from penstock.forwarding.forward import Connections, ForwardRoute

T = TypeVar("T", default=Any)
P = ParamSpec("P")
R = TypeVar("R")

M = TypeVar("M", bound=Middleware)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
DEFAULT_RESULT_BYTES = 262_144  # of a response to a forwarded operation
_NAMES_IN_ERROR = 20


class Registrar(Protocol):
    """A decorator that registers a handler and returns it unchanged."""

    def __call__(self, handler: Callable[P, R], /) -> Callable[P, R]: ...


class RegisterMethod(Protocol):
    """The type of the decorators `get`, `post`, `put`, `patch` and `delete` of Operations."""

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
        limit: str | None = None,
    ) -> Registrar:
        """Register the decorated function as the handler of one kind of operation.

        An example::

            @operations.post("/users/{team}", status=201, timeout_seconds=10)
            async def create_user(team: str, user: NewUser, context: Context) -> User: ...

        The parameters of the handler are the path parameters by name, at most one parameter for the body, and at most
        one `Context`. Path parameters and the body are validated with Pydantic by their annotations. The value that the
        handler returns is the result of the operation; it must be convertible to JSON. A handler fails an operation by
        raising `Reject`, and asks for another attempt by raising `Retry` or any other exception. `Throttled` asks for
        another try that does not count as an attempt.

        An `async def` handler runs on the event loop, a `def` handler in a thread, and a `def` handler with
        `cpu_bound=True` in another process. Every handler may run more than once for the same operation: see
        `Context.key`.

        Args:
            path: The path of the operation, starting with a slash. `{name}` is a path parameter; it matches one
                segment. `{name:path}` at the end of the path matches the rest of it, with slashes.
            status: The status of the outcome when the handler returns, from 200 to 299.
            timeout_seconds: The time limit for one attempt in seconds; with `bulk`, for one call. A timed-out operation
                counts as a failed attempt and is tried again.
            max_attempts: The maximum number of attempts, including the first. With 1 nothing is tried again.
            cpu_bound: If True, run the handler in another process. It must be a `def` at the top level of its module.
            bulk: If True, one call performs many operations. Every parameter is a list with one item for each
                operation, and the handler returns a list of the same length: a result, a `Reject`, a `Retry` or a
                `Throttled` for each operation.
            max_size: The maximum number of operations in one bulk call. None sets no limit of its own.
            limit: The name of a limit for the whole fleet, such as `stripe`. All operations whose handlers or forwards
                have the same name share it. Penstock learns the limit unless `Operations(limits=...)` declares it.

        Raises:
            Misconfigured: The path, the options or the signature of the handler are invalid, or another handler is
                registered for the same method and path.
        """


class Operations(Generic[T]):
    """The operations of an application: its handlers, its forwards and its transaction.

    Register handlers with the decorators `get`, `post`, `put`, `patch` and `delete`, and pass the object to Penstock as
    `--app MODULE:ATTRIBUTE`.

    Args:
        transaction: A function that opens a database transaction, such as SQLAlchemy's `sessionmaker.begin`. It returns
            an async context manager that commits on a clean exit and rolls back on an exception. Handlers get the
            yielded value as `context.transaction`. If it is None, handlers run without a transaction.
        savepoint: A function that opens a savepoint inside the given transaction and returns an async context manager.
            A small batch uses it, since all its operations share one transaction. The default calls `begin_nested()`
            of the transaction, which SQLAlchemy's `AsyncSession` and `AsyncConnection` have.
        limits: The declared limits by their names. Handlers and forwards name a limit with `limit="stripe"`. Penstock
            learns a limit that is named and not declared.
        lifespan: A function that returns an async context manager, such as one made with
            `contextlib.asynccontextmanager`. Each front end and each consumer enters it before it runs the first
            operation, and leaves it after it has drained. Handlers get the yielded value as `context.state`.
    """

    def __init__(
        self,
        *,
        transaction: Callable[[], AbstractAsyncContextManager[T]] | None = None,
        savepoint: Callable[[T], AbstractAsyncContextManager[Any]] | None = None,
        limits: Mapping[str, Limit] | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        self.surroundings = Surroundings(lifespan)
        self.transaction = transaction
        self.savepoint = savepoint or _begin_nested
        self.limits = _checked(limits or {})
        self.pauses: dict[str, float] = {}  # by limit: the Unix time before which its upstream wants no more requests
        self._exact: dict[tuple[str, str], Route] = {}
        self._with_parameters: dict[str, list[Route]] = {method: [] for method in METHODS}
        self._forwards: dict[str, list[ForwardRoute]] = {method: [] for method in METHODS}
        self.get: RegisterMethod = self._registrars("GET")
        self.post: RegisterMethod = self._registrars("POST")
        self.put: RegisterMethod = self._registrars("PUT")
        self.patch: RegisterMethod = self._registrars("PATCH")
        self.delete: RegisterMethod = self._registrars("DELETE")

    @property
    def routes(self) -> list[Route]:
        """Return all registered routes: handlers first, then forwards."""
        return [
            *self._exact.values(),
            *(route for routes in self._with_parameters.values() for route in routes),
            *(route for routes in self._forwards.values() for route in routes),
        ]

    @property
    def passed_headers(self) -> frozenset[str]:
        """Return the names, in lower case, of the request headers that any forward passes on to its operations."""
        return frozenset(
            name for routes in self._forwards.values() for route in routes for name in route.forward.passed
        )

    def match(self, method: str, path: str) -> Route:
        """Return the route of an operation. Raises UnknownOperation if there is none.

        A path without parameters has priority over a path with parameters, and that over one with `{name:path}`. All
        have priority over a forward. The fixed parts of a path must not be percent-encoded.
        """
        exact = self._exact.get((method, path))
        if exact is not None and "%" not in path:
            return exact
        route = self._match_handler(method, path)
        if "%" in path:
            self._check_spelling(method, path, route)
        if route is not None:
            return route
        for forward in self._forwards.get(method, ()):
            if forward.pattern.match(path) is not None:
                self._check_spelling(method, path, None)
                return forward
        names = sorted(route.name for route in self.routes)
        known = ", ".join(names[:_NAMES_IN_ERROR]) + (", ..." if len(names) > _NAMES_IN_ERROR else "")
        raise UnknownOperation(
            [Flaw("/path", f"There is no operation {method} {path}. Available operations: {known or 'none'}.")]
        )

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
        limit: str | None = None,
    ) -> None:
        """Forward operations to an existing API: each operation becomes one HTTP request to it.

        An operation is forwarded if its path matches and no handler is registered for it. The request has the method,
        path, query and JSON body of the operation, and the operation's key as `Idempotency-Key`. A 2xx response becomes
        the result. 429, 5xx, timeouts and connection errors are tried again; any other response is final.

        An example::

            operations.forward("/api/{path}", to="https://internal.example", headers=["Accept-Language"])

        Args:
            path: The paths to forward. It must end with `/{path}`, which matches everything that follows.
            to: The URL of the API. The whole path of the operation is appended to it. If the URL ends with `/{path}`,
                only the part that matched `{path}` is appended.
            methods: The methods to forward, by default all of GET, POST, PUT, PATCH and DELETE.
            headers: The names of headers of the batch's request that each of its operations carries. Their values are
                stored in the table as long as the batch: name `Authorization` only if it may be stored there.
            add_headers: Headers that are added to every request and stored nowhere: a mapping, or a function or
                coroutine function that returns one. The function is called for each request.
            timeout_seconds: The time limit for one attempt in seconds.
            max_attempts: The maximum number of attempts, including the first.
            max_result_bytes: The maximum size of a response in bytes. An operation whose response is larger fails.
            limit: The name of a limit for the whole fleet, as for a handler.

        Raises:
            Misconfigured: An argument is invalid, or an earlier forward matches the same paths.
        """
        from penstock.forwarding.forward import build_forward_routes  # noqa: PLC0415 - see `_connections`

        asked = tuple(methods)
        if unknown := [method for method in asked if method not in METHODS]:
            raise Misconfigured(
                f"The method {unknown[0]} of forward({path!r}) is not supported. Use methods of {', '.join(METHODS)}."
            )
        for known in (route for method in asked for route in self._forwards[method]):
            if known.path == path:
                raise Misconfigured(f"forward({path!r}) is registered twice for {known.method}. Register it once.")
            if known.pattern.match(path) is not None:
                raise Misconfigured(
                    f"forward({path!r}) has no effect, since {known.name} matches all its paths. Register it earlier."
                )
        for route in build_forward_routes(
            path,
            to=to,
            methods=asked,
            policy=Policy(timeout_seconds=timeout_seconds, max_attempts=max_attempts, limit=limit),
            headers=headers,
            add_headers=add_headers,
            max_result_bytes=max_result_bytes,
            connections=self._connections,
            pauses=self.pauses,
        ):
            self._forwards[route.method].append(replace(route, surroundings=self.surroundings))

    @property
    def state(self) -> Any:
        """Return what the lifespan has yielded in this process, or None while no lifespan runs."""
        return self.surroundings.state

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that a program enters while it runs. It starts and ends the lifespan."""
        return self.surroundings.open()

    def middleware(self, middleware: M, /) -> M:
        """Register the decorated function to be called around each attempt, for error reports or spans.

        An example::

            @operations.middleware
            async def report_errors(context: Context, call_next: CallNext) -> Any:
                try:
                    return await call_next()
                except Exception as error:
                    tracker.report(error, batch=context.batch_id)
                    raise

        `call_next` calls the handler and returns what it returns, or raises what it raises. What the middleware returns
        or raises takes its place. It runs on the event loop, within the time limit and the transaction of the attempt.
        Around a bulk handler `context` is the list of the contexts of the call. The middleware that is registered first
        is the outermost one.

        Raises:
            Misconfigured: The middleware is not an `async def`.
        """
        self.surroundings.add(middleware)
        return middleware

    def connections(self, for_each_host: int) -> AbstractAsyncContextManager[None]:
        """Return a context manager that a program enters while it runs. On exit it closes the upstream connections.

        All forwarded operations of the program share the connections, at most `for_each_host` to one upstream host.
        """
        return self._connections.open(for_each_host)

    @cached_property
    def _connections(self) -> "Connections":
        """Import aiohttp only now: a process for `cpu_bound` handlers needs none, and starts a quarter sooner."""
        from penstock.forwarding.forward import Connections  # noqa: PLC0415

        return Connections()

    def _match_handler(self, method: str, path: str) -> Route | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact
        for route in self._with_parameters.get(method, ()):
            if route.pattern.match(path) is not None:
                return route
        return None

    def _check_spelling(self, method: str, path: str, route: Route | None) -> None:
        """Raise InvalidOperation if another handler than `route` exists for this path when it is decoded.

        Otherwise a client could bypass a handler by writing its path in a different way: `/users/%6De` for `/users/me`.
        """
        plain = unquote(path.partition("?")[0])
        handler = self._match_handler(method, plain) if plain != path else None
        if handler is not None and handler is not route:
            raise InvalidOperation(
                [Flaw("/path", f"Write the path as {plain}: {handler.name} has a handler, which accepts no query.")]
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
            limit: str | None = None,
        ) -> Registrar:
            if not isinstance(path, str):
                raise Misconfigured(
                    f"The decorator has no path. Write @operations.{method.lower()}(path), with parentheses."
                )
            policy = Policy(status, timeout_seconds, max_attempts, cpu_bound, bulk, max_size, limit)

            def register(handler: Callable[P, R], /) -> Callable[P, R]:
                self._add(replace(build_route(handler, method, path, policy), surroundings=self.surroundings))
                return handler

            return register

        return registrar

    def _add(self, route: Route) -> None:
        handled = [known for known in self.routes if not known.is_forwarded]
        twins = [known for known in handled if known.method == route.method and known.shape == route.shape]
        if twins:
            raise Misconfigured(
                f"{route.name} is registered twice: {twins[0].name} already has a handler. Register it once."
            )
        if route.has_parameters:
            routes = self._with_parameters[route.method]
            routes.append(route)
            routes.sort(key=lambda known: known.has_rest)  # keeps the order of registration otherwise
        else:
            self._exact[route.method, route.path] = route


def _checked(limits: Mapping[str, Limit]) -> dict[str, Limit]:
    """Return a copy of the declared limits. Raises Misconfigured if a name or a limit is invalid."""
    for name, limit in limits.items():
        if not is_limit_name(name):
            raise Misconfigured(f"A limit of Operations(limits=...) is named {name!r}. Use a name of {NAME_FORM}.")
        if not isinstance(limit, Limit):
            raise Misconfigured(
                f"The limit {name!r} of Operations(limits=...) is of type {type(limit).__name__}. "
                "Use penstock.Limit(...)."
            )
    return dict(limits)


def _begin_nested(transaction: Any) -> AbstractAsyncContextManager[Any]:
    """Open a savepoint as SQLAlchemy's AsyncSession and AsyncConnection do."""
    begin = getattr(transaction, "begin_nested", None)
    if begin is None:
        raise Misconfigured(
            f"The transaction yields a {type(transaction).__name__}, which has no begin_nested() to open a savepoint. "
            "Pass a function that opens one: Operations(transaction=..., savepoint=...)."
        )
    savepoint: AbstractAsyncContextManager[Any] = begin()
    return savepoint
