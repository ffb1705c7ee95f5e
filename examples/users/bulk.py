"""The same operations for many users in one call: one statement where `app.py` needs a hundred.

    @operations.post("/bulk/users", status=201, bulk=True)

A bulk handler receives lists with one item for each operation, and returns a list: a result or a Reject for each. All
of them share one transaction, so a rejected row must not change anything: either it is not part of a statement, or the
statement skips it. An error in a statement fails the whole call. Penstock then runs the rows one by one, with the same
handler and lists of one item, so that only the faulty row fails.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import Table, case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.models import UserRow
from examples.users.once import INSERTS, once_each
from examples.users.rules import email_taken, reject_too_young, reject_unserved, unknown_user
from examples.users.schemas import NewUser, User, UserChange, UserId
from penstock import Context, Reject

users_table = cast("Table", UserRow.__table__)

CHANGEABLE = ("email", "name", "country", "plan")


@once_each
async def create_users(users: list[NewUser], contexts: list[Context[AsyncSession]]) -> list[User | Reject]:
    rejections = [rejection_of(user) for user in users]
    accepted = [user for user, rejection in zip(users, rejections, strict=True) if rejection is None]
    ids = await insert_users(contexts[0].transaction, accepted)
    # Of several rows with the same address the first one wins: its id is removed, so that the others find none.
    return [
        rejection or created(user, ids.pop(user.email, None)) for user, rejection in zip(users, rejections, strict=True)
    ]


@once_each
async def update_users(
    user_id: list[UserId], changes: list[UserChange], contexts: list[Context[AsyncSession]]
) -> list[User | Reject]:
    session = contexts[0].transaction
    users = await find_users(session, user_id)
    owners = await find_owners(session, [change.email for change in changes if change.email is not None])
    outcomes = [apply_change(users, owners, *one) for one in zip(user_id, changes, strict=True)]
    changed = {outcome.id: users[outcome.id] for outcome in outcomes if isinstance(outcome, User)}
    try:
        await store_users(session, changed.values())
    except IntegrityError as error:  # another transaction has used an address since the check
        raise email_taken(", ".join(user.email for user in changed.values())) from error
    return outcomes


def rejection_of(user: NewUser) -> Reject | None:
    try:
        reject_unserved(user.country)
        reject_too_young(user.born_on)
    except Reject as rejection:
        return rejection
    return None


def created(user: NewUser, user_id: int | None) -> User | Reject:
    return email_taken(user.email) if user_id is None else User(id=user_id, **user.model_dump())


def apply_change(users: dict[int, User], owners: dict[str, int], user_id: int, change: UserChange) -> User | Reject:
    """Apply a change in memory: to `users`, which are stored later, and to the `owners` of the addresses."""
    if user_id not in users:
        return unknown_user(user_id)
    if change.country is not None:
        try:
            reject_unserved(change.country)
        except Reject as rejection:
            return rejection
    # This check comes last, since a rejected change must not claim an address.
    if change.email is not None and owners.setdefault(change.email, user_id) != user_id:
        return email_taken(change.email)
    users[user_id] = users[user_id].model_copy(update=change.model_dump(exclude_none=True))
    return users[user_id]


async def insert_users(session: AsyncSession, users: Sequence[NewUser]) -> dict[str, int]:
    """Insert the users whose address is free and return their ids by address. Sorted rows avoid a deadlock."""
    if not users:
        return {}
    insert = INSERTS[(await session.connection()).dialect.name]
    rows = [user.model_dump() for user in sorted(users, key=lambda user: user.email)]
    statement = insert(users_table).values(rows).on_conflict_do_nothing(index_elements=["email"])
    inserted = await session.execute(statement.returning(UserRow.email, UserRow.id))
    return {row.email: row.id for row in inserted}


async def find_users(session: AsyncSession, ids: Iterable[int]) -> dict[int, User]:
    """Return the users and lock them until the transaction ends. Sorted ids avoid a deadlock."""
    statement = select(UserRow).where(UserRow.id.in_(set(ids))).order_by(UserRow.id).with_for_update()
    return {row.id: User.model_validate(row) for row in await session.scalars(statement)}


async def find_owners(session: AsyncSession, emails: Iterable[str]) -> dict[str, int]:
    found = await session.execute(select(UserRow.email, UserRow.id).where(UserRow.email.in_(set(emails))))
    return {row.email: row.id for row in found}


async def store_users(session: AsyncSession, users: Iterable[User]) -> None:
    """Update all users in one statement, which maps ids to values for each column."""
    by_id = {user.id: user.model_dump(include=set(CHANGEABLE)) for user in users}
    if not by_id:
        return
    values: dict[str, Any] = {
        name: case({user_id: fields[name] for user_id, fields in by_id.items()}, value=UserRow.id)
        for name in CHANGEABLE
    }
    statement = update(UserRow).where(UserRow.id.in_(by_id)).values(values)
    await session.execute(statement, execution_options={"synchronize_session": False})
