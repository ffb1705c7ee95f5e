"""A handler runs at least once. With `@once` its work is committed exactly once.

    claim the key ──► do the work ──► store the answer ──► commit all three, or none of them
         └─ the key exists: return the stored answer

If a consumer dies after the commit, but before it records the outcome, Penstock runs the operation again with the same
`context.key`. The second run finds the key and returns the same answer without changing anything.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter
from sqlalchemy import Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.models import answers
from penstock import Reject

P = ParamSpec("P")
T = TypeVar("T")

#: Both databases have INSERT ... ON CONFLICT DO NOTHING, but SQLAlchemy has a separate construct for each.
INSERTS: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def once(handler: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wrap a handler that has a parameter `context` and does all its work in `context.transaction`.

    If the handler raises, the rollback removes its key, too, so the next attempt starts from the beginning.
    """
    signature = inspect.signature(handler)
    answer_type: TypeAdapter[T] = TypeAdapter(get_type_hints(handler, include_extras=True)["return"])

    @wraps(handler)
    async def handle_once(*args: P.args, **kwargs: P.kwargs) -> T:
        context = signature.bind(*args, **kwargs).arguments["context"]
        if not await claim(context.transaction, context.key):
            return answer_type.validate_json(await stored_answer(context.transaction, context.key))
        answer = await handler(*args, **kwargs)
        await store_answer(context.transaction, context.key, answer_type.dump_json(answer).decode())
        return answer

    return handle_once


def once_each(
    handler: Callable[..., Awaitable[list[T | Reject]]],
) -> Callable[..., Coroutine[Any, Any, list[T | Reject]]]:
    """Wrap a bulk handler that has a parameter `contexts`. It receives only operations that no earlier run has done.

    A rejected operation leaves no key. The handler is annotated with `list[T | Reject]`; `T` is one result.
    """
    [outcome_type] = get_args(get_type_hints(handler, include_extras=True)["return"])
    [answer_type] = [TypeAdapter[T](one) for one in get_args(outcome_type) if one is not Reject]

    @wraps(handler)
    async def handle_each_once(**lists: list[Any]) -> list[T | Reject]:
        keys = [context.key for context in lists["contexts"]]
        session = lists["contexts"][0].transaction
        fresh = await claim_each(session, keys)
        outcomes: dict[str, T | Reject] = {
            key: answer_type.validate_json(answer)
            for key, answer in (await stored_answers(session, set(keys) - fresh)).items()
        }
        places = [place for place, key in enumerate(keys) if key in fresh]
        if places:
            some = {name: [values[place] for place in places] for name, values in lists.items()}
            returned = await handler(**some)
            if len(returned) != len(places):
                return [*outcomes.values(), *returned]  # the wrong number, too: Penstock reports it and rolls back
            outcomes |= zip([keys[place] for place in places], returned, strict=True)
        done = {
            key: answer_type.dump_json(outcome).decode()
            for key, outcome in outcomes.items()
            if key in fresh and not isinstance(outcome, Reject)
        }
        await store_answers(session, done)
        await release_keys(session, fresh - set(done))
        return [outcomes[key] for key in keys]

    return handle_each_once


async def claim(session: AsyncSession, key: str) -> bool:
    """Claim the key before any work. Return False if an earlier run has committed its work and its answer.

    A SELECT before the INSERT would not be enough: two deliveries of one chunk may run at the same time, and neither
    would see the other. On the unique key, the second INSERT waits until the first transaction ends.
    """
    connection = await session.connection()
    insert = INSERTS[connection.dialect.name]
    result = await connection.execute(insert(answers).values(key=key).on_conflict_do_nothing())
    return result.rowcount == 1


async def stored_answer(session: AsyncSession, key: str) -> str:
    answer: str | None = await session.scalar(select(answers.c.answer).where(answers.c.key == key))
    if answer is None:
        raise LookupError(f"The key {key!r} has no answer. The transaction of its handler was committed too early.")
    return answer


async def store_answer(session: AsyncSession, key: str, answer: str) -> None:
    await session.execute(update(answers).where(answers.c.key == key).values(answer=answer))


async def claim_each(session: AsyncSession, keys: Sequence[str]) -> set[str]:
    """Claim several keys and return those that were free. Sorted keys avoid a deadlock between two calls."""
    connection = await session.connection()
    insert = INSERTS[connection.dialect.name]
    statement = insert(answers).values([{"key": key} for key in sorted(keys)]).on_conflict_do_nothing()
    return set((await connection.execute(statement.returning(answers.c.key))).scalars())


async def stored_answers(session: AsyncSession, keys: Collection[str]) -> dict[str, str]:
    if not keys:
        return {}
    found = await session.execute(select(answers.c.key, answers.c.answer).where(answers.c.key.in_(keys)))
    return {row.key: row.answer for row in found}


async def store_answers(session: AsyncSession, by_key: Mapping[str, str]) -> None:
    if by_key:
        statement = update(answers).where(answers.c.key == bindparam("of_key")).values(answer=bindparam("its_answer"))
        rows = [{"of_key": key, "its_answer": answer} for key, answer in by_key.items()]
        await (await session.connection()).execute(statement, rows)


async def release_keys(session: AsyncSession, keys: Collection[str]) -> None:
    if keys:
        await session.execute(delete(answers).where(answers.c.key.in_(keys)))
