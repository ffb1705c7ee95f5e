"""The database: SQLite, unless USERS_DATABASE_URL names another. Missing tables are created."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, func, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from examples.users.models import STAFF, Base, UserRow

URL_VARIABLE = "USERS_DATABASE_URL"
DEMO_FILE = Path(".run/users.db")

#: The driver for each database, which replaces any driver in the URL.
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}

#: SQLite has one writer at a time. This is how long a process waits for another one.
BUSY_TIMEOUT_SECONDS = 30.0

#: The lock for creating the tables. Any number works if all processes use the same one.
TABLES_LOCK = 0x70656E73


def database_url() -> str:
    return os.environ.get(URL_VARIABLE) or f"sqlite:///{DEMO_FILE}"


class Database:
    """Opens sessions. The first session connects and creates the tables. Call `close` at the end."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(read_url(url))
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._preparing = asyncio.Lock()
        self._is_prepared = False

    @asynccontextmanager
    async def open_session(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction. It starts with the first statement and commits, or rolls back on an exception."""
        await self._prepare()
        async with self._sessions.begin() as session:
            yield session

    async def close(self) -> None:
        await self.engine.dispose()

    async def _prepare(self) -> None:
        async with self._preparing:
            if self._is_prepared:
                return
            if self.engine.dialect.name == "sqlite":
                await asyncio.to_thread(prepare_sqlite_file, Path(self.engine.url.database or ""))
            async with self.engine.begin() as connection:
                await connection.run_sync(create_missing_tables)
            self._is_prepared = True


def read_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ValueError(f"{URL_VARIABLE} is not a valid URL. Write one such as sqlite:///users.db.") from error
    driver = DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise ValueError(
            f"{URL_VARIABLE} starts with {url.get_backend_name()}://. This example supports sqlite and postgresql."
        )
    if driver.startswith("sqlite") and url.database in {None, "", ":memory:"}:
        raise ValueError(f"{URL_VARIABLE} has no file. Name one: processes cannot share a database in memory.")
    return url.set(drivername=driver)


def create_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return create_sqlite_engine(url)
    return create_async_engine(url, pool_size=10, pool_pre_ping=True)


def create_sqlite_engine(url: URL) -> AsyncEngine:
    """Create an engine with one connection.

    SQLite writes one transaction at a time. With one connection, the coroutines of a process wait for it in order. With
    several, they would wait in SQLite, which polls and has no order. The price: code that opens a second session inside
    a first one waits for itself.
    """
    engine = create_async_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        # Python's sqlite3 sends BEGIN only before the first write, which is too late for savepoints. We send it below.
        connection.isolation_level = None
        # A power failure may lose the last transactions but does not damage the file; a program crash loses nothing.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE waits for the write lock at the start. Otherwise a transaction that reads first fails immediately,
        # without waiting for the timeout, if another one has written since.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def prepare_sqlite_file(path: Path) -> None:
    """Create the folder and turn on write-ahead logging, with which commits are cheap and readers do not wait.

    The mode is stored in the file. While another process changes it, SQLite rejects the change immediately, without
    waiting for the timeout. So this retries in a loop.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    give_up_at = time.monotonic() + BUSY_TIMEOUT_SECONDS
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.02)
            else:
                return


def create_missing_tables(connection: Connection) -> None:
    """Create the tables if they are missing. If several processes start together, one creates them and the others wait.

    On SQLite the transaction itself is the lock. PostgreSQL needs an explicit one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(TABLES_LOCK)))
    if not inspect(connection).has_table(UserRow.__tablename__):
        Base.metadata.create_all(connection)
        connection.execute(insert(UserRow).values(plan="business"), STAFF)
