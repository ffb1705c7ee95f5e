"""`make run` starts this program: it runs Penstock with this example and imports the example's data file.

new database ──► penstock up ──► ready ──► penstock submit users.csv ──► check the database ──► keep serving
"""

import asyncio
import csv
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import make_url, select

from examples.demo import Failed, carry_out, check_port, penstock_up
from examples.users.database import DEMO_FILE, URL_VARIABLE, Database, database_url, read_url
from examples.users.models import STAFF, UserRow

APPLICATION = "examples.users.app:operations"
DATA_FILE = Path(__file__).with_name("users.csv")


def main(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port of Penstock.")] = 8080,
    *,
    once: Annotated[bool, typer.Option("--once", help="Exit after the summary, with 0 if all is as expected.")] = False,
) -> None:
    """Start Penstock with the users example, import the example's data file, and keep serving until Ctrl-C."""
    carry_out(partial(run, port, once=once))


def run(port: int, *, once: bool) -> bool:
    """Return True if every row has the outcome that the data file expects, and the database contains these users."""
    check_port(port, "make run ARGS='--port {port}'")
    prepare_database()
    with penstock_up(APPLICATION, port) as penstock:
        penstock.wait_until_ready()
        is_well = penstock.submit(DATA_FILE, "--method", "POST", "--path", "/users") & check_database()
        if not once:
            penstock.serve_until_interrupted(what_to_try(penstock.url))
    return is_well or not once


def prepare_database() -> None:
    """Delete the demo database, so that the demo starts with an empty one. Never delete a database that you named."""
    try:
        read_url(database_url())
    except ValueError as error:
        raise Failed(str(error)) from error
    if os.environ.get(URL_VARIABLE):
        typer.echo(f"Using {database_name()}. Users that it already contains will be rejected with 409.")
        return
    for ending in ("", "-wal", "-shm"):
        DEMO_FILE.with_name(DEMO_FILE.name + ending).unlink(missing_ok=True)


def database_name() -> str:
    if not os.environ.get(URL_VARIABLE):
        return str(DEMO_FILE)
    return make_url(database_url()).render_as_string(hide_password=True)


def check_database() -> bool:
    """Return True if the database contains exactly the users that the data file expects."""
    found, expected = asyncio.run(read_emails()), expected_emails(DATA_FILE)
    missing = expected - found
    unexpected = set() if os.environ.get(URL_VARIABLE) else found - expected
    typer.echo(f"{len(found):,} users are in {database_name()}: {verdict(missing, unexpected)}")
    return not missing and not unexpected


def verdict(missing: set[str], unexpected: set[str]) -> str:
    if not missing and not unexpected:
        return "exactly those that the data file expects."
    named = {"missing": sorted(missing), "unexpected": sorted(unexpected)}
    return "; ".join(f"{len(who)} {what}, such as {who[0]}" for what, who in named.items() if who) + "."


async def read_emails() -> set[str]:
    database = Database(database_url())
    try:
        async with database.open_session() as session:
            return set(await session.scalars(select(UserRow.email)))
    finally:
        await database.close()


def expected_emails(file: Path) -> set[str]:
    """Return the addresses of the staff and of all rows that may succeed. Of two rows with one address, one does."""
    with file.open(encoding="utf-8", newline="") as lines:
        accepted = {row["email"].lower() for row in csv.DictReader(lines) if "201" in row["expect"]}
    return accepted | {str(account["email"]) for account in STAFF}


def what_to_try(url: str) -> str:
    return f"""\
  curl -s {url}/batch -H 'Content-Type: application/json' -d '{{"operations": [
    {{"id": "new",  "method": "POST",  "path": "/users", "body":
      {{"email": "ada@example.com", "name": "Ada Lovelace", "born_on": "1985-12-10", "country": "GB"}}}},
    {{"id": "dup",  "method": "POST",  "path": "/users", "body":
      {{"email": "help@penstock.example", "name": "Nobody", "born_on": "1990-01-01", "country": "IE"}}}},
    {{"id": "look", "method": "GET",   "path": "/users/1"}},
    {{"id": "move", "method": "PATCH", "path": "/users/2", "body": {{"country": "SE"}}}}]}}'

  curl -s {url}/batch -H 'Content-Type: application/json' -d '{{"atomic": true, "operations": [
    {{"method": "DELETE", "path": "/users/2"}}, {{"method": "GET", "path": "/users/999999"}}]}}'"""


if __name__ == "__main__":
    typer.run(main)
