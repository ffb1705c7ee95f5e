"""The users example: its handlers against real databases, its data file, and the program that `make run` starts."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from examples.users import bulk, make_data
from examples.users.app import create_user, delete_user, get_user, operations, update_user
from examples.users.bulk import create_users, update_users
from examples.users.database import Database, prepare_sqlite_file, read_url
from examples.users.models import STAFF, UserRow, answers
from examples.users.once import once_each
from examples.users.rules import COUNTRIES, MINIMUM_AGE_YEARS, age_on, email_taken
from examples.users.schemas import NewUser, User, UserChange
from penstock import Context, Reject
from tests.support.programs import free_port

T = TypeVar("T")

POSTGRES_URL = os.environ.get("USERS_TEST_POSTGRES_URL", "")
HANG_SECONDS = 30
ROOT = Path(__file__).parents[2]  # where the examples can be imported; they are not installed
needs_postgres = pytest.mark.skipif(not POSTGRES_URL, reason="USERS_TEST_POSTGRES_URL names no PostgreSQL")

ADA = NewUser(email="ada@example.com", name="Ada Lovelace", born_on=date(1985, 12, 10), country="GB", plan="team")
GRACE = NewUser(email="grace@example.com", name="Grace Hopper", born_on=date(1976, 12, 9), country="IE")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[needs_postgres, pytest.mark.full])])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/users.db"
        return
    async with postgres_database() as url:
        yield url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with opened(url) as database:
        yield database


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def postgres_database() -> AsyncIterator[str]:
    name = f"users_{uuid4().hex}"
    server = create_async_engine(read_url(POSTGRES_URL), isolation_level="AUTOCOMMIT")
    try:
        async with server.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
            yield make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False)
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await server.dispose()


def context(session: AsyncSession, key: str | None = None) -> Context[AsyncSession]:
    return Context("an operation", "a batch", 1, key or uuid4().hex, session)


async def perform(
    database: Database, handler: Callable[..., Awaitable[T]], *, key: str | None = None, **arguments: Any
) -> T:
    """One attempt at an operation, in a transaction of its own: as consumers do it."""
    async with database.open_session() as session:
        return await handler(**arguments, context=context(session, key))


async def status_of(attempt: Awaitable[object]) -> int:
    try:
        await attempt
    except Reject as rejection:
        return rejection.status
    return 201


async def emails(database: Database) -> set[str]:
    async with database.open_session() as session:
        return set(await session.scalars(select(UserRow.email)))


async def count_answers(database: Database) -> int:
    async with database.open_session() as session:
        return await session.scalar(select(func.count()).select_from(answers)) or 0


# What the handlers do


async def test_a_user_can_be_created_read_changed_and_deleted(database: Database) -> None:
    ada = await perform(database, create_user, user=ADA)
    assert ada == await perform(database, get_user, user_id=ada.id)

    moved = await perform(database, update_user, user_id=ada.id, change=UserChange(country="SE"))
    assert moved == ada.model_copy(update={"country": "SE"})

    await perform(database, delete_user, user_id=ada.id)
    assert await status_of(perform(database, get_user, user_id=ada.id)) == 404


@pytest.mark.parametrize(
    ("handler", "arguments"),
    [(get_user, {}), (update_user, {"change": UserChange(plan="free")}), (delete_user, {})],
)
async def test_an_unknown_user_is_not_found(
    database: Database, handler: Callable[..., Awaitable[object]], arguments: dict[str, Any]
) -> None:
    assert await status_of(perform(database, handler, user_id=2**31 - 1, **arguments)) == 404


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"email": STAFF[0]["email"]}, 409),  # somebody else's
        ({"country": "US"}, 422),  # not served
        ({"born_on": date(2020, 2, 29)}, 403),  # a child
    ],
)
async def test_a_refused_user_leaves_nothing_behind(database: Database, wrong: dict[str, Any], status: int) -> None:
    assert await status_of(perform(database, create_user, user=ADA.model_copy(update=wrong))) == status
    assert len(await emails(database)) == len(STAFF)
    assert await count_answers(database) == 0


async def test_a_mailbox_is_the_same_however_it_is_written(database: Database) -> None:
    await perform(database, create_user, user=ADA)
    shouting = NewUser(**ADA.model_dump() | {"email": "ADA@Example.COM"})
    assert await status_of(perform(database, create_user, user=shouting)) == 409


async def test_a_change_to_a_taken_email_is_refused_and_changes_nothing_else(database: Database) -> None:
    await perform(database, create_user, user=ADA)
    grace = await perform(database, create_user, user=GRACE)
    change = UserChange(email=ADA.email, plan="business")
    assert await status_of(perform(database, update_user, user_id=grace.id, change=change)) == 409
    assert grace == await perform(database, get_user, user_id=grace.id)


async def test_a_move_to_a_country_that_is_not_served_is_refused(database: Database) -> None:
    ada = await perform(database, create_user, user=ADA)
    assert await status_of(perform(database, update_user, user_id=ada.id, change=UserChange(country="BR"))) == 422


@pytest.mark.parametrize(
    ("born_on", "age"),
    [
        (date(2010, 4, 15), 16),  # today
        (date(2010, 4, 16), 15),  # tomorrow
        (date(2008, 2, 29), 18),  # a birthday that is not every year
    ],
)
def test_age_counts_birthdays(born_on: date, age: int) -> None:
    assert age_on(date(2026, 4, 15), born_on) == age


# Exactly once


async def test_an_operation_run_again_changes_nothing_and_answers_the_same(database: Database) -> None:
    ada = await perform(database, create_user, user=ADA, key="create")
    assert await perform(database, create_user, user=ADA, key="create") == ada

    team = await perform(database, update_user, user_id=ada.id, change=UserChange(plan="team"), key="to team")
    await perform(database, update_user, user_id=ada.id, change=UserChange(plan="free"), key="to free")
    again = await perform(database, update_user, user_id=ada.id, change=UserChange(plan="team"), key="to team")
    assert again == team
    assert (await perform(database, get_user, user_id=ada.id)).plan == "free"

    await perform(database, delete_user, user_id=ada.id, key="delete")
    await perform(database, delete_user, user_id=ada.id, key="delete")
    assert await perform(database, create_user, user=ADA, key="create") == ada  # and does not bring her back
    assert len(await emails(database)) == len(STAFF)


async def test_an_operation_delivered_twice_at_the_same_time_is_done_once(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        attempts = [perform(database, create_user, user=ADA, key="create") for database in (one, other) * 5]
        given = await asyncio.gather(*attempts)
        assert given == [given[0]] * 10
        assert await emails(one) == {ADA.email, *(str(account["email"]) for account in STAFF)}


async def test_rivals_for_an_email_are_told_apart(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        attempts = [status_of(perform(database, create_user, user=ADA)) for database in (one, other) * 5]
        assert sorted(await asyncio.gather(*attempts)) == [201] + [409] * 9


async def test_an_attempt_that_failed_does_not_spoil_the_next(database: Database) -> None:
    rival = await perform(database, create_user, user=ADA)
    assert await status_of(perform(database, create_user, user=ADA, key="create")) == 409
    await perform(database, delete_user, user_id=rival.id)
    assert (await perform(database, create_user, user=ADA, key="create")).email == ADA.email


async def test_an_attempt_cut_off_while_it_waits_for_the_writer_leaves_the_database_usable(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/users.db") as database:
        await emails(database)
        with closing(sqlite3.connect(tmp_path / "users.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            attempt = asyncio.create_task(perform(database, create_user, user=ADA, key="create"))
            await asyncio.wait({attempt}, timeout=0.2)  # it cannot end: the writer is the other
            attempt.cancel()
            writer.execute("COMMIT")
            with pytest.raises(asyncio.CancelledError):
                await attempt
        assert await count_answers(database) == 0
        assert (await perform(database, create_user, user=ADA, key="create")).email == ADA.email


# Many at once


async def perform_bulk(
    database: Database, handler: Callable[..., Awaitable[list[T]]], keys: Iterable[str] | None = None, **lists: Any
) -> list[T]:
    """One call, in one transaction, as consumers make it."""
    count = len(next(iter(lists.values())))
    async with database.open_session() as session:
        contexts = [context(session, key) for key in keys or [uuid4().hex for _ in range(count)]]
        return await handler(**lists, contexts=contexts)


def outcomes(given: list[User | Reject]) -> list[str | int]:
    """The addresses of users, the statuses of what was rejected."""
    return [one.status if isinstance(one, Reject) else one.email for one in given]


def make_users(*names: str) -> list[NewUser]:
    return [ADA.model_copy(update={"email": f"{name}@example.com", "name": name}) for name in names]


async def test_many_users_are_created_and_each_wrong_one_is_told(database: Database) -> None:
    ada, bob, cleo = make_users("ada", "bob", "cleo")
    staff = ADA.model_copy(update={"email": STAFF[0]["email"]})
    abroad, child = bob.model_copy(update={"country": "US"}), bob.model_copy(update={"born_on": date(2020, 2, 29)})
    given = await perform_bulk(database, create_users, users=[cleo, staff, ada, abroad, bob, ada, child])
    assert outcomes(given) == [cleo.email, 409, ada.email, 422, bob.email, 409, 403]
    assert await count_answers(database) == 3
    for user in given:
        if isinstance(user, User):
            assert user == await perform(database, get_user, user_id=user.id)


async def test_many_users_are_changed_and_each_wrong_change_is_told(database: Database) -> None:
    ada, bob, cleo = await created(database, *make_users("ada", "bob", "cleo"))
    given = await perform_bulk(
        database,
        update_users,
        user_id=[ada.id, bob.id, 2**31 - 1, cleo.id, cleo.id, ada.id],
        changes=[
            UserChange(name="Ada King", plan="business"),
            UserChange(email=cleo.email),  # taken
            UserChange(plan="team"),  # nobody
            UserChange(country="US"),  # not served
            UserChange(email="cleopatra@example.com"),
            UserChange(country="SE"),  # after the change before
        ],
    )
    assert outcomes(given) == [ada.email, 409, 404, 422, "cleopatra@example.com", ada.email]
    assert await perform(database, get_user, user_id=ada.id) == given[5]
    assert await perform(database, get_user, user_id=bob.id) == bob
    assert await perform(database, get_user, user_id=cleo.id) == given[4]
    assert isinstance(given[5], User)
    assert (given[5].name, given[5].plan, given[5].country) == ("Ada King", "business", "SE")


async def test_of_two_who_want_one_address_the_first_has_it(database: Database) -> None:
    ada, bob = await created(database, *make_users("ada", "bob"))
    wanted = UserChange(email="wanted@example.com")
    given = await perform_bulk(database, update_users, user_id=[ada.id, bob.id], changes=[wanted, wanted])
    assert outcomes(given) == ["wanted@example.com", 409]


async def test_who_is_refused_claims_no_address(database: Database) -> None:
    ada, bob = await created(database, *make_users("ada", "bob"))
    changes = [UserChange(email="wanted@example.com", country="US"), UserChange(email="wanted@example.com")]
    given = await perform_bulk(database, update_users, user_id=[ada.id, bob.id], changes=changes)
    assert outcomes(given) == [422, "wanted@example.com"]


async def test_an_address_taken_since_we_looked_fails_the_call_and_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Penstock then tries its operations singly, where it is told of the one that wants it."""
    ada, bob = await created(database, *make_users("ada", "bob"))

    async def find_none(_session: AsyncSession, _emails: Iterable[str]) -> dict[str, int]:
        return {}

    monkeypatch.setattr(bulk, "find_owners", find_none)
    changes = [UserChange(plan="business"), UserChange(email=ada.email)]
    both = perform_bulk(database, update_users, user_id=[ada.id, bob.id], changes=changes)
    assert await status_of(both) == 409
    assert await perform(database, get_user, user_id=ada.id) == ada
    [ada] = [user for user in await perform_bulk(database, update_users, user_id=[ada.id], changes=changes[:1])
             if isinstance(user, User)]  # fmt: skip
    assert ada.plan == "business"
    assert await status_of(perform_bulk(database, update_users, user_id=[bob.id], changes=changes[1:])) == 409


async def test_a_bulk_call_run_again_changes_nothing_and_answers_the_same(database: Database) -> None:
    keys = ["a", "b", "c"]
    users = [*make_users("ada", "bob"), ADA.model_copy(update={"country": "US"})]
    first = await perform_bulk(database, create_users, keys, users=users)
    again = await perform_bulk(database, create_users, keys, users=users)
    assert outcomes(again) == outcomes(first) == [users[0].email, users[1].email, 422]
    assert again[:2] == first[:2]
    assert await count_answers(database) == 2


async def test_a_bulk_call_does_only_what_an_earlier_run_has_not_done(database: Database) -> None:
    ada, bob = make_users("ada", "bob")
    [done] = await perform_bulk(database, create_users, ["a"], users=[ada])
    both = await perform_bulk(database, create_users, ["b", "a"], users=[bob, ada])
    assert outcomes(both) == [bob.email, ada.email]
    assert both[1] == done
    single = await perform(database, create_user, user=bob, key="b")  # one handler answers for the other
    assert single == both[0]


async def test_a_bulk_call_delivered_twice_at_the_same_time_is_done_once(url: str) -> None:
    users = make_users("ada", "bob", "cleo")
    async with opened(url) as one, opened(url) as other:
        attempts = [perform_bulk(database, create_users, ["a", "b", "c"], users=users) for database in (one, other) * 3]
        given = await asyncio.gather(*attempts)
        assert given == [given[0]] * 6
        assert len(await emails(one)) == len(STAFF) + 3


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_outcomes_is_wrong_once_wrapped_too(database: Database, count: int) -> None:
    """Also when it would be right without what an earlier run has done."""

    @once_each
    async def create(users: list[NewUser], contexts: list[Context[AsyncSession]]) -> list[User | Reject]:
        rejected: list[User | Reject] = [email_taken(user.email) for user in users * 3]
        return rejected[:count]

    ada, bob, cleo = make_users("ada", "bob", "cleo")
    await perform_bulk(database, create_users, ["a"], users=[ada])
    given = await perform_bulk(database, create, ["a", "b", "c"], users=[ada, bob, cleo])
    assert len(given) == 1 + count


async def test_rivals_in_two_calls_are_told_apart(url: str) -> None:
    users = make_users("ada", "bob", "cleo")
    async with opened(url) as one, opened(url) as other:
        calls = [(one, users), (other, users[::-1])] * 3
        given = await asyncio.gather(*(perform_bulk(database, create_users, users=some) for database, some in calls))
        found = [str(outcome) for one in given for outcome in outcomes(one)]
        assert sorted(found) == sorted([*(user.email for user in users), *["409"] * 15])


@pytest.mark.parametrize("name", ["POST /bulk/users", "PATCH /bulk/users/{user_id}"])
def test_what_comes_many_at_once_is_offered(name: str) -> None:
    [route] = [route for route in operations.routes if route.name == name]
    assert route.is_bulk


async def created(database: Database, *users: NewUser) -> list[User]:
    given = await perform_bulk(database, create_users, users=list(users))
    return [user for user in given if isinstance(user, User)]


class Undo(Exception):
    """What leaves the transaction of an atomic batch that failed."""


# A small batch: one transaction, a savepoint for each operation


async def small_batch(session: AsyncSession, *users: NewUser) -> list[User | int]:
    outcomes: list[User | int] = []
    for user in users:
        try:
            async with session.begin_nested():
                outcomes.append(await create_user(user=user, context=context(session, f"key of {user.name}")))
        except Reject as rejection:
            outcomes.append(rejection.status)
    return outcomes


async def test_a_failed_operation_of_a_small_batch_rolls_back_only_itself(database: Database) -> None:
    again = ADA.model_copy(update={"name": "Ada King"})
    abroad = ADA.model_copy(update={"name": "Ada Byron", "country": "US"})
    async with database.open_session() as session:
        ada, *refused, grace = await small_batch(session, ADA, again, abroad, again, GRACE)
    assert refused == [409, 422, 409]
    assert isinstance(ada, User)
    assert isinstance(grace, User)
    assert grace == await perform(database, get_user, user_id=grace.id)
    assert await count_answers(database) == 2


async def test_an_operation_tried_again_within_its_batch_is_done_once(database: Database) -> None:
    async with database.open_session() as session:
        first, second = await small_batch(session, ADA, ADA)  # the same name has the same key here
    assert isinstance(first, User)
    assert first == second


async def test_an_atomic_batch_that_fails_leaves_nothing_behind(database: Database) -> None:
    with suppress(Undo):
        async with database.open_session() as session:
            await small_batch(session, ADA, GRACE, ADA.model_copy(update={"name": "Ada King"}))
            raise Undo
    assert len(await emails(database)) == len(STAFF)
    assert await count_answers(database) == 0


# The database

MAKE_TABLES = """
import asyncio, sys
from sqlalchemy import select
from examples.users.database import Database
from examples.users.models import UserRow

async def main():
    database = Database(sys.argv[1])
    async with database.open_session() as session:
        print(len(list(await session.scalars(select(UserRow.email)))))
    await database.close()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


@pytest.mark.full
async def test_processes_that_start_at_once_make_the_tables_once(url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAKE_TABLES, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [output for output, _ in outputs] == [b"%d\n" % len(STAFF)] * 4


async def test_a_process_that_starts_while_another_makes_the_file_waits_for_it(tmp_path: Path) -> None:
    file = tmp_path / "users.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # here SQLite refuses to change the mode without waiting
        preparing = asyncio.create_task(asyncio.to_thread(prepare_sqlite_file, file))
        await asyncio.wait({preparing}, timeout=0.2)  # it cannot end well yet
        other.execute("COMMIT")
        await preparing
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///users.db", "sqlite+aiosqlite"),
        ("postgresql://ada@db/users", "postgresql+asyncpg"),
        ("postgres://ada@db/users", "postgresql+asyncpg"),  # as hosting services write it
        ("postgresql+psycopg://ada@db/users", "postgresql+asyncpg"),
    ],
)
def test_a_url_needs_no_driver(url: str, driver: str) -> None:
    assert read_url(url).drivername == driver


@pytest.mark.parametrize("url", ["mysql://db/users", "sqlite://", "sqlite:///:memory:", "users.db"])
def test_a_url_that_cannot_serve_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="USERS_DATABASE_URL"):
        read_url(url)


# The data file


def test_the_data_file_is_what_its_generator_draws() -> None:
    assert make_data.FILE.read_bytes() == make_data.render(make_data.make_rows())


def test_every_row_of_the_data_file_is_one_that_a_batch_accepts() -> None:
    for row in make_data.make_rows():
        as_body(row)


def test_whoever_the_data_file_lets_in_lives_where_we_serve_and_is_old_enough() -> None:
    for row in make_data.make_rows():
        if "201" in row["expect"]:
            assert row["country"] in COUNTRIES
            assert age_on(date(2026, 1, 1), date.fromisoformat(row["born_on"])) >= MINIMUM_AGE_YEARS


async def test_rows_that_are_wrong_on_purpose_end_as_they_say(database: Database) -> None:
    rows = [row for row in make_data.make_rows() if row["expect"] != "201"]
    statuses = await asyncio.gather(*(status_of(perform(database, create_user, user=as_body(row))) for row in rows))
    assert all(str(status) in row["expect"].split("|") for row, status in zip(rows, statuses, strict=True))
    assert statuses.count(201) == make_data.PAIRS
    assert len(rows) == make_data.UNSERVED_ROWS + make_data.CHILD_ROWS + make_data.STAFF_ROWS + 2 * make_data.PAIRS


def test_more_rows_can_be_drawn_for_larger_runs() -> None:
    rows = make_data.make_rows(10_000)
    assert len({row["email"].lower() for row in rows if "201" in row["expect"]}) == 10_000 - 31 - make_data.PAIRS


def as_body(row: make_data.Row) -> NewUser:
    """The row as `penstock submit` sends it: empty cells, and what is expected, stay behind."""
    return NewUser.model_validate({column: cell for column, cell in row.items() if cell and column != "expect"})


# What `make run` starts

RUN_WITH_FILE = """
import pathlib, sys, typer
from examples.users import __main__ as program
program.DATA_FILE = pathlib.Path(sys.argv.pop(1))
typer.run(program.main)
"""


@pytest.fixture
def few_rows(tmp_path: Path) -> Path:
    """All that is wrong in the data file, and enough that is right to make it a large batch."""
    rows = sorted(make_data.make_rows(), key=lambda row: row["expect"] == "201")
    file = tmp_path / "few.csv"
    file.write_bytes(make_data.render(rows[:150]))
    return file


def expect_too_much(file: Path) -> None:
    file.write_text(file.read_text("utf-8").replace(",422\n", ",201\n", 1), "utf-8")


@asynccontextmanager
async def started(*arguments: str, cwd: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN_WITH_FILE, *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "USERS_DATABASE_URL": "", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def run(*arguments: str, cwd: Path, **environment: str) -> tuple[int | None, str, str]:
    async with started(*arguments, cwd=cwd, **environment) as process:
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.full
async def test_the_example_ends_well_when_every_row_ended_as_meant(few_rows: Path, tmp_path: Path) -> None:
    code, output, errors = await run(str(few_rows), "--once", "--port", str(free_port()), cwd=tmp_path)
    assert code == 0, output + errors
    users = 150 - make_data.UNSERVED_ROWS - make_data.CHILD_ROWS - make_data.STAFF_ROWS - make_data.PAIRS + len(STAFF)
    assert f"{users} users are in .run/users.db: exactly those that the data file expects." in output


@pytest.mark.full
async def test_the_example_ends_badly_when_a_row_did_not_end_as_meant(few_rows: Path, tmp_path: Path) -> None:
    expect_too_much(few_rows)
    code, output, errors = await run(str(few_rows), "--once", "--port", str(free_port()), cwd=tmp_path)
    assert code == 1, output + errors
    assert "1 missing, such as " in output, output + errors


@pytest.mark.full
@pytest.mark.usefixtures("ctrl_c")
async def test_the_example_serves_until_ctrl_c(few_rows: Path, tmp_path: Path) -> None:
    port = free_port()
    async with started(str(few_rows), "--port", str(port), cwd=tmp_path) as process:
        assert process.stdout is not None
        await process.stdout.readuntil(b"Press Ctrl-C to stop it.")
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_in_use_is_said_in_a_sentence(few_rows: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, errors = await run(str(few_rows), "--port", str(port), cwd=tmp_path)
    assert code == 1
    assert errors.startswith(f"Port {port} is not available (Address already in use).")


@pytest.mark.full
async def test_the_reason_why_penstock_did_not_start_is_shown(few_rows: Path, tmp_path: Path) -> None:
    port = str(free_port())
    code, _, errors = await run(str(few_rows), "--port", port, cwd=tmp_path, PENSTOCK_CONCURRENCY="plenty")
    assert code == 1
    assert errors.startswith("Penstock exited before it was ready")
    assert "PENSTOCK_CONCURRENCY" in errors
