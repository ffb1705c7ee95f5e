"""A handler runs at least once; with `@once` its work is done at most once.

    claim the key ──► do the work ──► store the answer ──► commit: all three, or none of them
         └─ taken: answer what is stored there

A consumer killed after the commit, but before it could record the outcome, makes Penstock run the operation again. It
comes with the same `context.key`, finds its key taken, and gives the same answer without touching anything.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import TypeAdapter
from sqlalchemy import Table, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from examples.users.models import answers

P = ParamSpec("P")
T = TypeVar("T")

#: Both databases can insert unless it is there; SQLAlchemy says it for each by itself.
INSERTS: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def once(handler: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wraps a handler that has a parameter `context` and does all its work in `context.transaction`.

    A handler that raises leaves nothing behind, its key included: the next attempt starts afresh.
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


async def claim(session: AsyncSession, key: str) -> bool:
    """Takes the key before any work. False: an earlier run has committed its work and its answer.

    A look before the insert would not do: two deliveries of one chunk may run at the same time, and neither would
    see the other. On the unique key the second waits until the first has committed or rolled back.
    """
    connection = await session.connection()
    insert = INSERTS[connection.dialect.name]
    result = await connection.execute(insert(answers).values(key=key).on_conflict_do_nothing())
    return result.rowcount == 1


async def stored_answer(session: AsyncSession, key: str) -> str:
    answer: str | None = await session.scalar(select(answers.c.answer).where(answers.c.key == key))
    if answer is None:
        raise LookupError(f"The key {key!r} is taken, but has no answer: was a transaction committed half-way?")
    return answer


async def store_answer(session: AsyncSession, key: str, answer: str) -> None:
    await session.execute(update(answers).where(answers.c.key == key).values(answer=answer))
