"""The application: the operations on users.

    penstock up --app examples.users.app:operations

Each handler does all its work in `context.transaction`, and handlers that change data have the decorator `@once`.
Together, these two rules perform every operation exactly once, even if it is delivered several times.
"""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.bulk import create_users, update_users
from examples.users.database import Database, database_url
from examples.users.models import UserRow
from examples.users.once import once
from examples.users.rules import email_taken, reject_too_young, reject_unserved, unknown_user
from examples.users.schemas import NewUser, User, UserChange, UserId
from penstock import Context, Operations

database = Database(database_url())
operations = Operations(transaction=database.open_session)


@operations.post("/users", status=201)
@once
async def create_user(user: NewUser, context: Context[AsyncSession]) -> User:
    reject_unserved(user.country)
    reject_too_young(user.born_on)
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
        reject_unserved(change.country)
    for field, value in change.model_dump(exclude_none=True).items():
        setattr(row, field, value)
    await save(context.transaction, row)
    return User.model_validate(row)


@operations.delete("/users/{user_id}", status=204)
@once
async def delete_user(user_id: UserId, context: Context[AsyncSession]) -> None:
    await context.transaction.delete(await find(context.transaction, user_id))
    await context.transaction.flush()


# These handlers are for large imports: one statement performs a hundred operations.
operations.post("/bulk/users", status=201, bulk=True, max_size=500)(create_users)
operations.patch("/bulk/users/{user_id}", bulk=True, max_size=500)(update_users)


async def find(session: AsyncSession, user_id: int) -> UserRow:
    """Return the row and lock it until the transaction ends. SQLite has already locked the whole database."""
    row = await session.get(UserRow, user_id, with_for_update=True)
    if row is None:
        raise unknown_user(user_id)
    return row


async def save(session: AsyncSession, row: UserRow) -> None:
    """Flush the row here, where a duplicate fails only its operation. At the commit it would fail a whole batch."""
    email = row.email
    try:
        await session.flush()
    except IntegrityError as error:
        raise email_taken(email) from error
