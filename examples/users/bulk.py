"""The same for very many users at once: one statement where `app.py` makes a hundred.

    @operations.post("/bulk/users", status=201, bulk=True)

A bulk handler is given lists, with a place for each operation, and returns one: a result, or a Reject in its place. The
lot has one transaction, so a row that is rejected must not have changed anything: here it never gets into a statement,
or the statement passes over it. What does break a statement fails the call; Penstock then tries its rows singly, by the
same handler with lists of one, and only the row at fault has failed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import Table, case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.models import UserRow
from examples.users.once import INSERTS, once_each
from examples.users.rules import email_taken, refuse_too_young, refuse_unserved, unknown_user
from examples.users.schemas import NewUser, User, UserChange, UserId
from penstock import Context, Reject

users_table = cast("Table", UserRow.__table__)

CHANGEABLE = ("email", "name", "country", "plan")


@once_each
async def create_users(users: list[NewUser], contexts: list[Context[AsyncSession]]) -> list[User | Reject]:
    refusals = [refusal_of(user) for user in users]
    accepted = [user for user, refusal in zip(users, refusals, strict=True) if refusal is None]
    ids = await insert_users(contexts[0].transaction, accepted)
    # Of several with one address the first has it: its id is taken out, so the others find none.
    return [refusal or created(user, ids.pop(user.email, None)) for user, refusal in zip(users, refusals, strict=True)]


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
    except IntegrityError as error:  # somebody has taken an address since we looked
        raise email_taken(", ".join(user.email for user in changed.values())) from error
    return outcomes


def refusal_of(user: NewUser) -> Reject | None:
    try:
        refuse_unserved(user.country)
        refuse_too_young(user.born_on)
    except Reject as refusal:
        return refusal
    return None


def created(user: NewUser, user_id: int | None) -> User | Reject:
    return email_taken(user.email) if user_id is None else User(id=user_id, **user.model_dump())


def apply_change(users: dict[int, User], owners: dict[str, int], user_id: int, change: UserChange) -> User | Reject:
    """In memory: `users` as they will be stored, and whose each address will be."""
    if user_id not in users:
        return unknown_user(user_id)
    if change.country is not None:
        try:
            refuse_unserved(change.country)
        except Reject as refusal:
            return refusal
    # Last: what is refused must not claim an address.
    if change.email is not None and owners.setdefault(change.email, user_id) != user_id:
        return email_taken(change.email)
    users[user_id] = users[user_id].model_copy(update=change.model_dump(exclude_none=True))
    return users[user_id]


async def insert_users(session: AsyncSession, users: Sequence[NewUser]) -> dict[str, int]:
    """The ids of those whose address was free, by address. In one order, or two calls could wait for each other."""
    if not users:
        return {}
    insert = INSERTS[(await session.connection()).dialect.name]
    rows = [user.model_dump() for user in sorted(users, key=lambda user: user.email)]
    statement = insert(users_table).values(rows).on_conflict_do_nothing(index_elements=["email"])
    inserted = await session.execute(statement.returning(UserRow.email, UserRow.id))
    return {row.email: row.id for row in inserted}


async def find_users(session: AsyncSession, ids: Iterable[int]) -> dict[int, User]:
    """Locked until the transaction ends, as in `app.py`; in one order, as above."""
    statement = select(UserRow).where(UserRow.id.in_(set(ids))).order_by(UserRow.id).with_for_update()
    return {row.id: User.model_validate(row) for row in await session.scalars(statement)}


async def find_owners(session: AsyncSession, emails: Iterable[str]) -> dict[str, int]:
    found = await session.execute(select(UserRow.email, UserRow.id).where(UserRow.email.in_(set(emails))))
    return {row.email: row.id for row in found}


async def store_users(session: AsyncSession, users: Iterable[User]) -> None:
    """One statement: each column is given by a list of ids and values."""
    by_id = {user.id: user.model_dump(include=set(CHANGEABLE)) for user in users}
    if not by_id:
        return
    values: dict[str, Any] = {
        name: case({user_id: fields[name] for user_id, fields in by_id.items()}, value=UserRow.id)
        for name in CHANGEABLE
    }
    statement = update(UserRow).where(UserRow.id.in_(by_id)).values(values)
    await session.execute(statement, execution_options={"synchronize_session": False})
