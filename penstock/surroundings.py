"""What surrounds the handlers of an application in one process: its middleware, and the state that its lifespan yields.

@asynccontextmanager
async def lifespan() -> AsyncIterator[State]: ...

operations = Operations(lifespan=lifespan)

@operations.middleware
async def report_errors(context: Context, call_next: CallNext) -> Any: ...
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from penstock.errors import LifespanFailed, Misconfigured
from penstock.telemetry import Event, get_log

CallNext: TypeAlias = Callable[[], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Any, CallNext], Awaitable[Any]]
Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


class Surroundings:
    """`middleware` is called around each attempt, the first one outermost. `state` is None while nothing is open.

    `has_bucket` says whether large results can be stored.
    """

    def __init__(self, lifespan: Lifespan | None = None) -> None:
        self.middleware: list[Middleware] = []
        self.state: Any = None
        self.has_bucket = False
        self._lifespan = lifespan
        self._is_open = False

    def add(self, middleware: Middleware) -> None:
        """Add a middleware inside those that were added before. Raises Misconfigured."""
        if not inspect.iscoroutinefunction(middleware):
            raise Misconfigured(
                f"The middleware {middleware!r} is not an `async def` function. "
                "Write it as `async def middleware(context, call_next)`."
            )
        self.middleware.append(middleware)

    def call(self, context: Any, handler: CallNext) -> Awaitable[Any]:
        """Call the middleware around a call of a handler."""
        for middleware in reversed(self.middleware):
            handler = partial(middleware, context, handler)
        return handler()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the lifespan, and end it with the block. Raises LifespanFailed, and logs what the lifespan raised."""
        if self._is_open:
            raise Misconfigured(
                "The lifespan of this application runs already in this process. Start one program at a time with it."
            )
        if self._lifespan is None:
            yield
            return
        manager = await self._start(self._lifespan)
        self._is_open = True
        try:
            yield
        except BaseException as error:
            await _end(manager, error)
            raise
        else:
            if (failure := await _end(manager, None)) is not None:
                raise _failed("end", failure) from failure
        finally:
            self._is_open, self.state = False, None

    async def _start(self, lifespan: Lifespan) -> AbstractAsyncContextManager[Any]:
        try:
            manager = lifespan()
            if not hasattr(manager, "__aenter__"):
                if inspect.iscoroutine(manager):
                    manager.close()
                raise TypeError("it returned no async context manager. Decorate it with contextlib.asynccontextmanager")
            self.state = await manager.__aenter__()
        except Exception as error:
            get_log().error(Event.LIFESPAN_FAILED, exc_info=error)
            raise _failed("start", error) from error
        return manager


async def _end(manager: AbstractAsyncContextManager[Any], error: BaseException | None) -> Exception | None:
    """End the lifespan. Return what it raised by itself."""
    traceback = None if error is None else error.__traceback__
    try:
        await manager.__aexit__(None if error is None else type(error), error, traceback)
    except Exception as failure:  # noqa: BLE001 - it is logged, and raised unless the program failed already
        if failure is not error:
            get_log().error(Event.LIFESPAN_FAILED, exc_info=failure)
            return failure
    return None


def _failed(what: str, error: Exception) -> LifespanFailed:
    words = f"{type(error).__name__}: {error}".removesuffix(": ")
    return LifespanFailed(f"The application's lifespan did not {what}: {words.removesuffix('.')}. The log has more.")
