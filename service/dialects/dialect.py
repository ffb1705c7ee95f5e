"""What the HTTP program needs to know of a dialect: its endpoints, and how its API writes an error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from penstock.service.route import Route


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as Penstock answers it: a problem of RFC 9457, with the headers of that answer."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def type(self) -> str:
        """Return the last part of the type of the problem, such as `unknown-batch`. It is `about:blank` without one."""
        return str(self.body["type"]).removeprefix("urn:penstock:problem:")

    @property
    def detail(self) -> str:
        return str(self.body["detail"])


@dataclass(frozen=True, slots=True)
class Dialect:
    """The format of another API for batches.

    `has_path` tells whether a path belongs to that API, whether it is offered here or not. `write_problem` returns an
    error as that API writes it. Headers such as Retry-After and WWW-Authenticate are kept unless it sets them.
    """

    name: str
    routes: tuple[Route, ...]
    has_path: Callable[[str], bool]
    write_problem: Callable[[web.Request, Problem], web.Response]
