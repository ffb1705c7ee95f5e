"""Small batches run immediately: order, isolation, time, concurrency, and the application's transaction."""

import asyncio
import builtins
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from penstock import Context, Operations, Reject, Retry, Throttled
from penstock.message import decode_chunk
from penstock.running import left_behind
from penstock.service.intake import small_batch
from penstock.service.intake.small_batch import SmallBatchRun
from penstock.testing.http import Answer
from tests.support.garbage import without_collections
from tests.support.service import Serve, Service, ask_for, assert_problem, pointers
from tests.support.waiting import UNIT_SECONDS, eventually

SOON = 0.2 * UNIT_SECONDS  # the time of a batch in tests where it must run out
LONG = 60.0


class Number(BaseModel):
    n: int


toys = Operations()


@toys.post("/double", status=201)
async def double(number: Number) -> Number:
    return Number(n=2 * number.n)


@toys.post("/succeed")
async def succeed() -> None: ...


@toys.post("/reject")
async def reject() -> None:
    raise Reject(409, "Not this one.")


@toys.post("/break", max_attempts=1)
async def break_() -> None:
    raise RuntimeError("a handler broke")


@toys.post("/hang")
async def hang() -> None:
    await asyncio.Event().wait()


@toys.post("/hang-a-moment", timeout_seconds=0.01, max_attempts=1)
async def hang_a_moment() -> None:
    await asyncio.Event().wait()


@toys.post("/return-a-set")
async def return_nonsense() -> object:
    return object()


@toys.post("/second-time-right")
async def second_time_right(context: Context) -> int:
    if context.attempt == 1:
        raise Retry
    return context.attempt


@toys.post("/always-again", max_attempts=1_000_000)
async def always_again() -> None:
    raise Retry("Not yet.", after_seconds=0)


@toys.post("/much-later")
async def much_later() -> None:
    raise Retry("Come back in an hour.", after_seconds=3600)


def statuses(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.content
    return [result["status"] for result in answer.body["results"]]


def handed_over(service: Service) -> list[int]:
    """Return the indexes of the operations that continue in the background."""
    chunks = [decode_chunk(message.body) for message in service.parts.chunks.messages]
    return sorted(operation.index for chunk in chunks for operation in chunk.operations)


async def test_outcomes_come_in_the_order_asked(serve: Serve) -> None:
    service = await serve(toys, concurrency=4)
    bodies = [{"method": "POST", "path": "/double", "body": {"n": n}} for n in range(50)]
    answer = await service.post(bodies)
    assert answer.body == {
        "summary": {"total": 50, "succeeded": 50, "failed": 0},
        "results": [{"id": str(n), "status": 201, "result": {"n": 2 * n}} for n in range(50)],
    }


@pytest.mark.parametrize(("notice_seconds", "status"), [(LONG, 200), (0, 202)])
async def test_what_refuses_its_cancellation_for_long_is_handed_over(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, notice_seconds: float, status: int
) -> None:
    registry = Operations()

    @registry.post("/stubborn")
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)

    monkeypatch.setattr(left_behind, "NOTICE_SECONDS", notice_seconds)
    service = await serve(registry, sync_seconds=SOON)
    answer = await service.post(ask_for("/stubborn"))
    assert answer.status == status
    assert handed_over(service) == ([0] if status == 202 else [])


class Stubborn:
    """A handler waits here, and ignores its cancellation until the test opens the gate."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.here = 0

    async def wait(self) -> None:
        self.here += 1
        while not self.opened.is_set():
            with suppress(BaseException):
                await self.opened.wait()
        self.here -= 1


@pytest.fixture
async def stubborn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stubborn]:
    monkeypatch.setattr(left_behind, "NOTICE_SECONDS", 0.02)
    monkeypatch.setattr(small_batch, "ENDING_SECONDS", SOON)
    stubborn = Stubborn()
    yield stubborn
    stubborn.opened.set()
    await eventually(lambda: asyncio.sleep(0, stubborn.here == 0))


async def test_handler_that_never_ends_times_out_and_is_left_behind(serve: Serve, stubborn: Stubborn) -> None:
    registry = Operations()
    registry.post("/succeed")(succeed)

    @registry.post("/stuck", timeout_seconds=0.01, max_attempts=1)
    async def stuck() -> None:
        await stubborn.wait()

    service = await serve(registry, concurrency=3)
    assert statuses(await service.post(ask_for("/stuck", "/succeed", "/succeed"))) == [504, 200, 200]
    assert statuses(await service.post(ask_for("/stuck", "/succeed"))) == [504, 200]
    assert (await service.get("/health/ready")).status == 200
    assert statuses(await service.post(ask_for("/stuck"))) == [504]
    assert (await service.get("/health/ready")).status == 503
    stubborn.opened.set()
    await eventually(lambda: asyncio.sleep(0, stubborn.here == 0))
    assert (await service.get("/health/ready")).status == 200


async def test_handler_that_never_ends_does_not_keep_its_batch_beyond_its_time(
    serve: Serve, stubborn: Stubborn
) -> None:
    registry = Operations()
    registry.post("/succeed")(succeed)
    registry.post("/stuck")(stubborn.wait)
    service = await serve(registry, sync_seconds=SOON, concurrency=3)
    answer = await service.post(ask_for("/succeed", "/stuck", "/succeed"))
    assert answer.status == 202
    assert handed_over(service) == [1]


async def test_each_failure_is_its_own(serve: Serve) -> None:
    service = await serve(toys)
    answer = await service.post(
        ask_for("/succeed", "/reject", "/break", "/hang-a-moment", "/return-a-set", "/second-time-right", "/succeed")
    )
    assert statuses(answer) == [200, 409, 500, 504, 500, 200, 200]
    assert answer.body["summary"] == {"total": 7, "succeeded": 3, "failed": 4}
    assert answer.body["results"][1]["error"] == {"title": "Rejected", "detail": "Not this one."}
    assert all(("result" in result) != ("error" in result) for result in answer.body["results"])


@toys.post("/raise/{name}", max_attempts=1)
async def raise_on_loop(name: str) -> None:
    raise getattr(builtins, name)


@toys.post("/raise-in-thread/{name}", max_attempts=1)
def raise_in_thread(name: str) -> None:
    raise getattr(builtins, name)


ENDS_PROGRAMS = ["KeyboardInterrupt", "GeneratorExit", "SystemExit"]


@pytest.mark.parametrize("name", ENDS_PROGRAMS)
async def test_exception_that_ends_programs_fails_only_its_operation(serve: Serve, name: str) -> None:
    service = await serve(toys, concurrency=2)
    answer = await service.post(ask_for("/succeed", f"/raise/{name}", f"/raise-in-thread/{name}", "/succeed"))
    assert statuses(answer) == [200, 500, 500, 200]
    assert {result["error"]["title"] for result in answer.body["results"][1:3]} == {"Broke"}


async def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


toys.post("/cancel-itself")(cancel_own_task)


async def test_handler_that_cancels_its_own_task_fails_alone(serve: Serve) -> None:
    service = await serve(toys, concurrency=2)
    asked, key = ask_for("/succeed", "/cancel-itself", "/second-time-right"), {"Idempotency-Key": "once"}
    answer = await service.post(asked, key)
    assert statuses(answer) == [200, 500, 200]
    assert answer.body["results"][1]["error"] == {"title": "Broke", "detail": "The handler cancelled its own task."}
    again = await service.post(asked, key)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (answer.content, "true")


async def test_beside_a_handler_that_cancels_its_own_task_what_time_cuts_off_is_handed_over(serve: Serve) -> None:
    service = await serve(toys, concurrency=2, sync_seconds=SOON)
    answer = await service.post(ask_for("/cancel-itself", "/hang"))
    assert answer.status == 202
    assert handed_over(service) == [1]


async def test_given_ids_come_back_and_others_are_positions(serve: Serve) -> None:
    service = await serve(toys)
    operations = ask_for("/succeed", "/succeed", "/succeed")
    operations[1]["id"] = "mine, of any letters: ä/~1"
    answer = await service.post(operations)
    assert [result["id"] for result in answer.body["results"]] == ["0", "mine, of any letters: ä/~1", "2"]


async def test_key_is_of_the_batch_and_the_operation(serve: Serve) -> None:
    operations = Operations()
    seen: list[Context] = []

    @operations.post("/look")
    async def look(context: Context) -> None:
        seen.append(context)
        if context.attempt < 3:
            raise Retry

    service = await serve(operations)
    await service.post([{"method": "POST", "path": "/look", "id": "a"}])
    assert [context.attempt for context in seen] == [1, 2, 3]
    assert len({(context.key, context.batch_id, context.operation_id) for context in seen}) == 1
    assert seen[0].key == f"{seen[0].batch_id}/a"
    assert seen[0].transaction is None


async def test_last_attempt_decides_when_all_are_used_up(serve: Serve) -> None:
    operations = Operations()
    attempts: list[int] = []

    @operations.post("/break", max_attempts=4)
    async def break_(context: Context) -> None:
        attempts.append(context.attempt)
        raise RuntimeError(f"attempt {context.attempt}")

    service = await serve(operations, show_errors=True)
    answer = await service.post(ask_for("/break"))
    assert attempts == [1, 2, 3, 4]
    assert answer.body["results"][0]["error"] == {"title": "Broke", "detail": "RuntimeError: attempt 4"}


@pytest.mark.parametrize("shows_errors", [True, False])
async def test_words_of_a_failing_validator_are_shown_in_development(serve: Serve, shows_errors: bool) -> None:
    operations = Operations()

    def fail(_: int) -> int:
        raise RuntimeError("half \ud800")  # half a surrogate pair, which no answer can have

    @operations.post("/check")
    async def check(body: Annotated[int, AfterValidator(fail)]) -> None: ...

    service = await serve(operations, show_errors=shows_errors)
    answer = await service.post([{"method": "POST", "path": "/check", "body": 0}])
    [error] = answer.body["errors"]
    assert (answer.status, "RuntimeError: half ?" in error["detail"]) == (422, shows_errors)


async def test_when_time_is_over_only_the_unfinished_are_handed_over(serve: Serve) -> None:
    service = await serve(toys, sync_seconds=SOON)
    answer = await service.post(ask_for("/hang", "/succeed", "/hang", "/reject"))
    assert answer.status == 202
    assert handed_over(service) == [0, 2]


async def test_operations_that_never_got_a_slot_are_handed_over(serve: Serve) -> None:
    service = await serve(toys, sync_seconds=SOON, concurrency=2)
    answer = await service.post(ask_for("/succeed", "/hang", "/hang", "/succeed"))
    assert answer.status == 202
    assert handed_over(service) == [1, 2, 3]


async def test_retries_end_with_the_time_and_keep_the_last_failure(serve: Serve) -> None:
    service = await serve(toys, sync_seconds=SOON)
    answer = await service.post(ask_for("/always-again", "/succeed"))
    assert statuses(answer) == [503, 200]
    assert answer.body["results"][0]["error"] == {"title": "Not performed", "detail": "Not yet."}


async def test_a_wait_longer_than_the_time_left_is_not_begun(serve: Serve) -> None:
    service = await serve(toys, sync_seconds=LONG)
    async with asyncio.timeout(10 * UNIT_SECONDS):
        answer = await service.post(ask_for("/much-later", "/succeed"))
    assert statuses(answer) == [503, 200]
    assert answer.body["results"][0]["error"]["detail"] == "Come back in an hour."


@dataclass
class Meeting:
    """Handlers that wait until `size` of them have arrived. `most` is how many were there at the same time."""

    size: int
    here: int = 0
    most: int = 0
    barrier: asyncio.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = asyncio.Barrier(self.size)

    async def attend(self) -> None:
        self.here += 1
        self.most = max(self.most, self.here)
        await self.barrier.wait()
        self.here -= 1

    @property
    def operations(self) -> Operations[Any]:
        operations = Operations()
        operations.post("/attend")(self.attend)
        return operations


async def test_a_request_uses_all_slots_and_no_more(serve: Serve) -> None:
    meeting = Meeting(3)
    service = await serve(meeting.operations, concurrency=3)
    answer = await service.post(ask_for(*["/attend"] * 9))
    assert statuses(answer) == [200] * 9
    assert meeting.most == 3


async def test_requests_share_the_slots_of_the_process(serve: Serve) -> None:
    meeting = Meeting(4)
    service = await serve(meeting.operations, concurrency=4)
    answers = await asyncio.gather(*(service.post(ask_for(*["/attend"] * size)) for size in (1, 2, 3, 6)))
    assert [answer.body["summary"]["failed"] for answer in answers] == [0, 0, 0, 0]
    assert meeting.most == 4


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("concurrency", [2, 10])
async def test_slow_tenant_leaves_slots_for_the_others(serve: Serve, concurrency: int, kind: str) -> None:
    operations, gate, here = Operations(), threading.Event(), list[str]()
    operations.post("/succeed")(succeed)

    @operations.post("/slow")
    async def slow() -> None:
        here.append("slow")
        await asyncio.to_thread(gate.wait)

    @operations.post("/slow-thread")
    def slow_thread() -> None:
        here.append("slow")
        gate.wait()

    @operations.post("/quick-thread")
    def quick_thread() -> None: ...

    slow_path, quick_path = ("/slow", "/succeed") if kind == "async def" else ("/slow-thread", "/quick-thread")
    service = await serve(operations, concurrency=concurrency, sync_seconds=LONG, tenant_header="X-Tenant")
    requests = [service.post(ask_for(*[slow_path] * 3), {"X-Tenant": "slow"}) for _ in range(10)]
    slow_ones = [asyncio.create_task(request) for request in requests]
    try:
        await eventually(lambda: asyncio.sleep(0, len(here) == concurrency // 2))
        for _ in range(3):
            async with asyncio.timeout(5 * UNIT_SECONDS):
                answer = await service.post(ask_for(quick_path), {"X-Tenant": "quick"})
            assert statuses(answer) == [200]
        assert len(here) == concurrency // 2
    finally:
        gate.set()
    assert [statuses(answer) for answer in await asyncio.gather(*slow_ones)] == [[200] * 3] * 10


async def test_waiting_for_another_attempt_holds_no_slot(serve: Serve) -> None:
    operations = Operations()
    succeeded = asyncio.Event()

    @operations.post("/wait-for-the-other", max_attempts=1_000_000)
    async def wait_for_the_other() -> None:
        if not succeeded.is_set():
            raise Retry(after_seconds=0.001)

    @operations.post("/other")
    async def other() -> None:
        succeeded.set()

    service = await serve(operations, concurrency=1)
    assert statuses(await service.post(ask_for("/wait-for-the-other", "/other"))) == [200, 200]


async def hang_in_transaction(stubborn: Stubborn, context: Context[AsyncConnection], name: str) -> None:
    """Change something, never end, and change more after being left behind."""
    await insert(context, name)
    await stubborn.wait()
    await insert(context, f"later {name}")


@pytest.mark.parametrize("path", ["/stuck/{name}", "/bulk/{name}"])
async def test_handler_left_behind_in_a_transaction_costs_nobody_the_transaction(
    serve: Serve, database: "Database", stubborn: Stubborn, path: str
) -> None:
    registry = database.operations()

    @registry.post("/stuck/{name}", timeout_seconds=0.1, max_attempts=1)
    async def stuck(name: str, context: Context[AsyncConnection]) -> None:
        await hang_in_transaction(stubborn, context, name)

    @registry.post("/bulk/{name}", timeout_seconds=0.1, max_attempts=1, bulk=True)
    async def bulk(name: list[str], contexts: list[Context[AsyncConnection]]) -> list[str]:
        if "b" in name:
            await hang_in_transaction(stubborn, contexts[0], name[0])
        return name

    service = await serve(registry, concurrency=5)
    bad = path.format(name="b"), path.format(name="c")
    answer = await service.post(ask_for("/items/a", bad[0], *([bad[1]] if "bulk" in path else []), "/items/d"))
    assert statuses(answer) == ([201, 504, 200, 201] if "bulk" in path else [201, 504, 201])
    stubborn.opened.set()
    await eventually(lambda: asyncio.sleep(0, stubborn.here == 0))
    await asyncio.sleep(0.05)
    assert await database.names() == ["a", "d"]


@pytest.mark.parametrize("in_time", [True, False])
async def test_handler_left_behind_rolls_back_an_atomic_batch(
    serve: Serve, database: "Database", stubborn: Stubborn, in_time: bool
) -> None:
    registry = database.operations()

    @registry.post("/stuck/{name}", timeout_seconds=0.1 if in_time else LONG, max_attempts=1)
    async def stuck(name: str, context: Context[AsyncConnection]) -> None:
        await hang_in_transaction(stubborn, context, name)

    service = await serve(registry, sync_seconds=LONG if in_time else 2 * SOON)
    answer = await service.post(ask_for("/items/a", "/stuck/b", "/items/c"), atomic=True)
    assert statuses(answer) == ([424, 504, 424] if in_time else [424, 504, 504])
    stubborn.opened.set()
    await eventually(lambda: asyncio.sleep(0, stubborn.here == 0))
    await asyncio.sleep(0.05)
    assert await database.names() == []


async def test_when_time_is_over_nothing_is_committed_around_a_handler_left_behind(
    serve: Serve, database: "Database", stubborn: Stubborn
) -> None:
    """Its changes are in the same transaction."""
    registry = database.operations()

    @registry.post("/stuck/{name}")
    async def stuck(name: str, context: Context[AsyncConnection]) -> None:
        await hang_in_transaction(stubborn, context, name)

    service = await serve(registry, sync_seconds=2 * SOON)
    answer = await service.post(ask_for("/items/a", "/stuck/b", "/items/c"))
    assert answer.status == 202
    assert handed_over(service) == [0, 1, 2]
    stubborn.opened.set()
    await eventually(lambda: asyncio.sleep(0, stubborn.here == 0))
    await asyncio.sleep(0.05)
    assert await database.names() == []


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("opening", [True, False])
async def test_transaction_that_never_opens_or_ends_is_left_behind(
    serve: Serve, stubborn: Stubborn, opening: bool, atomic: bool
) -> None:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        if opening:
            await stubborn.wait()
        yield
        await stubborn.wait()

    service = await serve(operations_with(transaction, savepoint=no_savepoint), sync_seconds=SOON)
    answer = await service.post(ask_for("/succeed", "/succeed"), atomic=atomic)
    if atomic:
        assert statuses(answer) == [503, 503]
    else:
        assert answer.status == 202
        assert handed_over(service) == [0, 1]


# With a transaction. The database is real, because these tests are about savepoints.


@dataclass
class Database:
    """A table with unique names. `log` has the transaction statements that SQLAlchemy sent."""

    engine: AsyncEngine
    log: list[str] = field(default_factory=list)

    async def names(self) -> list[str]:
        async with self.engine.connect() as connection:
            found = await connection.execute(text("SELECT name FROM item ORDER BY name"))
            return [name for (name,) in found]

    def operations(self) -> Operations[AsyncConnection]:
        operations = Operations(transaction=self.engine.begin)

        @operations.post("/items/{name}", status=201)
        async def create(name: str, context: Context[AsyncConnection]) -> str:
            await insert(context, name)
            return name

        @operations.post("/broken-items/{name}", max_attempts=1)
        async def create_and_break(name: str, context: Context[AsyncConnection]) -> None:
            await insert(context, name)
            raise RuntimeError

        @operations.post("/late-items/{name}", status=201)
        async def create_the_second_time(name: str, context: Context[AsyncConnection]) -> int:
            await insert(context, name)
            if context.attempt == 1:
                raise Retry
            return context.attempt

        @operations.post("/hanging-items/{name}")
        async def create_and_hang(name: str, context: Context[AsyncConnection]) -> None:
            await insert(context, name)
            await asyncio.Event().wait()

        @operations.post("/much-later-items/{name}")
        async def create_much_later(name: str, context: Context[AsyncConnection]) -> None:
            await insert(context, name)
            raise Retry(after_seconds=3600)

        @operations.post("/orphans")
        async def create_orphan(context: Context[AsyncConnection]) -> None:
            """The database detects this only when it commits."""
            await context.transaction.execute(text("INSERT INTO part (item) VALUES ('nobody')"))

        return operations


async def insert(context: Context[AsyncConnection], name: str) -> None:
    try:
        await context.transaction.execute(text("INSERT INTO item (name) VALUES (:name)"), {"name": name})
    except IntegrityError as error:
        raise Reject(409, f"{name} is taken.") from error


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/items.db")
    event.listen(engine.sync_engine, "connect", _set_up_connection)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (name TEXT PRIMARY KEY)"))
        await connection.execute(text("CREATE TABLE part (item TEXT REFERENCES item DEFERRABLE INITIALLY DEFERRED)"))
    database = Database(engine)
    _keep_log(engine, database.log)
    yield database
    await engine.dispose()


def _set_up_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # otherwise Python starts transactions by itself, too late for savepoints
    connection.execute("PRAGMA foreign_keys=ON")


def _keep_log(engine: AsyncEngine, log: list[str]) -> None:
    for name in ("begin", "commit", "rollback", "savepoint", "rollback_savepoint", "release_savepoint"):

        def note(_connection: Connection, *_: Any, name: str = name) -> None:
            log.append(name)

        event.listen(engine.sync_engine, name, note)


async def test_one_transaction_with_a_savepoint_for_each_operation(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/items/a", "/items/b"))
    assert statuses(answer) == [201, 409, 201]
    assert database.log == [
        "begin",
        *("savepoint", "release_savepoint"),
        *("savepoint", "rollback_savepoint"),
        *("savepoint", "release_savepoint"),
        "commit",
    ]
    assert await database.names() == ["a", "b"]


async def test_a_failure_rolls_back_only_itself(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/broken-items/b", "/items/b"))
    assert statuses(answer) == [201, 500, 201]
    assert await database.names() == ["a", "b"]


@pytest.mark.parametrize("name", ENDS_PROGRAMS)
async def test_exception_that_ends_programs_costs_nobody_the_transaction(
    serve: Serve, database: Database, name: str
) -> None:
    operations = database.operations()
    operations.post("/raise/{name}", max_attempts=1)(raise_on_loop)
    service = await serve(operations)
    answer = await service.post(ask_for("/items/a", f"/raise/{name}", "/items/b"))
    assert statuses(answer) == [201, 500, 201]
    assert await database.names() == ["a", "b"]


async def test_operations_in_a_transaction_run_one_after_another(serve: Serve, database: Database) -> None:
    operations = database.operations()
    meeting = Meeting(1)
    operations.post("/attend")(meeting.attend)
    service = await serve(operations, concurrency=10)
    assert statuses(await service.post(ask_for(*["/attend"] * 5))) == [200] * 5
    assert meeting.most == 1


async def test_handler_that_cancels_its_own_task_costs_nobody_the_transaction(serve: Serve, database: Database) -> None:
    operations = database.operations()
    operations.post("/cancel-itself")(cancel_own_task)

    @operations.post("/cancel-statement/{name}")
    async def cancel_statement(name: str, context: Context[AsyncConnection]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await insert(context, name)

    service = await serve(operations)
    answer = await service.post(ask_for("/items/a", "/cancel-itself", "/cancel-statement/x", "/items/b"))
    assert statuses(answer) == [201, 500, 500, 201]
    assert await database.names() == ["a", "b"]


async def test_handler_that_cancels_its_own_task_fails_an_atomic_batch(serve: Serve, database: Database) -> None:
    operations = database.operations()
    operations.post("/cancel-itself")(cancel_own_task)
    service = await serve(operations)
    answer = await service.post(ask_for("/items/a", "/cancel-itself", "/items/b"), atomic=True)
    assert statuses(answer) == [424, 500, 424]
    assert await database.names() == []


async def test_another_attempt_begins_with_a_fresh_savepoint(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/late-items/b"))
    assert [result.get("result") for result in answer.body["results"]] == ["a", 2]
    assert await database.names() == ["a", "b"]


def throttled_items(database: Database) -> Operations[AsyncConnection]:
    """Add a handler that is throttled for no time, and then for an hour."""
    operations, times = database.operations(), iter([0, 3600])

    @operations.post("/throttled-items/{name}", max_attempts=1)
    async def create_and_be_throttled(name: str, context: Context[AsyncConnection]) -> None:
        await insert(context, name)
        raise Throttled("Too fast.", after_seconds=next(times))

    return operations


async def test_atomic_batch_fails_with_what_is_throttled_until_its_time_is_over(
    serve: Serve, database: Database
) -> None:
    service = await serve(throttled_items(database), sync_seconds=LONG)
    answer = await service.post(ask_for("/items/a", "/throttled-items/b"), atomic=True)
    assert statuses(answer) == [424, 429]
    assert answer.body["results"][1]["error"] == {"title": "Throttled", "detail": "Too fast."}
    assert await database.names() == []


async def test_beside_what_is_throttled_the_transaction_is_committed(serve: Serve, database: Database) -> None:
    service = await serve(throttled_items(database), sync_seconds=LONG)
    answer = await service.post(ask_for("/items/a", "/throttled-items/b", "/items/c"))
    assert (answer.status, handed_over(service)) == (202, [1])
    assert await database.names() == ["a", "c"]


async def test_atomic_commits_when_everything_succeeds(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/late-items/b"), atomic=True)
    assert answer.body["summary"] == {"total": 2, "succeeded": 2, "failed": 0}
    assert await database.names() == ["a", "b"]


async def test_atomic_rolls_everything_back_and_names_the_culprits(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/items/a", "/broken-items/b", "/items/c"), atomic=True)
    assert statuses(answer) == [424, 409, 500, 424]
    assert answer.body["summary"] == {"total": 4, "succeeded": 0, "failed": 4}
    assert answer.body["results"][1]["error"]["detail"] == "a is taken."
    assert answer.body["results"][3]["error"]["title"] == "Rolled back"
    assert database.log[-1] == "rollback"
    assert await database.names() == []


@pytest.mark.parametrize("atomic", [False, True])
async def test_when_the_commit_fails_all_are_told(serve: Serve, database: Database, atomic: bool) -> None:
    service = await serve(database.operations())
    answer = await service.post(ask_for("/items/a", "/orphans"), atomic=atomic)
    assert statuses(answer) == [503, 503]
    assert {result["error"]["title"] for result in answer.body["results"]} == {"Transaction failed"}
    assert await database.names() == []


async def test_batch_whose_transaction_fails_is_freed_without_a_collection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    def transaction() -> Any:
        raise ConnectionError("The database is away.")

    operations, runs = Operations[Any](transaction=transaction), list["weakref.ref[SmallBatchRun]"]()
    operations.post("/x")(succeed)
    run = SmallBatchRun.run

    async def noted(batch: SmallBatchRun) -> Any:
        runs.append(weakref.ref(batch))
        return await run(batch)

    monkeypatch.setattr(SmallBatchRun, "run", noted)
    service = await serve(operations)
    with without_collections():
        assert statuses(await service.post(ask_for("/x"))) == [503]
        logs.clear()  # they have the error
        assert [batch() for batch in runs] == [None]


@pytest.mark.parametrize(("status", "detail"), [(504, "Too slow."), (400, "The handler cancelled its own task.")])
async def test_failure_that_only_reads_like_a_cut_off_one_is_no_culprit(
    serve: Serve, database: Database, status: int, detail: str
) -> None:
    operations = database.operations()

    @operations.post("/reject")
    async def reject() -> None:
        raise Reject(status, detail)

    service = await serve(operations)
    answer = await service.post(ask_for("/reject", "/orphans"))
    assert statuses(answer) == [503, 503]
    assert database.log.count("begin") == 1


async def test_when_time_is_over_what_is_done_is_committed(serve: Serve, database: Database) -> None:
    service = await serve(database.operations(), sync_seconds=5 * SOON)  # enough for two transactions on a busy machine
    answer = await service.post(ask_for("/items/a", "/items/a", "/hanging-items/b", "/items/c", "/items/d"))
    assert answer.status == 202
    assert handed_over(service) == [2, 3, 4]
    assert await database.names() == ["a"]


async def test_atomic_rolls_back_when_time_is_over(serve: Serve, database: Database) -> None:
    service = await serve(database.operations(), sync_seconds=SOON)
    answer = await service.post(ask_for("/items/a", "/hanging-items/b", "/items/c"), atomic=True)
    assert statuses(answer) == [424, 504, 504]
    assert await database.names() == []


async def test_a_long_wait_in_a_transaction_does_not_starve_the_others(serve: Serve, database: Database) -> None:
    service = await serve(database.operations(), sync_seconds=LONG)
    async with asyncio.timeout(10 * UNIT_SECONDS):
        answer = await service.post(ask_for("/much-later-items/a", "/items/b"))
    assert statuses(answer) == [503, 201]
    assert await database.names() == ["b"]


async def test_requests_have_transactions_of_their_own(serve: Serve, database: Database) -> None:
    service = await serve(database.operations())
    first = await service.post(ask_for("/items/a", "/items/b"), atomic=True)
    second = await service.post(ask_for("/items/c", "/items/b"), atomic=True)
    assert (statuses(first), statuses(second)) == ([201, 201], [424, 409])
    assert await database.names() == ["a", "b"]


def operations_with(transaction: Any, **options: Any) -> Operations[Any]:
    operations: Operations[Any] = Operations(transaction=transaction, **options)

    @operations.post("/succeed")
    async def succeed() -> None: ...

    @operations.post("/reject")
    async def reject() -> None:
        raise Reject(409, "Not this one.")

    return operations


@asynccontextmanager
async def no_savepoint(_transaction: Any) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("name", ENDS_PROGRAMS)
async def test_transaction_that_raises_what_ends_programs_fails_its_batch(serve: Serve, name: str) -> None:
    @asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        raise getattr(builtins, name)
        yield

    service = await serve(operations_with(refuse))
    answer = await service.post(ask_for("/succeed", "/succeed"))
    assert statuses(answer) == [503, 503]


@pytest.mark.parametrize("atomic", [False, True])
async def test_when_the_transaction_cannot_be_opened_all_are_told(serve: Serve, atomic: bool) -> None:
    @asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        raise ConnectionRefusedError
        yield

    service = await serve(operations_with(refuse))
    answer = await service.post(ask_for("/succeed", "/reject"), atomic=atomic)
    assert statuses(answer) == [503, 503]
    assert "ConnectionRefusedError" in answer.body["results"][0]["error"]["detail"]


async def test_when_the_pool_of_the_application_has_no_connection_in_time_an_atomic_batch_says_so(serve: Serve) -> None:
    @asynccontextmanager
    async def time_out() -> AsyncIterator[None]:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        yield

    service = await serve(operations_with(time_out))
    answer = await service.post(ask_for("/succeed", "/succeed"), atomic=True)
    assert statuses(answer) == [503, 503]
    assert "TimeoutError" in answer.body["results"][0]["error"]["detail"]
    answer = await service.post(ask_for("/succeed", "/succeed"))
    assert (answer.status, handed_over(service)) == (202, [0, 1])  # consumers may have a connection


async def test_a_transaction_that_does_not_open_takes_no_longer_than_the_time(serve: Serve) -> None:
    @asynccontextmanager
    async def hang() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    service = await serve(operations_with(hang), sync_seconds=SOON)
    async with asyncio.timeout(10 * UNIT_SECONDS):
        answer = await service.post(ask_for("/succeed", "/succeed"))
    assert answer.status == 202
    assert handed_over(service) == [0, 1]


async def test_atomic_says_rolled_back_even_if_the_transaction_swallows_the_exception(serve: Serve) -> None:
    @asynccontextmanager
    async def swallow() -> AsyncIterator[None]:
        with suppress(Exception):
            yield

    service = await serve(operations_with(swallow, savepoint=no_savepoint))
    answer = await service.post(ask_for("/succeed", "/reject"), atomic=True)
    assert statuses(answer) == [424, 409]


async def test_a_transaction_without_savepoints_is_called_misconfigured(serve: Serve) -> None:
    @asynccontextmanager
    async def plain() -> AsyncIterator[object]:
        yield object()

    service = await serve(operations_with(plain))
    answer = await service.post(ask_for("/succeed"))
    assert statuses(answer) == [500]
    assert "savepoint=" in answer.body["results"][0]["error"]["detail"]


async def test_handlers_stop_once_time_is_over_even_if_they_never_wait(serve: Serve) -> None:
    """A handler that never awaits cannot be cancelled, so it must not start after the deadline."""
    operations = operations_with(no_transaction, savepoint=no_savepoint)
    runs: list[str] = []

    @operations.post("/hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    @operations.post("/note")
    async def note(context: Context) -> None:
        runs.append(context.operation_id)

    service = await serve(operations, sync_seconds=3 * SOON)
    answer = await service.post(ask_for("/note", "/hang", "/note", "/note"))
    assert answer.status == 202
    assert handed_over(service) == [1, 2, 3]
    assert runs == ["0"]


@asynccontextmanager
async def no_transaction() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def fragile_transaction() -> AsyncIterator[list[str]]:
    """A transaction whose connection a handler can lose by an entry in this list. Then it cannot be ended cleanly."""
    lost: list[str] = []
    try:
        yield lost
    finally:
        if lost:
            raise ConnectionResetError(lost[0])


def operations_with_fragile_transaction(runs: list[int]) -> Operations[Any]:
    """Add a handler that loses the connection when it times out. Its attempts are noted in `runs`."""
    operations = operations_with(fragile_transaction, savepoint=no_savepoint)

    @operations.post("/lose", timeout_seconds=0.01)
    async def lose(context: Context[list[str]]) -> None:
        runs.append(context.attempt)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            context.transaction.append("lost")
            raise TimeoutError from None

    return operations


async def test_operation_whose_driver_converts_the_cancellation_is_a_culprit_too(serve: Serve) -> None:
    """Nobody tries it again on a connection that may be lost, and the others run again without it."""
    runs: list[int] = []
    service = await serve(operations_with_fragile_transaction(runs))
    answer = await service.post(ask_for("/succeed", "/lose", "/succeed"))
    assert statuses(answer) == [200, 504, 200]
    assert runs == [1]


async def test_operation_cut_off_before_a_bulk_call_that_is_cut_off_too_is_a_culprit(serve: Serve) -> None:
    runs: list[int] = []
    operations = operations_with_fragile_transaction(runs)

    @operations.post("/bulk/{name}", bulk=True, timeout_seconds=0.01)
    async def perform(name: list[str]) -> list[str]:
        runs.append(len(name))
        if runs == [1, 2]:
            await asyncio.Event().wait()
        return name

    service = await serve(operations)
    answer = await service.post(ask_for("/lose", "/bulk/a", "/bulk/b", "/succeed"))
    assert statuses(answer) == [504, 200, 200, 200]
    assert runs == [1, 2, 2]


async def test_atomic_without_a_transaction_is_refused(serve: Serve) -> None:
    service = await serve(toys)
    problem = assert_problem(await service.post(ask_for("/succeed"), atomic=True), 422)
    assert pointers(problem) == ["/atomic"]


async def test_atomic_false_needs_no_transaction(serve: Serve) -> None:
    service = await serve(toys)
    assert statuses(await service.post(ask_for("/succeed"), atomic=False)) == [200]


async def test_atomic_is_for_batches_answered_at_once(serve: Serve, database: Database) -> None:
    service = await serve(database.operations(), sync_max_operations=2)
    problem = assert_problem(await service.post(ask_for("/items/a", "/items/b", "/items/c"), atomic=True), 413)
    assert problem["maxAtomicOperations"] == 2
    assert await database.names() == []
    assert service.parts.chunks.messages == []


# Other kinds of handlers


async def test_threads_run_beside_the_transaction_and_have_no_part_in_it(serve: Serve, database: Database) -> None:
    operations = database.operations()
    in_thread, in_transaction = threading.Event(), threading.Event()

    @operations.post("/thread")
    def run_in_thread(context: Context) -> str:
        in_thread.set()
        assert in_transaction.wait(20 * UNIT_SECONDS)
        return context.key

    @operations.post("/meet-the-thread")
    async def meet_the_thread() -> None:
        assert await asyncio.to_thread(in_thread.wait, 20 * UNIT_SECONDS)
        in_transaction.set()

    service = await serve(operations)
    answer = await service.post(ask_for("/items/a", "/thread", "/meet-the-thread", "/items/a"))
    assert statuses(answer) == [201, 200, 200, 409]
    assert await database.names() == ["a"]


async def test_atomic_refuses_what_could_not_be_rolled_back(serve: Serve, database: Database) -> None:
    operations = database.operations()

    @operations.post("/thread")
    def run_in_thread() -> None: ...

    service = await serve(operations)
    problem = assert_problem(await service.post(ask_for("/items/a", "/thread"), atomic=True), 422)
    assert problem["errors"] == [
        {
            "pointer": "/operations/1/path",
            "detail": "POST /thread does not run in the transaction, so it could not be rolled back.",
        }
    ]
    assert await database.names() == []


async def test_thread_that_outlives_the_time_is_handed_over(serve: Serve) -> None:
    operations = Operations()
    gate = threading.Event()

    @operations.post("/wait")
    def wait() -> None:
        gate.wait(60)

    service = await serve(operations, sync_seconds=SOON)
    answer = await service.post(ask_for("/wait"))
    gate.set()
    assert answer.status == 202
    assert handed_over(service) == [0]


def with_bulk_items(database: Database, sizes: list[int]) -> Operations[AsyncConnection]:
    """Add a bulk handler that inserts unique names. `sizes` are the sizes of its calls."""
    operations = database.operations()

    @operations.post("/bulk-items/{name}", status=201, bulk=True, timeout_seconds=1 * UNIT_SECONDS)
    async def create(name: list[str], contexts: list[Context[AsyncConnection]]) -> list[Any]:
        sizes.append(len(name))
        if "hang" in name:
            await insert(contexts[0], "gone-with-the-call")
            await asyncio.Event().wait()
        statement = text("INSERT INTO item (name) VALUES (:name)")
        try:
            await contexts[0].transaction.execute(statement, [{"name": one} for one in name])
        except IntegrityError as error:
            raise Reject(409, "One of them is taken.") from error
        return name

    return operations


def bulk_items(*names: str) -> list[dict[str, Any]]:
    return ask_for(*(f"/bulk-items/{name}" for name in names))


async def test_bulk_operations_are_one_call_in_one_savepoint(serve: Serve, database: Database) -> None:
    sizes: list[int] = []
    service = await serve(with_bulk_items(database, sizes))
    answer = await service.post(bulk_items("a", "b", "c"))
    assert [result["result"] for result in answer.body["results"]] == ["a", "b", "c"]
    assert sizes == [3]
    assert database.log == ["begin", "savepoint", "release_savepoint", "commit"]


async def test_only_neighbours_are_one_call_where_the_order_counts(serve: Serve, database: Database) -> None:
    sizes: list[int] = []
    service = await serve(with_bulk_items(database, sizes))
    answer = await service.post([*bulk_items("a", "b"), *ask_for("/items/c"), *bulk_items("d")])
    assert statuses(answer) == [201] * 4
    assert sizes == [2, 1]


async def test_without_a_transaction_all_of_a_batch_are_one_call(serve: Serve) -> None:
    operations, sizes = Operations(), list[int]()

    @operations.post("/bulk/{name}", bulk=True)
    async def perform(name: list[str]) -> list[str]:
        sizes.append(len(name))
        return name

    @operations.post("/single")
    async def single() -> str:
        return "single"

    service = await serve(operations)
    answer = await service.post(ask_for("/bulk/a", "/single", "/bulk/b"))
    assert [result["result"] for result in answer.body["results"]] == ["a", "single", "b"]
    assert sizes == [2]


async def test_call_that_raises_is_rolled_back_and_its_operations_tried_singly(
    serve: Serve, database: Database
) -> None:
    sizes: list[int] = []
    service = await serve(with_bulk_items(database, sizes))
    answer = await service.post([*ask_for("/items/b"), *bulk_items("a", "b", "c")])
    assert statuses(answer) == [201, 201, 409, 201]
    assert sizes == [3, 1, 1, 1]
    assert await database.names() == ["a", "b", "c"]


async def test_row_to_be_tried_again_is_tried_singly(serve: Serve, database: Database) -> None:
    sizes: list[int] = []
    operations = database.operations()

    @operations.post("/bulk/{name}", bulk=True)
    async def perform(name: list[str], contexts: list[Context]) -> list[Any]:
        sizes.append(len(name))
        return [Retry(after_seconds=0) if one == "late" and context.attempt == 1 else context.attempt
                for one, context in zip(name, contexts, strict=True)]  # fmt: skip

    service = await serve(operations)
    answer = await service.post(ask_for("/bulk/a", "/bulk/late", "/bulk/c"))
    assert [result["result"] for result in answer.body["results"]] == [1, 2, 1]
    assert sizes == [3, 1]


async def test_call_that_is_cut_off_costs_nobody_the_transaction(serve: Serve, database: Database) -> None:
    """The connection may be lost with it. All operations run again, and those of the call alone."""
    sizes: list[int] = []
    service = await serve(with_bulk_items(database, sizes), sync_seconds=20 * UNIT_SECONDS)
    answer = await service.post([*ask_for("/items/z"), *bulk_items("a", "hang", "c")])
    assert statuses(answer) == [201, 201, 504, 201]
    assert sizes[:2] == [3, 1]
    assert await database.names() == ["a", "c", "z"]


async def test_call_that_cancels_its_own_task_costs_nobody_the_transaction(serve: Serve, database: Database) -> None:
    operations, sizes = database.operations(), list[int]()

    @operations.post("/bulk-items/{name}", status=201, bulk=True)
    async def create(name: list[str], contexts: list[Context[AsyncConnection]]) -> list[str]:
        sizes.append(len(name))
        for one in name:
            await insert(contexts[0], one)
        if "cancel" in name:
            await cancel_own_task()
        return name

    service = await serve(operations)
    answer = await service.post([*ask_for("/items/z"), *bulk_items("a", "cancel", "c")])
    assert statuses(answer) == [201, 201, 500, 201]
    assert sizes[:2] == [3, 1]
    assert await database.names() == ["a", "c", "z"]


async def test_atomic_counts_the_rows_of_a_bulk_call(serve: Serve, database: Database) -> None:
    service = await serve(with_bulk_items(database, []))
    answer = await service.post([*bulk_items("a", "b", "a"), *ask_for("/items/c")], atomic=True)
    assert statuses(answer) == [424, 424, 409, 424]
    assert await database.names() == []
