"""How the commands reach the server: its URL, and the key that they send."""

from contextlib import suppress
from typing import Annotated

import typer
from yarl import URL

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
