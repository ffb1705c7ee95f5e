"""`penstock keys`: makes, lists, rotates and revokes API keys through the HTTP API."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import aiohttp
import typer
from yarl import URL

from penstock.api_key import Scope, is_key_id
from penstock.cli.server import Url, authorization, read_server
from penstock.errors import PenstockError
from penstock.process import command_line
from penstock.settings import read_client_key

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)
_PROBLEM_TYPE = "application/problem+json"
_REVOKED_SECONDS = 60

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the server as JSON.")]


def _key_id(text: str) -> str:
    if not is_key_id(text):
        raise typer.BadParameter("Use the id of the key, 12 letters and digits. Never use the key itself.")
    return text


KeyId = Annotated[
    str, typer.Argument(metavar="ID", parser=_key_id, help="The id of the key, as `penstock keys list` shows it.")
]
ExpiresDays = Annotated[
    int | None, typer.Option(min=1, max=36_500, help="The key expires after so many days. [default: never]")
]

app = typer.Typer(
    help="Make, list, rotate and revoke API keys. The variable PENSTOCK_API_KEY has a key with the scope operate.",
    add_completion=False,
    no_args_is_help=True,
)


class CallFailed(PenstockError):
    """The server did not answer as it should. The message says what to do."""


def main() -> None:
    command_line.run_commands("keys", app)


@app.command()
def create(  # noqa: PLR0917 - the command line names them
    tenant: Annotated[str, typer.Option(help="Whose batches the key submits and reads.")],
    scope: Annotated[list[Scope], typer.Option(help="What the key allows. Repeat it for several scopes.")],
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    expires_days: ExpiresDays = None,
    limit: Annotated[
        str | None, typer.Option(metavar="OPERATIONS/SECONDS", help="A quota of operations, such as 100000/3600.")
    ] = None,
    max_open: Annotated[
        int | None, typer.Option(min=1, help="The most operations of the tenant that have not finished.")
    ] = None,
    as_json: AsJson = False,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Make a key and print it. It is not stored, so it is not shown again."""
    wanted = {
        "tenant": tenant,
        "scopes": list(dict.fromkeys(scope)),
        "name": name,
        "limit": limit,
        "maxOpen": max_open,
        **_expiry(expires_days),
    }
    _show_key(_call(url, "POST", "keys", {name: value for name, value in wanted.items() if value is not None}), as_json)


@app.command("list")
def list_(as_json: AsJson = False, url: Url = "http://127.0.0.1:8080") -> None:
    """List all keys, without their texts."""
    answer = _call(url, "GET", "keys")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _print_table([_HEADINGS, *(_cells(key, datetime.now(UTC)) for key in answer["keys"])])


@app.command()
def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How many hours the old key still works.")] = 24,
    expires_days: ExpiresDays = None,
    as_json: AsJson = False,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Replace a key by a new one for the same tenant and scopes, and print the new one."""
    wanted = {"overlapSeconds": round(overlap_hours * 3600), **_expiry(expires_days)}
    answer = _call(url, "POST", f"keys/{key_id}/rotate", wanted)
    _show_key(answer, as_json)
    if not as_json:
        typer.echo(f"The key {answer['replaces']['id']} works until {answer['replaces']['expiresAt']}.", err=True)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False, url: Url = "http://127.0.0.1:8080") -> None:
    """Revoke a key."""
    answer = _call(url, "DELETE", f"keys/{key_id}")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"The key {answer['id']} is revoked. Requests may be accepted for {_REVOKED_SECONDS} s more.")


def _call(url: str, method: str, path: str, body: Any = None) -> Any:
    server = read_server(url)
    return asyncio.run(_ask(server, method, path, body, read_client_key()))


async def _ask(server: URL, method: str, path: str, body: Any, key: str | None) -> Any:
    try:
        async with (
            aiohttp.ClientSession(headers=authorization(key), timeout=_TIMEOUT) as session,
            session.request(method, server / path, json=body, allow_redirects=False) as response,
        ):
            content = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or "timeout"
        raise CallFailed(f"{server} does not answer ({reason}). Name the URL of Penstock with --url.") from error
    if response.status in {200, 201} and response.content_type == "application/json":
        return json.loads(content)
    raise CallFailed(_explain(response, content))


def _explain(response: aiohttp.ClientResponse, content: bytes) -> str:
    problem = json.loads(content) if response.content_type == _PROBLEM_TYPE else {}
    errors = "".join(f"\n  {error['pointer']}: {error['detail']}" for error in problem.get("errors", ()))
    detail = problem.get("detail", response.reason)
    return f"The server answered {response.status}: {detail}{errors}{_hint(response.status, problem.get('type'))}"


def _hint(status: int, kind: str | None) -> str:
    if status == 401:
        return "\nSet PENSTOCK_API_KEY to a key with the scope operate."
    if status == 404 and kind in {None, "about:blank"}:
        return "\nIf requests need no key, keys are made at the address for operators: --url http://127.0.0.1:8081."
    return ""


def _expiry(days: int | None) -> dict[str, str]:
    if days is None:
        return {}
    return {"expiresAt": (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")}


def _show_key(answer: Any, as_json: bool) -> None:
    """Print the key to standard output, where a script can read it."""
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(answer["key"])
    typer.echo(f"The key {answer['id']} belongs to {answer['tenant']}. It is not shown again.", err=True)


_HEADINGS = ["id", "tenant", "scopes", "name", "limit", "max open", "last used", "state"]


def _cells(key: Any, now: datetime) -> list[str]:
    return [
        key["id"],
        key["tenant"],
        ",".join(key["scopes"]),
        *(str(key[name] or "-") for name in ("name", "limit", "maxOpen")),
        (key["lastUsedAt"] or "-")[:16],
        _state(key, now),
    ]


def _state(key: Any, now: datetime) -> str:
    if key["revokedAt"] is not None:
        return f"revoked {key['revokedAt'][:10]}"
    if key["expiresAt"] is None:
        return "valid"
    verb = "expired" if datetime.fromisoformat(key["expiresAt"]) <= now else "expires"
    return f"{verb} {key['expiresAt'][:10]}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad: Callable[[str, int], str] = str.ljust
    for row in rows:
        typer.echo("  ".join(map(pad, row, widths)).rstrip())


if __name__ == "__main__":
    main()
