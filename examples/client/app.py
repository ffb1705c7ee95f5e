"""The application that the story calls: it keeps customers in a database, and sends them invoices."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from penstock import Operations, Reject

DATABASE = Path(".run/customers.db")

operations = Operations()


@operations.put("/customers/{name}")
def add_customer(name: str) -> None:
    with open_database() as database:
        database.execute("INSERT OR IGNORE INTO customers VALUES (?)", (name,))


@operations.post("/customers/{name}/invoices", status=201)
def send_invoice(name: str, body: dict[str, float]) -> str:
    with open_database() as database:
        if database.execute("SELECT 1 FROM customers WHERE name = ?", (name,)).fetchone() is None:
            raise Reject(404, f"There is no customer {name}.")
    return f"{name} owes {body['amount']:.2f}."


@contextmanager
def open_database() -> Iterator[sqlite3.Connection]:
    DATABASE.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY)")
        yield database
