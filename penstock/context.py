"""The context that a handler receives, and the exceptions that it may raise to reject or retry an operation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn

from typing_extensions import TypeVar

from penstock.errors import Misconfigured

T = TypeVar("T", default=Any)

LONGEST_WAIT_SECONDS = 30 * 24 * 3600
LONGEST_TURN_SECONDS = 3_600  # an operation that is turned away is tried again each hour at least


@dataclass(frozen=True, slots=True)
class Context(Generic[T]):
    """Information about the operation that a handler performs.

    A handler receives it in the parameter that is annotated with `Context`; a bulk handler receives a list of them.

    Attributes:
        operation_id: The id that the client gave to the operation, or its position in the batch (from 0) as text.
        batch_id: The id of the batch.
        attempt: The number of this attempt, from 1.
        key: The `key` that the client gave to the operation. Without one, it is a text that no other operation of any
            batch has. It is the same for every attempt and delivery of the operation. Store it in the same transaction
            as the work: if the handler runs a second time, it finds the key and changes nothing. If your clients are
            several tenants, store it together with `tenant`: two tenants may use the same key.
        transaction: The value that the application's transaction yields, or None if the application has no transaction.
            Annotate the parameter with `Context[AsyncSession]` to get it typed. Only `async def` handlers can use it.
        headers: The headers of the batch's request that `Operations.forward(headers=...)` names. Header names are in
            lower case.
        tenant: The tenant that the batch belongs to.
        state: What the application's lifespan has yielded in this process, or None if there is no lifespan. Handlers in
            threads share it, so it must be safe for threads. Handlers in other processes cannot use it.
    """

    operation_id: str
    batch_id: str
    attempt: int
    key: str
    transaction: T
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tenant: str = ""
    state: Any = None


class NoTransaction:
    """The value of `context.transaction` in a `def` handler. It raises Misconfigured with an explanation when used."""

    def __init__(self, handler: str) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python itself asks for these, for example when it copies the object
        raise Misconfigured(
            f"The handler of {self._handler} is a `def` and uses context.transaction ({name}), which belongs to the "
            "event loop. Write the handler as `async def`, or open a separate transaction in it."
        )


class NoState:
    """The value of `context.state` in a handler that runs in another process. It raises Misconfigured when used."""

    def __init__(self, handler: str) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._explain()

    def __getitem__(self, key: object) -> NoReturn:
        self._explain()

    def __call__(self, *_arguments: object, **_options: object) -> NoReturn:
        self._explain()

    # Python looks these up in the class, and not with `__getattr__`.

    def __bool__(self) -> NoReturn:  # noqa: PLE0304 - it explains itself instead
        self._explain()

    def __len__(self) -> NoReturn:  # noqa: PLE0303
        self._explain()

    def __iter__(self) -> NoReturn:
        self._explain()

    def __contains__(self, item: object) -> NoReturn:
        self._explain()

    def __enter__(self) -> NoReturn:
        self._explain()

    def __exit__(self, *_error: object) -> NoReturn:
        self._explain()

    def __aenter__(self) -> NoReturn:
        self._explain()

    def __aexit__(self, *_error: object) -> NoReturn:
        self._explain()

    def _explain(self) -> NoReturn:
        raise Misconfigured(
            f"The handler of {self._handler} runs in another process and uses context.state, which stays in the "
            "process of the event loop. Open what it needs in its own process, for example in a cached function."
        )


class Reject(Exception):
    """Raise this in a handler to fail the operation without another attempt.

    Example: `raise Reject(409, "This e-mail address is taken.")`. A bulk handler can also return a Reject in the place
    of a result.

    Args:
        status: The status of the operation's outcome, read like an HTTP status: 400 to 599. Any other number raises
            ValueError.
        detail: A sentence for the client that explains why the operation is rejected.
    """

    def __init__(self, status: int, detail: str) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"The status of a Reject is {status}. Use a status from 400 to 599.")
        super().__init__(detail)
        self.status = status
        self.detail = str(detail)


class Retry(Exception):
    """Raise this in a handler to ask for another attempt.

    Example: `raise Retry(after_seconds=30)`. The present attempt counts: after `max_attempts` attempts the operation
    fails. A bulk handler can also return a Retry in the place of a result.

    Args:
        detail: A sentence for the client. It becomes the error of the operation if no attempt is left.
        after_seconds: The delay before the next attempt in seconds, from 0 to 2,592,000 (30 days). Any other number
            raises ValueError. If it is None, the delay follows the usual exponential backoff.
    """

    def __init__(
        self, detail: str = "The operation could not be performed yet.", *, after_seconds: float | None = None
    ) -> None:
        if after_seconds is not None and not 0 <= after_seconds <= LONGEST_WAIT_SECONDS:
            raise ValueError(
                f"The after_seconds of a Retry is {after_seconds}. Use a number from 0 to {LONGEST_WAIT_SECONDS:,}."
            )
        super().__init__(detail)
        self.detail = str(detail)
        self.after_seconds = after_seconds


class Throttled(Exception):
    """Raise this in a handler if a service that it calls allows no more requests at the moment.

    Example: `raise Throttled(after_seconds=2)`. The operation was only turned away, so it keeps its attempt: it is
    tried again until its batch ends. If the handler has a `limit`, the whole fleet slows down. A bulk handler can also
    return a Throttled in the place of a result.

    Args:
        detail: A sentence for the client. It becomes the error of the operation if the batch ends first.
        after_seconds: The delay before the next try in seconds. More than an hour counts as an hour. A number below 0
            raises ValueError. If it is None, the delay follows a backoff that grows with each try.
    """

    def __init__(
        self, detail: str = "A service that the operation needs is busy.", *, after_seconds: float | None = None
    ) -> None:
        if after_seconds is not None and not after_seconds >= 0:
            raise ValueError(f"The after_seconds of a Throttled is {after_seconds}. Use 0 or more.")
        super().__init__(detail)
        self.detail = str(detail)
        self.after_seconds = None if after_seconds is None else min(after_seconds, LONGEST_TURN_SECONDS)
