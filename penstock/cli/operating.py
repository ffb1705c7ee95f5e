"""What the commands for operators share: a call of the HTTP API with an operator's key, and a table as text."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import aiohttp
import typer
from yarl import URL

from penstock.cli.server import NO_TYPE, Problem, authorization, read_problem, read_server
from penstock.errors import PenstockError
from penstock.settings import read_client_key

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the server as JSON.")]


class CallFailed(PenstockError):
    """The server did not answer as it should. The message says what to do."""


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """Call the server, and return its answer. Raises CallFailed."""
    server = read_server(url)
    return asyncio.run(_ask(server, method, path, body, read_client_key()))


async def _ask(server: URL, method: str, path: str, body: Any, key: str | None) -> Any:
    try:
        async with (
            aiohttp.ClientSession(headers=authorization(key), timeout=_TIMEOUT) as session,
            session.request(method, server / path, json=body, allow_redirects=False) as response,
        ):
            if response.status in {200, 201} and response.content_type == "application/json":
                return await response.json()
            problem = await read_problem(response)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or "timeout"
        raise CallFailed(f"{server} does not answer ({reason}). Name the URL of Penstock with --url.") from error
    raise CallFailed(_explain(response.status, problem))


def _explain(status: int, problem: Problem) -> str:
    errors = "".join(f"\n  {error.pointer}: {error.detail}" for error in problem.errors)
    return f"The server answered {status}: {problem.detail or problem.title}{errors}{_hint(status, problem.type)}"


def _hint(status: int, kind: str) -> str:
    if status == 401:
        return "\nSet PENSTOCK_API_KEY to a key with the scope operate."
    if status == 404 and kind == NO_TYPE:
        return "\nIf requests need no key, use the address for operators: --url http://127.0.0.1:8081."
    return ""


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad: Callable[[str, int], str] = str.ljust
    for row in rows:
        typer.echo("  ".join(map(pad, row, widths)).rstrip())
