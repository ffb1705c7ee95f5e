"""The database: SQLite unless USERS_DATABASE_URL names another, tables made when they are missing."""

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

#: How the two databases are spoken to, whatever driver the URL names or leaves out.
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}

#: One writer at a time is SQLite's rule; how long one of ours waits for the others.
BUSY_TIMEOUT_SECONDS = 30.0

#: Any number will do, as long as every process that makes these tables takes the same.
TABLES_LOCK = 0x70656E73


def database_url() -> str:
    return os.environ.get(URL_VARIABLE) or f"sqlite:///{DEMO_FILE}"


class Database:
    """Opens sessions. Made without touching anything; the first session makes the tables; `close` when done."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(read_url(url))
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._preparing = asyncio.Lock()
        self._is_prepared = False

    @asynccontextmanager
    async def open_session(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed on a clean exit, rolled back on an exception. It begins with the first statement."""
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
        raise ValueError(f"{URL_VARIABLE} is not a URL such as sqlite:///users.db.") from error
    driver = DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise ValueError(
            f"{URL_VARIABLE} begins with {url.get_backend_name()}://; this example speaks sqlite and postgresql."
        )
    if driver.startswith("sqlite") and url.database in {None, "", ":memory:"}:
        raise ValueError(f"{URL_VARIABLE} names no file, and the processes could not share a database in memory.")
    return url.set(drivername=driver)


def create_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return create_sqlite_engine(url)
    return create_async_engine(url, pool_size=10, pool_pre_ping=True)


def create_sqlite_engine(url: URL) -> AsyncEngine:
    """An engine with one connection.

    SQLite writes one transaction at a time. Here the coroutines of a process queue for the one connection in the order
    they came; with a connection each they would queue in SQLite, which polls, and serves in no order at all. The price:
    code that opens a second session inside a first waits for itself.
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
        # Python's own BEGIN comes only before the first write, too late for savepoints: we say it ourselves, below.
        connection.isolation_level = None
        # A power cut may lose the last transactions, but never the file; a crash of the program loses nothing.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock now and waits for it. A transaction that first reads and then finds that
        # another has written meanwhile is refused on the spot, whatever the timeout.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def prepare_sqlite_file(path: Path) -> None:
    """Makes the folder, and sets write-ahead logging, with which commits are cheap and readers need not wait.

    The file remembers that mode. Changing it is what SQLite refuses at once, whatever the timeout, while another
    process is changing it too: hence the loop.
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
    """Safe when several processes start at once: one of them makes the tables, the others wait and find them.

    On SQLite the transaction itself is the lock, PostgreSQL needs one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(TABLES_LOCK)))
    if not inspect(connection).has_table(UserRow.__tablename__):
        Base.metadata.create_all(connection)
        connection.execute(insert(UserRow).values(plan="business"), STAFF)
