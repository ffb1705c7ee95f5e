"""`penstock keys`: makes, lists, rotates and revokes API keys through the HTTP API."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from penstock.api_key import Scope, is_key_id
from penstock.cli.exit_codes import NOT_DONE
from penstock.cli.server import DEFAULT_URL, AsJson, Url, call
from penstock.cli.terminal import local_time_of, print_json, print_table
from penstock.process import command_line

_REVOKED_SECONDS = 60
_DAY = "%Y-%m-%d"
_IF_UNKNOWN = (
    "It is not known whether there is a new key. `penstock keys list` shows it: revoke it, because its text is lost."
)
_IF_UNKNOWN_REVOKED = (
    "It is not known whether the key is revoked. `penstock keys list` shows it, and the command may be run again."
)


def _key_id(text: str) -> str:
    if not is_key_id(text):
        raise typer.BadParameter("Use the id of the key, 12 letters and digits. Never use the key itself.")
    return text


KeyId = Annotated[
    str, typer.Argument(metavar="ID", parser=_key_id, help="The id of the key, as `penstock keys list` shows it.")
]
ExpiresDays = Annotated[
    int | None, typer.Option(min=1, max=36_500, help="The key expires after so many days. Without it: never.")
]

app = typer.Typer(
    help="Make, list, rotate and revoke API keys. The variable PENSTOCK_API_KEY has a key with the scope operate.",
    add_completion=False,
    no_args_is_help=True,
)


def main() -> None:
    command_line.run_commands("keys", app, exit_code=NOT_DONE)


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
        int | None, typer.Option(min=1, help="The most operations submitted with the key that have not finished.")
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
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
    body = {name: value for name, value in wanted.items() if value is not None}
    _show_key(call(url, "POST", "keys", body, if_unknown=_IF_UNKNOWN), as_json)


@app.command("list")
def list_(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List all keys, without their texts."""
    answer = call(url, "GET", "keys")
    if as_json:
        print_json(answer)
    else:
        print_table(_HEADINGS, [_cells(key, datetime.now(UTC)) for key in answer["keys"]])


@app.command()
def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How many hours the old key still works.")] = 24,
    expires_days: ExpiresDays = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Replace a key by a new one for the same tenant and scopes, and print the new one."""
    wanted = {"overlapSeconds": round(overlap_hours * 3600), **_expiry(expires_days)}
    answer = call(url, "POST", f"keys/{key_id}/rotate", wanted, if_unknown=_IF_UNKNOWN)
    _show_key(answer, as_json)
    if not as_json:
        typer.echo(f"The key {answer['replaces']['id']} works until {answer['replaces']['expiresAt']}.", err=True)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Revoke a key."""
    answer = call(url, "DELETE", f"keys/{key_id}", if_unknown=_IF_UNKNOWN_REVOKED)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"The key {answer['id']} is revoked. Requests may be accepted for {_REVOKED_SECONDS} s more.")


def _expiry(days: int | None) -> dict[str, str]:
    if days is None:
        return {}
    return {"expiresAt": (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")}


def _show_key(answer: Any, as_json: bool) -> None:
    """Print the key to standard output, where a script can read it."""
    if as_json:
        print_json(answer)
        return
    typer.echo(answer["key"])
    typer.echo(f"The key {answer['id']} belongs to {answer['tenant']}. It is not shown again.", err=True)


_HEADINGS = ["id", "state", "tenant", "scopes", "name", "limit", "max open", "last used"]


def _cells(key: Any, now: datetime) -> list[str]:
    return [
        key["id"],
        _state(key, now),
        key["tenant"],
        ",".join(key["scopes"]),
        *(str(key[name] or "-") for name in ("name", "limit", "maxOpen")),
        local_time_of(key["lastUsedAt"], "%Y-%m-%d %H:%M"),
    ]


def _state(key: Any, now: datetime) -> str:
    if key["revokedAt"] is not None:
        return f"revoked {local_time_of(key['revokedAt'], _DAY)}"
    if key["expiresAt"] is None:
        return "valid"
    verb = "expired" if datetime.fromisoformat(key["expiresAt"]) <= now else "expires"
    return f"{verb} {local_time_of(key['expiresAt'], _DAY)}"


if __name__ == "__main__":
    main()
