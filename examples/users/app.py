"""The application: what can be done with users.

    penstock up --app examples.users.app:operations

Each handler does all its work in `context.transaction`, and those that change something are marked `@once`: two habits
that make every operation happen exactly once, however often it is delivered.
"""

from datetime import UTC, date, datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.database import Database, database_url
from examples.users.models import UserRow
from examples.users.once import once
from examples.users.schemas import NewUser, User, UserChange, UserId
from penstock import Context, Operations, Reject

MINIMUM_AGE_YEARS = 16

COUNTRIES = frozenset({
    "AT", "BE", "CH", "CZ", "DE", "DK", "ES", "FI", "FR", "GB", "GR", "HU",
    "IE", "IS", "IT", "JP", "NL", "NO", "PL", "PT", "RO", "SE", "TR", "UA",
})  # fmt: skip

database = Database(database_url())
operations = Operations(transaction=database.open_session)


@operations.post("/users", status=201)
@once
async def create_user(user: NewUser, context: Context[AsyncSession]) -> User:
    refuse_unserved(user.country)
    refuse_too_young(user.born_on)
    row = UserRow(**user.model_dump())
    context.transaction.add(row)
    await save(context.transaction, row)
    return User.model_validate(row)


@operations.get("/users/{user_id}")
async def get_user(user_id: UserId, context: Context[AsyncSession]) -> User:
    return User.model_validate(await find(context.transaction, user_id))


@operations.patch("/users/{user_id}")
@once
async def update_user(user_id: UserId, change: UserChange, context: Context[AsyncSession]) -> User:
    row = await find(context.transaction, user_id)
    if change.country is not None:
        refuse_unserved(change.country)
    for field, value in change.model_dump(exclude_none=True).items():
        setattr(row, field, value)
    await save(context.transaction, row)
    return User.model_validate(row)


@operations.delete("/users/{user_id}", status=204)
@once
async def delete_user(user_id: UserId, context: Context[AsyncSession]) -> None:
    await context.transaction.delete(await find(context.transaction, user_id))
    await context.transaction.flush()


async def find(session: AsyncSession, user_id: int) -> UserRow:
    """The row, locked until the transaction ends (SQLite has locked it already): nobody deletes it under our hands."""
    row = await session.get(UserRow, user_id, with_for_update=True)
    if row is None:
        raise Reject(404, f"There is no user {user_id}.")
    return row


async def save(session: AsyncSession, row: UserRow) -> None:
    """Flushes here, where a duplicate can be told apart: at the commit it would be the failure of a whole batch."""
    email = row.email
    try:
        await session.flush()
    except IntegrityError as error:
        raise Reject(409, f"The e-mail address {email} belongs to another user.") from error


def refuse_unserved(country: str) -> None:
    if country not in COUNTRIES:
        raise Reject(422, f"We do not serve {country} yet.")


def refuse_too_young(born_on: date) -> None:
    if age_on(datetime.now(UTC).date(), born_on) < MINIMUM_AGE_YEARS:
        raise Reject(403, f"Users are at least {MINIMUM_AGE_YEARS} years old.")


def age_on(day: date, born_on: date) -> int:
    had_birthday = (day.month, day.day) >= (born_on.month, born_on.day)
    return day.year - born_on.year - (not had_birthday)
