"""How the commands reach the server: its URL, the key that they send, and the problems that it answers."""

from contextlib import suppress
from typing import Annotated

import aiohttp
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from yarl import URL

PROBLEM_TYPE = "application/problem+json"
NO_TYPE = "about:blank"  # of a problem that is no more than its status

Url = Annotated[str, typer.Option(envvar="PENSTOCK_URL", help="The URL of Penstock.")]


def read_server(url: str) -> URL:
    """Return the URL of the server. Raises BadParameter if it is not one."""
    with suppress(ValueError):
        server = URL(url)
        if server.scheme in {"http", "https"} and server.host:
            return server
    raise typer.BadParameter(f"{url!r} should look like http://127.0.0.1:8080.", param_hint="--url")


def authorization(key: str | None) -> dict[str, str]:
    """Return the header that carries a key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


class Body(BaseModel):
    """A JSON object of the server. Members that are not known here are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class ProblemError(Body):
    pointer: str = ""
    detail: str = ""


class Problem(Body):
    """A problem as RFC 9457 describes it, or what is known of an error response in another format."""

    type: str = NO_TYPE
    title: str = ""
    detail: str = ""
    errors: list[ProblemError] = Field(default_factory=list)
    error_count: int = 0  # larger than the length of `errors` if the server did not list all
    max_operations: int | None = None
    max_body_bytes: int | None = None

    def __str__(self) -> str:
        """Return the problem without a full stop at the end, for use inside a sentence."""
        return f"{self.title}: {self.detail.rstrip('.')}" if self.detail else self.title


async def read_problem(response: aiohttp.ClientResponse) -> Problem:
    """Return the problem in an error response."""
    if response.content_type == PROBLEM_TYPE:
        with suppress(ValidationError):
            return Problem.model_validate_json(await response.read())
    location = response.headers.get("Location", "")
    return Problem(title=response.reason or "", detail=location and f"it redirects to {location}")
