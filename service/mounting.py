"""The front end as a part of another aiohttp application: `app.add_subapp("/bulk", create_app(operations))`."""

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from penstock.aws.backend import open_backend
from penstock.backend import Backend
from penstock.clock import SystemClock
from penstock.operations import Operations
from penstock.priority import Priority
from penstock.service import app as front_end
from penstock.service.keys import LEAVING
from penstock.settings import Settings, read_settings


class _Later:
    """Stands for a queue or the store until the application starts, which opens them."""

    def __init__(self) -> None:
        self.opened: Any = None

    def __getattr__(self, name: str) -> Any:
        if self.opened is None:
            raise RuntimeError("The application has not started: its connections to AWS are not open yet.")
        return getattr(self.opened, name)


def create_app(operations: Operations[Any], settings: Settings | None = None) -> web.Application:
    """Return the front end for clients as an aiohttp application, to be mounted with `add_subapp` or run by itself.

    It reads its settings from the environment unless they are given. When the outermost application starts, it connects
    to AWS and starts the lifespan of `operations`. The consumers are programs of their own. Create the outermost
    application with `handler_args={"auto_decompress": False}`, so that clients can send compressed bodies.

    Raises:
        Misconfigured: A setting is invalid.
    """
    given = settings or read_settings()
    later = _LateBackend(has_bucket=given.bucket is not None)
    app = front_end.create_app(given, operations, later.backend, SystemClock())

    async def connect(_app: web.Application) -> AsyncIterator[None]:
        async with (
            open_backend(given) as opened,
            operations.connections(given.connections_for_each_host),
        ):
            await opened.check()
            later.open(opened)
            async with operations.running():
                yield

    app.cleanup_ctx.insert(0, connect)  # it ends last: the runner closes while the store and the state are there
    app.on_shutdown.append(_leave)
    return app


class _LateBackend:
    """A backend whose parts exist from the start, and work once it is open."""

    def __init__(self, *, has_bucket: bool) -> None:
        self._queues: dict[Priority, Any] = {priority: _Later() for priority in Priority}
        names = ["dead_letters", "store", "bills", *(["bucket"] if has_bucket else [])]
        self._parts: dict[str, Any] = {name: _Later() for name in names}
        self.backend = Backend(queues=self._queues, **self._parts)

    def open(self, opened: Backend) -> None:
        for priority, queue in self._queues.items():
            queue.opened = opened.queues[priority]
        for name, part in self._parts.items():
            part.opened = getattr(opened, name)


async def _leave(app: web.Application) -> None:
    app[LEAVING].set()
