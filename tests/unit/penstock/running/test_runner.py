"""Whatever a handler does becomes its operation's verdict, within the slots and the stages of stopping."""

import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest
from msgspec.structs import replace as with_changes
from pydantic import AfterValidator, BaseModel, Field, model_serializer
from structlog.testing import capture_logs

from penstock import Context, Operations, Reject, Retry
from penstock.chunk import Chunk, Links, Operation
from penstock.documents.nesting import MOST_LEVELS
from penstock.errors import Misconfigured
from penstock.metrics.meter import UNKNOWN_HANDLER, Meter
from penstock.outcome import ChunkRecord, Outcome, OutcomeState, TryAgain, Verdict, as_outcome, failed, result_value
from penstock.priority import Priority
from penstock.record import decode_record, encode_record
from penstock.running.attempt import SWALLOWED
from penstock.running.result_memory import ResultMemory
from penstock.running.runner import Runner
from penstock.running.source import Source, Urgency
from penstock.running.stop import Stop
from penstock.running.time_slice import KEPT_SECONDS, SLICE_SECONDS
from penstock.running.verdict import MAX_DETAIL_CHARACTERS, error_id
from penstock.telemetry import Event
from penstock.testing import FakeClock
from tests.support.attempts import run_one
from tests.support.garbage import without_collections
from tests.support.waiting import eventually

Logs = list[MutableMapping[str, Any]]

SOURCE = Source("01J", "01J")

operations = Operations()


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Forgetful(Reject):
    def __init__(self) -> None:
        """Forgets its base class."""


class Rude(BaseException):
    pass


@operations.post("/succeed", status=201)
async def succeed(body: Any = None) -> Any:
    return body


@operations.post("/reject")
async def reject() -> None:
    raise Reject(409, "This e-mail is taken.")


@operations.post("/retry")
async def retry() -> None:
    raise Retry("The bank is closed.", after_seconds=7)


@operations.post("/retry-any-time", max_attempts=5)
async def retry_any_time() -> None:
    raise Retry


@operations.post("/yield-and-retry")
async def yield_and_retry() -> None:
    await asyncio.sleep(0)
    raise Retry


@operations.post("/fail")
async def fail() -> None:
    raise RuntimeError("no luck")


@operations.post("/fail-silently")
async def fail_silently() -> None:
    raise RuntimeError


@operations.post("/fail-at-length")
async def fail_at_length() -> None:
    raise RuntimeError("x" * 10_000)


@operations.post("/fail-oddly")
async def fail_oddly() -> None:
    raise Odd


@operations.post("/fail-with-a-file-name")
async def fail_with_a_file_name() -> None:
    raise FileNotFoundError("\udcff.csv")


@operations.post("/fail-as-a-group")
async def fail_as_a_group() -> None:
    raise ExceptionGroup("two things", [ValueError("a"), KeyError("b")])


@operations.post("/reject-forgetfully")
async def reject_forgetfully() -> None:
    raise Forgetful


@operations.post("/reject-with-an-object")
async def reject_with_an_object() -> None:
    raise Reject(422, {"field": "email"})  # type: ignore[arg-type]


@operations.post("/hang", timeout_seconds=0.01)
async def hang() -> None:
    await asyncio.Event().wait()


@operations.post("/time-out-by-itself")
async def time_out_by_itself() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


@operations.post("/finish-late", timeout_seconds=0.01)
async def finish_late() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "done all the same"
    return ""


@operations.post("/fail-late", timeout_seconds=0.01)
async def fail_late() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise ConnectionError("while cleaning up")


@operations.post("/exit")
async def leave() -> None:
    sys.exit(3)


@operations.post("/rude")
async def be_rude() -> None:
    raise Rude("out of the tree")


@operations.post("/cancelled-within")
async def cancelled_within() -> None:
    raise asyncio.CancelledError


@operations.post("/await-what-was-cancelled")
async def await_what_was_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@operations.post("/cancel-itself")
async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def interrupt_validator(value: int) -> int:
    raise KeyboardInterrupt


@operations.post("/interrupt")
async def interrupt() -> None:
    raise KeyboardInterrupt


@operations.post("/interrupt-validation")
async def interrupt_validation(body: Annotated[int, AfterValidator(interrupt_validator)]) -> None: ...


@operations.post("/close")
async def close() -> None:
    raise GeneratorExit


@operations.post("/cancel-itself-and-hang", timeout_seconds=0.01)
async def cancel_itself_and_hang() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    await asyncio.Event().wait()


@operations.post("/sleep")
async def sleep() -> None:
    await asyncio.Event().wait()


@operations.post("/needs-a-number")
async def needs_a_number(body: int) -> None: ...


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def make_operation(path: str, body: Any = None, index: int = 0) -> Operation:
    return Operation(index, f"op-{index}", "POST", path, body)


async def run(path: str, body: Any = None, registry: Operations[Any] = operations) -> Verdict:
    return await run_one(Runner(registry, concurrency=1), make_operation(path, body), SOURCE, 1)


def make_chunk(*paths: str) -> Chunk:
    return Chunk("01J", "17", 1, tuple(make_operation(path, index=index) for index, path in enumerate(paths)))


def failure(status: int, title: str, detail: str, *, rejected: bool = False) -> Outcome:
    return failed(make_operation("/"), status, title, detail, rejected=rejected)


def broke(detail: str, max_attempts: int = 3) -> TryAgain:
    return TryAgain(failure(500, "Broke", detail), max_attempts)


async def run_in_chunk(runner: Runner, operation: Operation, source: Source, attempt: int) -> Verdict:
    verdicts = await runner.run_chunk(Chunk("01J", "17", attempt, (operation,)), source, Stop(), lambda _: None)
    return verdicts[operation.index]


# A chunk calls handlers on the event loop in a shorter way than a small batch. The results must be the same.
both_ways = pytest.mark.parametrize("perform", [run_one, run_in_chunk], ids=["alone", "in a chunk"])


# --- Verdicts


@both_ways
@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        ("/succeed", Outcome(0, "op-0", OutcomeState.SUCCEEDED, 201, result=None)),
        # Refused for good.
        ("/reject", failure(409, "Rejected", "This e-mail is taken.", rejected=True)),
        ("/reject-with-an-object", failure(422, "Rejected", "{'field': 'email'}", rejected=True)),
        ("/needs-a-number", failure(422, "Invalid operation", "POST /needs-a-number needs a body.", rejected=True)),
        # To be tried again.
        ("/retry", TryAgain(failure(503, "Not performed", "The bank is closed."), 3, after_seconds=7)),
        ("/retry-any-time", TryAgain(failure(503, "Not performed", "The operation could not be performed yet."), 5)),
        ("/fail", broke("RuntimeError: no luck")),
        ("/fail-silently", broke("RuntimeError")),
        ("/fail-at-length", broke("RuntimeError: " + "x" * (MAX_DETAIL_CHARACTERS - 14))),
        ("/fail-with-a-file-name", broke("FileNotFoundError: ?.csv")),
        ("/fail-as-a-group", broke("ExceptionGroup: two things (2 sub-exceptions)")),
        # Exceptions that are none of a good family: no reason to lose the operation's neighbours.
        ("/fail-oddly", broke("Odd")),
        ("/reject-forgetfully", broke("Forgetful")),
        ("/rude", broke("Rude: out of the tree")),
        ("/exit", broke("SystemExit: 3")),
        ("/interrupt", broke("KeyboardInterrupt")),
        ("/close", broke("GeneratorExit")),
        # Time.
        ("/hang", TryAgain(failure(504, "Timed out", "The operation was not done within 0.01 s."), 3)),
        ("/time-out-by-itself", broke("TimeoutError")),
        ("/finish-late", TryAgain(failure(504, "Timed out", "The operation was not done within 0.01 s."), 3)),
        ("/fail-late", broke("ConnectionError: while cleaning up")),
        # A cancellation that nobody asked for.
        ("/cancelled-within", broke("CancelledError: The handler was cancelled from within.")),
        ("/await-what-was-cancelled", broke("CancelledError: The handler was cancelled from within.")),
    ],
)
async def test_whatever_a_handler_does_becomes_a_verdict(path: str, verdict: Verdict, perform: Any) -> None:
    assert await perform(Runner(operations, concurrency=1), make_operation(path), SOURCE, 1) == verdict


@both_ways
@pytest.mark.parametrize(
    ("path", "attempt", "counted"),
    [
        ("/succeed", 1, "succeeded"),
        ("/succeed", 9, "succeeded"),
        ("/reject", 1, "failed"),
        ("/fail", 1, "retried"),
        ("/fail", 2, "retried"),
        ("/fail", 3, "failed"),  # its last
        ("/retry-any-time", 4, "retried"),
        ("/retry-any-time", 5, "failed"),
        ("/hang", 3, "failed"),
        ("/cancelled-within", 1, "retried"),
    ],
)
async def test_every_attempt_is_counted_as_what_it_came_to(path: str, attempt: int, counted: str, perform: Any) -> None:
    meter = Meter()
    runner = Runner(operations, 1, meter=meter)
    await perform(runner, make_operation(path), SOURCE, attempt)
    assert runner.take_spent()[f"POST {path}"].count == 1
    figures = meter.take().handlers
    assert list(figures) == [f"POST {path}"]
    [handler] = figures.values()
    assert (getattr(handler, counted), handler.count, handler.seconds.count) == (1, 1, 1)


async def test_quick_operations_of_one_slice_are_counted_for_their_own_handlers() -> None:
    quick, meter = Operations[Any](), Meter()

    @quick.post("/plain")
    async def plain() -> dict[str, int]:
        return {"n": 1}

    @quick.post("/other")
    async def other() -> dict[str, int]:
        return {"n": 2}

    @quick.post("/text")
    async def text() -> str:
        return "a result that is no object"

    runner = Runner(quick, 1, meter=meter)
    verdicts = await runner.run_chunk(
        make_chunk("/plain", "/other", "/plain", "/text", "/plain"), SOURCE, Stop(), lambda _: None
    )
    assert list(verdicts) == [0, 1, 2, 3, 4]
    assert counted(meter) == {"POST /plain": (0, 3), "POST /other": (0, 1), "POST /text": (0, 1)}
    assert {name: spent.count for name, spent in runner.take_spent().items()} == {
        "POST /plain": 3,
        "POST /other": 1,
        "POST /text": 1,
    }


async def test_quick_operations_before_one_that_waits_are_counted_while_it_waits() -> None:
    some_wait, meter, begun = Operations[Any](), Meter(), asyncio.Event()

    @some_wait.post("/at/{n}")
    async def at(n: int) -> None:
        if n == 2:
            begun.set()
            await asyncio.Event().wait()

    runner, stop = Runner(some_wait, 1, meter=meter), Stop()
    chunk = make_chunk("/at/0", "/at/1", "/at/2")
    running = asyncio.create_task(runner.run_chunk(chunk, SOURCE, stop, lambda _: None))
    await begun.wait()
    assert counted(meter) == {"POST /at/{n}": (0, 2)}
    stop.begin()
    stop.cut_off()
    assert set(await running) == {0, 1}


async def test_attempt_that_is_cut_short_is_not_counted() -> None:
    meter = Meter()
    running = asyncio.create_task(run_one(Runner(operations, 1, meter=meter), make_operation("/sleep"), SOURCE, 1))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert meter.take().handlers == {}


@both_ways
async def test_operation_that_is_not_offered_any_more_is_counted_without_a_time(perform: Any) -> None:
    meter = Meter()
    await perform(Runner(Operations(), 1, meter=meter), make_operation("/x"), SOURCE, 1)
    figures = meter.take().handlers[UNKNOWN_HANDLER]
    assert (figures.failed, figures.count, figures.seconds.count) == (1, 1, 0)


async def test_operation_that_the_application_no_longer_offers_fails_for_good() -> None:
    detail = "There is no operation POST /x. Available operations: none."
    assert await run("/x", registry=Operations()) == failure(404, "Unknown operation", detail, rejected=True)


@both_ways
async def test_validator_that_interrupts_makes_only_its_operation_invalid(perform: Any) -> None:
    meter = Meter()
    with capture_logs() as logs:
        operation = make_operation("/interrupt-validation", 1)
        verdict = await perform(Runner(operations, 1, meter=meter), operation, SOURCE, 1)
    assert counted(meter) == {UNKNOWN_HANDLER: (1, 1)}
    detail = f"The validator failed: {logs[0]['error']}."
    assert verdict == failure(422, "Invalid operation", detail, rejected=True)


async def test_closing_a_task_is_no_failure_of_its_handler(logs: Logs) -> None:
    runner = Runner(operations, concurrency=1)
    attempt = runner.run((make_operation("/sleep"),), SOURCE, 1)
    attempt.send(None)
    attempt.close()
    assert not logs


@pytest.mark.parametrize(
    ("path", "is_logged"),
    [("/succeed", False), ("/reject", False), ("/retry", False), ("/hang", False), ("/fail", True), ("/exit", True)],
)
async def test_only_what_a_handler_does_not_declare_is_logged(logs: Logs, path: str, is_logged: bool) -> None:
    await run(path)
    broken = [line for line in logs if line["event"] == Event.OPERATION_BROKE]
    assert [line["handler"] for line in broken] == [f"POST {path}"] * is_logged


@both_ways
@pytest.mark.parametrize("path", ["/fail", "/fail-oddly", "/fail-as-a-group", "/rude", "/exit", "/time-out-by-itself"])
async def test_words_of_an_exception_are_only_in_the_log(logs: Logs, path: str, perform: Any) -> None:
    runner = Runner(operations, concurrency=1, shows_errors=False)
    verdict = await perform(runner, make_operation(path), SOURCE, 1)
    id_ = error_id("01J/op-0", 1)
    assert verdict == broke(f"The handler failed. The log has the error under error_id {id_}.")
    [line] = [line for line in logs if line["event"] == Event.OPERATION_BROKE]
    assert line["error_id"] == id_
    assert isinstance(line["exc_info"], BaseException)


async def test_words_for_the_client_are_told() -> None:
    runner = Runner(operations, concurrency=1, shows_errors=False)
    for path in ("/reject", "/retry", "/hang", "/cancelled-within"):
        assert await run_one(runner, make_operation(path), SOURCE, 1) == await run(path)


async def test_reason_why_a_result_is_no_json_is_only_in_the_log(logs: Logs) -> None:
    class Secretive(BaseModel):
        @model_serializer
        def serialize(self) -> None:
            raise RuntimeError("postgresql://app:password@10.0.0.7")

    runner = Runner(returning(Secretive), concurrency=1, shows_errors=False)
    verdict = await run_one(runner, make_operation("/x"), SOURCE, 1)
    see_log = f"The log has the error under error_id {error_id('01J/op-0', 1)}."
    detail = f"POST /x returned a value that JSON cannot represent. {see_log}"
    assert verdict == failure(500, "Result is not JSON", detail)
    assert "postgresql" in str(logs)


def test_error_id_is_new_for_each_attempt_and_operation() -> None:
    assert len({error_id(key, attempt) for key in ("a/1", "a/2") for attempt in (1, 2)}) == 4


async def test_misconfigured_application_is_told_and_not_tried_again() -> None:
    registry = Operations()

    @registry.post("/x")
    async def handler() -> None:
        raise Misconfigured("Tell Penstock how to open a savepoint.")

    detail = "Tell Penstock how to open a savepoint."
    assert await run("/x", registry=registry) == failure(500, "Misconfigured", detail)


# --- Results


class User(BaseModel):
    first_name: str = Field(alias="firstName")
    born: datetime


@dataclass
class Point:
    x: int
    y: tuple[int, ...] = ()


def returning(result: Any) -> Operations[Any]:
    registry = Operations()

    @registry.post("/x")
    async def handler() -> Any:
        return result() if callable(result) else result

    return registry


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        (None, None),
        ({"a": [1, 2.5, "x", None, True]}, {"a": [1, 2.5, "x", None, True]}),
        (
            User(firstName="Ann", born=datetime(2000, 1, 1, tzinfo=UTC)),
            {"firstName": "Ann", "born": "2000-01-01T00:00:00Z"},  # by its aliases, as it would be sent
        ),
        ([Point(1, (2, 3))], [{"x": 1, "y": [2, 3]}]),
        (
            {
                1,
            },
            [1],
        ),
        (frozenset(), []),
        (b"text", "text"),
        (Decimal("9.90"), "9.90"),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (lambda: (n for n in range(3)), [0, 1, 2]),
        ("\ufffe\x00", "\ufffe\x00"),
        (10**4_000, 10**4_000),
        (nested(190), nested(190)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_result_is_what_the_handler_returned_as_json(returned: Any, result: Any) -> None:
    verdict = await run("/x", registry=returning(returned))
    assert isinstance(verdict, Outcome)
    assert result_value(verdict.result) == result
    assert verdict.status == 200


@pytest.mark.parametrize("is_bulk", [False, True])
async def test_async_def_that_returns_a_coroutine_is_told_to_await_it(is_bulk: bool) -> None:
    registry = Operations()

    async def look_up() -> int:
        return 1

    if is_bulk:

        @registry.post("/x", bulk=True)
        async def forget_each(contexts: list[Context]) -> Any:
            return [look_up() for _ in contexts]
    else:

        @registry.post("/x")
        async def forget() -> Any:
            return look_up()

    detail = "The handler of POST /x returned a coroutine that it did not await. Write `return await ...`."
    assert await run("/x", registry=registry) == failure(500, "Misconfigured", detail)


@pytest.mark.parametrize(
    ("returned", "where"),
    [
        (float("nan"), "infinity. "),
        (float("-inf"), "infinity. "),
        ({"a/b": ["NaN", {"x": math.inf}]}, "infinity at /a~1b/1/x. "),
        (Point(math.nan, (2, 3)), "infinity at /x. "),  # type: ignore[arg-type]
    ],
)
async def test_nan_and_infinity_are_refused_as_a_result(returned: Any, where: str) -> None:
    verdict = await run("/x", registry=returning(returned))
    assert isinstance(verdict, Outcome)
    assert (verdict.status, verdict.error) == (
        500,
        {
            "title": "Result is not JSON",
            "detail": f"POST /x returned NaN or {where}JSON has no such number: return None instead.",
        },
    )


async def test_names_of_such_numbers_are_texts_like_others() -> None:
    verdict = await run("/x", registry=returning(["NaN", "Infinity"]))
    assert isinstance(verdict, Outcome)
    assert verdict.result == ["NaN", "Infinity"]


def circular() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    "returned",
    [
        object(),
        b"\xff",
        "\ud800",
        {"\udcff": 1},
        circular(),
        10**5_000,
        {"a": [{1, object}]},
        nested(250),
        nested(1_000),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_result_that_json_cannot_hold_fails_for_good(returned: Any) -> None:
    verdict = await run("/x", registry=returning(lambda: returned))
    assert isinstance(verdict, Outcome)
    assert verdict.error is not None
    assert (verdict.status, verdict.error["title"]) == (500, "Result is not JSON")
    assert verdict.error["detail"].startswith("POST /x returned a value that JSON cannot represent: ")
    assert_can_be_recorded(verdict)


@pytest.mark.parametrize("depth", range(MOST_LEVELS + 1, 200))
async def test_result_that_is_nested_too_deeply_fails_for_good(depth: int) -> None:
    detail = "POST /x returned a value that is nested too deeply. Use at most 190 levels of arrays and objects."
    assert await run("/x", registry=returning(nested(depth))) == failure(500, "Result is not JSON", detail)


@pytest.mark.parametrize("depth", range(190, 206))
async def test_result_of_any_depth_is_refused_or_can_be_read_back_from_a_record(depth: int) -> None:
    verdict = await run("/x", registry=returning(nested(depth)))
    assert isinstance(verdict, Outcome)
    assert_can_be_recorded(verdict)


def assert_can_be_recorded(outcome: Outcome) -> None:
    record = ChunkRecord("17", (outcome,))
    assert decode_record("17", encode_record(record)).outcomes == (
        with_changes(outcome, result=result_value(outcome.result)),
    )


# --- What the handler is given


async def test_context_tells_the_handler_what_it_performs() -> None:
    registry, seen = Operations(), list[Context]()

    @registry.post("/x")
    async def handler(context: Context) -> None:
        seen.append(context)

    await run_one(Runner(registry, 1), make_operation("/x", index=5), SOURCE, 2)
    assert seen == [Context("op-5", "01J", 2, "01J/op-5", None)]


async def test_key_is_the_same_for_every_attempt_and_of_this_operation_alone() -> None:
    registry, keys = Operations(), list[str]()

    @registry.post("/x", max_attempts=9)
    async def handler(context: Context) -> None:
        keys.append(context.key)
        raise Retry

    runner = Runner(registry, 1)
    for attempt in (1, 2, 3):
        await run_one(runner, make_operation("/x", index=0), SOURCE, attempt)
    await run_one(runner, make_operation("/x", index=1), SOURCE, 1)
    await run_one(runner, make_operation("/x", index=0), Source("01K", "01K"), 1)
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


async def test_batch_that_took_over_anothers_request_keeps_its_keys() -> None:
    registry, seen = Operations(), list[Context]()

    @registry.post("/x")
    async def handler(context: Context) -> None:
        seen.append(context)

    await run_one(Runner(registry, 1), make_operation("/x"), Source(batch_id="01K", key_prefix="01J"), 1)
    assert (seen[0].batch_id, seen[0].key) == ("01K", "01J/op-0")


async def test_attempt_that_changed_its_body_leaves_it_as_it_was_for_the_next() -> None:
    registry = Operations()

    @registry.post("/x")
    async def handler(body: dict[str, Any]) -> None:
        body["items"].clear()
        raise Retry

    operation = make_operation("/x", {"items": [1]})
    await run_one(Runner(registry, 1), operation, SOURCE, 1)
    assert operation.body == {"items": [1]}


# --- Slots


@dataclass
class Gauge:
    """A handler that records how many of itself run at once, and goes on when it is let."""

    running: int = 0
    most: int = 0
    begun: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def perform(self) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1

    async def runs(self, count: int) -> bool:
        return self.running == count


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


def gauged(gauge: Gauge) -> Operations[Any]:
    registry = Operations()
    registry.post("/gauge")(gauge.perform)
    registry.post("/succeed")(succeed)
    registry.post("/fail")(fail)
    return registry


@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_concurrency_is_bounded_across_chunks(gauge: Gauge, concurrency: int) -> None:
    runner = Runner(gauged(gauge), concurrency)
    chunks = [make_chunk(*["/gauge"] * 10) for _ in range(5)]
    running = [asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None)) for chunk in chunks]
    await eventually(lambda: gauge.runs(min(concurrency, 50)))
    gauge.gate.set()

    verdicts = await asyncio.gather(*running)
    assert gauge.most == min(concurrency, 50)
    assert [sorted(one) for one in verdicts] == [list(range(10))] * 5


async def test_slots_taken_by_small_batches_count_too(gauge: Gauge) -> None:
    runner = Runner(gauged(gauge), 2)
    async with runner.slot(make_operation("/gauge"), SOURCE):
        running = asyncio.create_task(runner.run_chunk(make_chunk("/gauge", "/gauge"), SOURCE, Stop(), lambda _: None))
        await eventually(lambda: gauge.runs(1))
    await eventually(lambda: gauge.runs(2))
    gauge.gate.set()
    await running


async def test_chunk_for_which_a_slot_was_taken_takes_no_other(gauge: Gauge) -> None:
    runner = Runner(gauged(gauge), 1)
    gauge.gate.set()
    async with runner.slot(make_operation("/gauge"), SOURCE):
        verdicts = await runner.run_chunk(make_chunk("/gauge"), SOURCE, Stop(), lambda _: None, has_slot=True)
    assert sorted(verdicts) == [0]


@pytest.mark.parametrize(
    "second",
    [Source("01K", "01K", Priority.HIGH), Source("01K", "01K", Priority.NORMAL, "small")],
    ids=["more urgent", "of another tenant"],
)
async def test_chunk_does_not_wait_for_all_of_another_that_came_before_it(second: Source) -> None:
    order: list[str] = []
    registry, clock = Operations(), FakeClock()

    @registry.post("/x")
    async def x(context: Context) -> None:
        order.append(context.batch_id)
        clock.advance(KEPT_SECONDS)
        await asyncio.sleep(0)

    runner = Runner(registry, 2, clock.monotonic)
    first = Source("01J", "01J", Priority.NORMAL, "big")
    chunks = [(make_chunk(*["/x"] * 40), first), (make_chunk(*["/x"] * 5), second)]
    await asyncio.gather(*(runner.run_chunk(chunk, source, Stop(), lambda _: None) for chunk, source in chunks))
    last = max(place for place, batch_id in enumerate(order) if batch_id == "01K")
    assert last < 2 + 2 * 5 + 2


async def test_whoever_has_all_slots_runs_alone(gauge: Gauge) -> None:
    runner = Runner(gauged(gauge), 3)
    before = asyncio.create_task(runner.run_chunk(make_chunk(*["/gauge"] * 2), SOURCE, Stop(), lambda _: None))
    await eventually(lambda: gauge.runs(2))
    alone = asyncio.create_task(take_all_slots(runner, gauge))
    await asyncio.sleep(0)
    after = asyncio.create_task(runner.run_chunk(make_chunk(*["/gauge"] * 5), SOURCE, Stop(), lambda _: None))
    gauge.gate.set()

    await asyncio.gather(before, alone, after)
    assert gauge.begun == 7
    assert gauge.most <= 3


async def take_all_slots(runner: Runner, gauge: Gauge) -> None:
    async with runner.all_slots(make_operation("/succeed"), SOURCE):
        begun = gauge.begun
        for _ in range(10):
            assert gauge.running == 0
            await asyncio.sleep(0)
        assert gauge.begun == begun


async def test_slots_gathered_in_vain_come_free(gauge: Gauge) -> None:
    runner = Runner(gauged(gauge), 3)
    running = asyncio.create_task(runner.run_chunk(make_chunk("/gauge"), SOURCE, Stop(), lambda _: None))
    await eventually(lambda: gauge.runs(1))
    gathering = asyncio.create_task(take_all_slots(runner, gauge))
    await asyncio.sleep(0)
    gathering.cancel()
    await asyncio.gather(gathering, return_exceptions=True)
    others = asyncio.create_task(runner.run_chunk(make_chunk(*["/gauge"] * 2), SOURCE, Stop(), lambda _: None))
    await eventually(lambda: gauge.runs(3))
    gauge.gate.set()
    await asyncio.gather(running, others)


async def test_slots_come_free_whatever_handlers_do() -> None:
    runner = Runner(operations, 1)
    paths = ["/fail", "/exit", "/hang", "/rude", "/cancel-itself", "/fail-oddly", "/finish-late", "/needs-a-number"]
    await runner.run_chunk(make_chunk(*paths, *paths), SOURCE, Stop(), lambda _: None)
    verdicts = await runner.run_chunk(make_chunk("/succeed"), SOURCE, Stop(), lambda _: None)
    assert isinstance(verdicts[0], Outcome)


# --- Chunks


async def test_failing_operations_leave_their_neighbours_alone() -> None:
    paths = ["/succeed", "/fail", "/reject", "/exit", "/hang", "/rude", "/cancel-itself", "/cancelled-within"]
    chunk = make_chunk(*paths, "/succeed")
    verdicts = await Runner(operations, 3).run_chunk(chunk, SOURCE, Stop(), lambda _: None)
    states = [verdict.state if isinstance(verdict, Outcome) else "again" for _, verdict in sorted(verdicts.items())]
    assert states == ["succeeded", "again", "failed", "again", "again", "again", "failed", "again", "succeeded"]


async def test_handler_that_cancels_its_own_task_fails_for_good() -> None:
    """Without a verdict it would follow as not run, for ever."""
    meter = Meter()
    runner = Runner(operations, 1, meter=meter)
    verdicts = await runner.run_chunk(make_chunk("/cancel-itself"), SOURCE, Stop(), lambda _: None)
    assert verdicts == {0: failure(500, "Broke", "The handler cancelled its own task.")}
    assert counted(meter) == {"POST /cancel-itself": (1, 1)}


async def run_apart(runner: Runner) -> dict[int, Verdict]:
    return await runner.run_apart((make_operation("/cancel-itself-and-hang"),), SOURCE, 1)


async def run_as_chunk(runner: Runner) -> dict[int, Verdict]:
    return await runner.run_chunk(make_chunk("/cancel-itself-and-hang"), SOURCE, Stop(), lambda _: None)


@pytest.mark.parametrize("perform", [run_apart, run_as_chunk], ids=["alone", "in a chunk"])
async def test_handler_that_cancels_its_own_task_and_then_hangs_fails_for_good(perform: Any) -> None:
    assert await perform(Runner(operations, 1)) == {0: failure(500, "Broke", "The handler cancelled its own task.")}


async def test_handler_that_runs_apart_cancels_nothing_but_itself() -> None:
    meter = Meter()
    runner = Runner(operations, 1, meter=meter)
    verdicts = await runner.run_apart((make_operation("/cancel-itself"),), SOURCE, 1)
    assert verdicts[0] == failure(500, "Broke", "The handler cancelled its own task.")
    assert counted(meter) == {"POST /cancel-itself": (1, 1)}


async def test_what_runs_apart_is_cancelled_with_whoever_waits_for_it() -> None:
    meter = Meter()
    running = asyncio.create_task(Runner(operations, 1, meter=meter).run_apart((make_operation("/sleep"),), SOURCE, 1))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert counted(meter) == {}


def counted(meter: Meter) -> dict[str, tuple[int, int]]:
    """How many attempts of each handler failed for good, and how many there were."""
    return {name: (figures.failed, figures.count) for name, figures in meter.take().handlers.items()}


async def test_each_operation_is_said_to_have_ended_exactly_once(gauge: Gauge) -> None:
    ended: list[int] = []
    gauge.gate.set()
    stop = Stop()
    chunk = make_chunk("/gauge", "/fail", "/gauge", "/nowhere")
    await Runner(gauged(gauge), 2).run_chunk(chunk, SOURCE, stop, ended.append)
    assert sum(ended) == 4
    stop.begin()
    await Runner(gauged(gauge), 2).run_chunk(chunk, SOURCE, stop, ended.append)
    assert sum(ended) == 8


async def test_operations_are_said_to_have_ended_before_another_one_waits(gauge: Gauge) -> None:
    ended: list[int] = []
    chunk = make_chunk("/succeed", "/succeed", "/fail", "/gauge")
    running = asyncio.create_task(Runner(gauged(gauge), 1).run_chunk(chunk, SOURCE, Stop(), ended.append))
    await eventually(lambda: gauge.runs(1))
    assert sum(ended) == 3
    gauge.gate.set()
    await running
    assert sum(ended) == 4


async def test_chunk_that_is_cancelled_cancels_its_handlers_and_waits_for_them(gauge: Gauge) -> None:
    runner = Runner(gauged(gauge), 5)
    running = asyncio.create_task(runner.run_chunk(make_chunk(*["/gauge"] * 9), SOURCE, Stop(), lambda _: None))
    await eventually(lambda: gauge.runs(5))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gauge.running == 0
    assert gauge.begun == 5


# --- Stopping


async def test_once_stopping_has_begun_nothing_new_begins(gauge: Gauge) -> None:
    stop, runner = Stop(), Runner(gauged(gauge), 2)
    running = asyncio.create_task(runner.run_chunk(make_chunk(*["/gauge"] * 9), SOURCE, stop, lambda _: None))
    await eventually(lambda: gauge.runs(2))
    stop.begin()
    gauge.gate.set()

    verdicts = await running
    assert gauge.begun == 2
    assert sorted(verdicts) == [0, 1]


async def test_lease_that_ends_between_an_operations_slot_and_its_task_lets_it_not_begin(gauge: Gauge) -> None:
    """A process may be stopped at any instant, and wake up past its lease."""
    is_kept = True
    ended: list[int] = []
    runner = Runner(gauged(gauge), 1)
    async with runner.slot(make_operation("/gauge"), SOURCE):
        running = asyncio.create_task(
            runner.run_chunk(make_chunk("/gauge", "/gauge"), SOURCE, Stop(), ended.append, may_begin=lambda: is_kept)
        )
        await asyncio.sleep(0)  # its worker is made
        await asyncio.sleep(0)  # and waits
    is_kept = False  # the worker has been given the slot, and has not woken up yet

    assert await running == {}
    assert gauge.begun == 0
    assert sum(ended) == 2


# --- Several operations in the slice of one slot


async def test_quick_operations_share_a_task() -> None:
    operations, tasks = Operations(), list[object]()

    @operations.post("/quick")
    async def quick() -> None:
        tasks.append(asyncio.current_task())

    runner = Runner(operations, 1, FakeClock().monotonic)
    await runner.run_chunk(make_chunk(*["/quick"] * 4), SOURCE, Stop(), lambda _: None)
    assert len(tasks) == 4
    assert len(set(tasks)) == 1


async def test_another_chunk_has_its_turn_after_a_slice() -> None:
    operations, clock, order = Operations(), FakeClock(), list[str]()

    @operations.post("/work")
    async def work(context: Context) -> None:
        order.append(context.batch_id)
        clock.advance(SLICE_SECONDS)

    runner = Runner(operations, 1, clock.monotonic)
    chunk = make_chunk(*["/work"] * 4)
    await asyncio.gather(*(runner.run_chunk(chunk, Source(name, name), Stop(), lambda _: None) for name in "ab"))
    assert "".join(order) == "abababab"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(KEPT_SECONDS, "abababab"), (KEPT_SECONDS / 2, "aabbaabb"), (KEPT_SECONDS / 4, "aaaabbbb")],
)
async def test_handlers_that_wait_shortly_keep_a_slot_for_a_moment_that_another_chunk_wants(
    seconds: float, expected: str
) -> None:
    operations, clock, order = Operations(), FakeClock(), list[str]()

    @operations.post("/work")
    async def work(context: Context) -> None:
        order.append(context.batch_id)
        await asyncio.sleep(0)
        clock.advance(seconds)

    runner = Runner(operations, 1, clock.monotonic)
    chunk = make_chunk(*["/work"] * 4)
    await asyncio.gather(*(runner.run_chunk(chunk, Source(name, name), Stop(), lambda _: None) for name in "ab"))
    assert "".join(order) == expected


async def test_handlers_of_a_chunk_that_wait_in_turns_are_counted_for_themselves() -> None:
    operations, meter = Operations[Any](), Meter()

    @operations.post("/one/{n}")
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @operations.post("/other", status=201)
    async def other() -> None:
        await asyncio.sleep(0)

    chunk = make_chunk("/one/0", "/other", "/one/2", "/one/3", "/unknown", "/other", "/one/6")
    verdicts = await Runner(operations, 2, meter=meter).run_chunk(chunk, SOURCE, Stop(), lambda _: None)
    assert [as_outcome(verdicts[index]).status for index in range(7)] == [200, 201, 200, 200, 404, 201, 200]
    assert [as_outcome(verdicts[index]).result for index in (0, 2, 3, 6)] == [0, 2, 3, 6]
    assert counted(meter) == {"POST /one/{n}": (0, 4), "POST /other": (0, 2), UNKNOWN_HANDLER: (1, 1)}


@pytest.mark.parametrize("long_path", ["/long", "/long/bulk"])
async def test_what_ends_between_two_handlers_that_wait_is_told_before_the_second_one_waits(long_path: str) -> None:
    operations, stop, ended, begun = Operations[Any](), Stop(), list[int](), asyncio.Event()

    @operations.post("/short")
    async def short() -> None:
        await asyncio.sleep(0)

    @operations.post("/none")
    async def none() -> None:
        pass

    @operations.post("/long")
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    @operations.post("/long/bulk", bulk=True)
    async def long_bulk(contexts: list[Context]) -> list[None]:
        begun.set()
        await asyncio.Event().wait()
        return [None for _ in contexts]

    meter = Meter()
    chunk = make_chunk("/short", "/none", "/none", long_path)
    runner = Runner(operations, 1, FakeClock().monotonic, meter=meter)
    running = asyncio.create_task(runner.run_chunk(chunk, SOURCE, stop, ended.append))
    await begun.wait()
    assert sum(ended) == 3
    await asyncio.sleep(0)
    assert counted(meter) == {"POST /short": (0, 1), "POST /none": (0, 2)}
    stop.begin()
    stop.cut_off()
    assert set(await running) == {0, 1, 2}


async def test_each_operation_of_a_worker_has_its_own_time_limit() -> None:
    operations, tasks = Operations[Any](), set[object]()

    @operations.post("/first", timeout_seconds=60)
    async def first() -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)

    @operations.post("/hang", timeout_seconds=0.03, max_attempts=1)
    async def hang() -> None:
        tasks.add(asyncio.current_task())
        await asyncio.Event().wait()

    chunk = make_chunk("/first", "/hang", "/first", "/hang", "/first")
    verdicts = await Runner(operations, 1).run_chunk(chunk, SOURCE, Stop(), lambda _: None)
    assert [as_outcome(verdicts[index]).status for index in range(5)] == [200, 504, 200, 504, 200]
    assert len(tasks) == 1


async def test_memory_of_each_operation_that_waits_is_released_when_it_ends() -> None:
    operations, memory, used = Operations[Any](), ResultMemory(), list[int]()

    @operations.post("/x")
    async def x() -> str:
        used.append(memory.used)
        await asyncio.sleep(0)
        return "x" * 998  # with quotes, 1,000 bytes of JSON

    with memory.for_chunk() as results:
        runner = Runner(operations, 1)
        await runner.run_chunk(make_chunk(*["/x"] * 4), SOURCE, Stop(), lambda _: None, results=results)
        assert used == [0, 1_000, 2_000, 3_000]
        assert memory.used == results.held == 4_000


async def test_time_limit_counts_from_the_call_although_an_earlier_one_has_set_the_timer() -> None:
    operations, begun = Operations[Any](), list[float]()

    @operations.post("/x", timeout_seconds=0.2)
    async def x() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) == 1:
            await asyncio.sleep(0.1)
            return
        try:
            await asyncio.Event().wait()
        finally:
            begun.append(asyncio.get_running_loop().time())

    verdicts = await Runner(operations, 1).run_chunk(make_chunk("/x", "/x"), SOURCE, Stop(), lambda _: None)
    assert [as_outcome(verdicts[index]).status for index in range(2)] == [200, 504]
    assert begun[2] - begun[1] > 0.19


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise TypeError("An array, say.")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("value", ["set", Incomparable()])
async def test_context_variables_of_one_operation_are_not_seen_by_the_next(value: object, waits: bool) -> None:
    operations, variable, seen = Operations(), ContextVar[object]("variable", default="unset"), list[object]()
    variable.set("outside")

    @operations.post("/set")
    async def set_it() -> None:
        seen.append(variable.get())
        if waits:
            await asyncio.sleep(0)
        variable.set(value)

    await Runner(operations, 1).run_chunk(make_chunk(*["/set"] * 3), SOURCE, Stop(), lambda _: None)
    assert seen == ["outside"] * 3


async def test_handler_that_cancels_its_task_costs_its_neighbours_nothing() -> None:
    operations = Operations()

    @operations.post("/cancel", max_attempts=1)
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    @operations.post("/wait")
    async def wait() -> None:
        await asyncio.sleep(0)

    ended: list[int] = []
    chunk = make_chunk("/wait", "/cancel", "/wait", "/cancel", "/wait")
    verdicts = await Runner(operations, 1).run_chunk(chunk, SOURCE, Stop(), ended.append)
    assert [as_outcome(verdicts[index]).status for index in range(5)] == [200, 500, 200, 500, 200]
    assert sum(ended) == 5


@both_ways
async def test_handler_may_return_an_awaitable_that_is_no_coroutine(perform: Any) -> None:
    """A function may only be marked as a coroutine function, from Python 3.12 on."""
    registry = Operations()

    @registry.post("/x")
    async def x() -> None: ...

    marked = replace(registry.match("POST", "/x"), handler=lambda: asyncio.ensure_future(asyncio.sleep(0, "done")))
    registry._exact["POST", "/x"] = marked
    verdict = await perform(Runner(registry, 1), make_operation("/x"), SOURCE, 1)
    assert as_outcome(verdict).result == "done"


@pytest.mark.parametrize("path", ["/succeed", "/reject", "/yield-and-retry"])
async def test_nothing_of_a_chunk_is_left_to_the_collector(path: str) -> None:
    """It has been told to come seldom: what it must free stays in memory for long."""
    runner, chunk = Runner(operations, 2), make_chunk(*[path] * 50)

    async def run_three() -> None:
        await asyncio.gather(*(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None) for _ in range(3)))
        await asyncio.sleep(0)

    await run_three()
    gc.collect()
    with without_collections():
        await run_three()
        assert gc.collect() < 10


async def test_chunk_waits_for_no_slot_once_its_last_operation_has_begun(gauge: Gauge) -> None:
    """Another's long operation holds the second slot; the first is enough for all of a quick chunk."""
    runner = Runner(gauged(gauge), 2)
    holding = asyncio.create_task(runner.run_chunk(make_chunk("/gauge"), SOURCE, Stop(), lambda _: None))
    await eventually(lambda: gauge.runs(1))

    verdicts = await runner.run_chunk(make_chunk(*["/fail"] * 5), SOURCE, Stop(), lambda _: None)

    assert len(verdicts) == 5
    assert gauge.running == 1
    gauge.gate.set()
    await holding


async def test_cut_cancels_what_runs_and_keeps_what_has_ended(gauge: Gauge) -> None:
    stop, runner = Stop(), Runner(gauged(gauge), 4)
    chunk = make_chunk("/fail", "/gauge", "/fail", "/gauge")
    ended: list[int] = []
    running = asyncio.create_task(runner.run_chunk(chunk, SOURCE, stop, ended.append))
    await eventually(lambda: gauge.runs(2))
    stop.begin()
    stop.cut_off()

    verdicts = await running
    assert sorted(verdicts) == [0, 2]
    assert gauge.running == 0
    assert sum(ended) == 4


async def test_chunk_begun_after_the_cut_runs_nothing(gauge: Gauge) -> None:
    stop = Stop()
    stop.begin()
    stop.cut_off()
    assert await Runner(gauged(gauge), 4).run_chunk(make_chunk("/gauge", "/fail"), SOURCE, stop, lambda _: None) == {}
    assert gauge.begun == 0


async def swallow(waiting: asyncio.Event) -> str:
    try:
        await waiting.wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # a clean-up that waits
    return "done"


async def replace_cancellation(waiting: asyncio.Event) -> None:
    try:
        await waiting.wait()
    except asyncio.CancelledError:
        raise ConnectionError("lost") from None


@pytest.mark.parametrize(
    ("late", "verdict"),
    [
        (swallow, Outcome(0, "op-0", OutcomeState.SUCCEEDED, 200, result="done")),
        (replace_cancellation, broke("ConnectionError: lost")),
    ],
)
async def test_handler_that_comes_to_an_end_when_cut_is_kept(
    late: Callable[[asyncio.Event], Any], verdict: Verdict
) -> None:
    registry, stop, begun = Operations(), Stop(), asyncio.Event()

    @registry.post("/x")
    async def handler() -> Any:
        begun.set()
        return await late(asyncio.Event())

    running = asyncio.create_task(Runner(registry, 1).run_chunk(make_chunk("/x"), SOURCE, stop, lambda _: None))
    await begun.wait()
    stop.begin()
    stop.cut_off()
    assert await running == {0: verdict}


async def test_handler_is_cut_while_its_time_is_running_out() -> None:
    """Both cancellations at once: it was cut short, so it follows as not run rather than as failed."""
    registry, stop = Operations(), Stop()

    @registry.post("/x", timeout_seconds=0.02)
    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stop.begin()
            stop.cut_off()
            await asyncio.Event().wait()

    assert await Runner(registry, 1).run_chunk(make_chunk("/x"), SOURCE, stop, lambda _: None) == {}


async def test_handler_that_refuses_to_be_cancelled_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one of them would keep the outcomes of its whole chunk from being recorded."""
    monkeypatch.setattr("penstock.running.left_behind.NOTICE_SECONDS", 0.01)
    registry, stop, begun, let_go = Operations(), Stop(), asyncio.Event(), asyncio.Event()

    @registry.post("/x")
    async def stubborn() -> None:
        begun.set()
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    meter = Meter()
    runner = Runner(registry, 1, meter=meter)
    running = asyncio.create_task(runner.run_chunk(make_chunk("/x"), SOURCE, stop, lambda _: None))
    await begun.wait()
    stop.begin()
    stop.cut_off()
    verdicts = await running
    assert verdicts == {}
    let_go.set()
    async with runner.slot(make_operation("/succeed"), SOURCE):
        pass  # it has given its slot back
    assert verdicts == {}  # what it returns so late counts for nothing
    assert counted(meter) == {}


def test_follower_stops_with_its_leader_and_can_stop_before() -> None:
    leader = Stop()
    with leader.follower() as early, leader.follower() as follower:
        early.begin()
        assert not leader.begun.is_set()
        assert not follower.begun.is_set()
        leader.begin()
        assert follower.begun.is_set()
        assert not follower.cut.is_set()
        leader.cut_off()
        assert early.cut.is_set()
        assert follower.cut.is_set()


def test_follower_of_one_that_has_stopped_has_stopped() -> None:
    leader = Stop()
    leader.begin()
    with leader.follower() as follower:
        assert (follower.begun.is_set(), follower.cut.is_set()) == (True, False)
    leader.cut_off()
    with leader.follower() as follower:
        assert (follower.begun.is_set(), follower.cut.is_set()) == (True, True)


def test_follower_that_is_done_follows_no_more() -> None:
    leader = Stop()
    with leader.follower() as follower:
        pass
    leader.begin()
    assert not follower.begun.is_set()


# --- Transactions


class Ledger:
    """The application's database, as far as a transaction goes: what was committed, what was rolled back."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.commit_error: Exception | None = None
        self.open_error: Exception | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[str]:
        if self.open_error is not None:
            raise self.open_error
        self.events.append("begin")
        try:
            yield "the transaction"
        except BaseException:
            self.events.append("roll back")
            raise
        if self.commit_error is not None:
            raise self.commit_error
        self.events.append("commit")


def with_transaction(ledger: Ledger) -> Operations[str]:
    registry = Operations(transaction=ledger.transaction)
    for path in ("/succeed", "/fail", "/reject", "/retry", "/exit", "/cancelled-within", "/needs-a-number"):
        registry.post(path)(operations.match("POST", path).handler)
    registry.post("/hang", timeout_seconds=0.01)(hang)

    @registry.post("/unserializable")
    async def unserializable() -> Any:
        return object()

    @registry.post("/look")
    async def look(context: Context[str]) -> str:
        return context.transaction

    return registry


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def test_handler_finds_the_transaction_in_its_context(ledger: Ledger) -> None:
    verdict = await run("/look", registry=with_transaction(ledger))
    assert isinstance(verdict, Outcome)
    assert verdict.result == "the transaction"


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("/look", ["begin", "commit"]),
        ("/fail", ["begin", "roll back"]),
        ("/reject", ["begin", "roll back"]),
        ("/retry", ["begin", "roll back"]),
        ("/hang", ["begin", "roll back"]),
        ("/exit", ["begin", "roll back"]),
        ("/cancelled-within", ["begin", "roll back"]),
        ("/unserializable", ["begin", "roll back"]),  # it fails, so nothing of it may stand
        ("/nowhere", []),  # not even begun
        ("/needs-a-number", []),
    ],
)
async def test_transaction_is_committed_only_when_the_operation_succeeded(
    ledger: Ledger, path: str, events: list[str]
) -> None:
    verdict = await run(path, registry=with_transaction(ledger))
    assert ledger.events == events
    assert (isinstance(verdict, Outcome) and verdict.state is OutcomeState.SUCCEEDED) is ("commit" in events)


async def test_operation_whose_commit_fails_is_tried_again(ledger: Ledger) -> None:
    ledger.commit_error = ConnectionError("gone")
    assert await run("/look", registry=with_transaction(ledger)) == broke("ConnectionError: gone")


async def test_operation_for_which_no_transaction_opens_is_tried_again(ledger: Ledger) -> None:
    ledger.open_error = ConnectionError("too many clients")
    assert await run("/look", registry=with_transaction(ledger)) == broke("ConnectionError: too many clients")


async def test_cut_rolls_back(ledger: Ledger) -> None:
    registry, stop, begun = with_transaction(ledger), Stop(), asyncio.Event()

    @registry.post("/wait")
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(Runner(registry, 1).run_chunk(make_chunk("/wait"), SOURCE, stop, lambda _: None))
    await begun.wait()
    stop.begin()
    stop.cut_off()
    assert await running == {}
    assert ledger.events == ["begin", "roll back"]


async def test_each_operation_of_a_chunk_has_a_transaction_of_its_own(ledger: Ledger) -> None:
    await Runner(with_transaction(ledger), 1).run_chunk(
        make_chunk("/look", "/fail", "/look"), SOURCE, Stop(), lambda _: None
    )
    assert ledger.events == ["begin", "commit", "begin", "roll back", "begin", "commit"]


async def test_given_transaction_takes_the_place_of_an_own_one(ledger: Ledger) -> None:
    shared = Ledger()
    runner = Runner(with_transaction(ledger), 1)
    await run_one(runner, make_operation("/look"), SOURCE, 1, shared.transaction)
    assert (ledger.events, shared.events) == ([], ["begin", "commit"])


async def test_transaction_that_hangs_is_within_the_operations_time(ledger: Ledger) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    verdict = await run_one(Runner(with_transaction(ledger), 1), make_operation("/hang"), SOURCE, 1, slow)
    assert isinstance(verdict, TryAgain)
    assert verdict.failure.status == 504


@asynccontextmanager
async def forgiving() -> AsyncIterator[None]:
    """A transaction that swallows whatever it is left by."""
    with suppress(BaseException):
        yield


@pytest.mark.parametrize("path", ["/fail", "/reject", "/retry", "/hang"])
async def test_transaction_that_swallows_what_its_handler_raised_is_told_and_not_tried_again(path: str) -> None:
    """Neither is it a success, nor is it known whether something of it was kept."""
    registry = Operations(transaction=forgiving)
    for name, handler in (("/fail", fail), ("/reject", reject), ("/retry", retry)):
        registry.post(name)(handler)

    @registry.post("/hang", timeout_seconds=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    assert await run(path, registry=registry) == failure(500, "Misconfigured", SWALLOWED)


async def test_cut_that_a_transaction_swallows_leaves_no_verdict() -> None:
    registry, stop, begun = Operations(transaction=forgiving), Stop(), asyncio.Event()

    @registry.post("/wait")
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(Runner(registry, 1).run_chunk(make_chunk("/wait"), SOURCE, stop, lambda _: None))
    await begun.wait()
    stop.begin()
    stop.cut_off()
    assert await running == {}


async def test_invalid_operation_before_a_bulk_call_that_is_cancelled_takes_no_negative_time() -> None:
    registry, took = Operations[Any](), list[tuple[int, float]]()

    @registry.post("/number")
    async def number(body: int) -> None: ...

    @registry.post("/all", bulk=True)
    async def all_(bodies: list[int]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    chunk = Chunk("01J", "17", 1, (make_operation("/number", "none"), make_operation("/all", 1, index=1)))
    runner = Runner(registry, 1)
    await runner.run_chunk(
        chunk, SOURCE, Stop(), lambda _: None, took=lambda count, seconds: took.append((count, seconds))
    )
    [(count, seconds)] = took
    assert count == 1
    assert 0 <= seconds < 10


async def test_time_of_a_handler_that_has_waited_is_told_before_the_next_one() -> None:
    registry, took, told = Operations[Any](), list[int](), list[int]()

    @registry.post("/short")
    async def short() -> None:
        told.append(sum(took))
        await asyncio.sleep(0.002)

    chunk = make_chunk(*["/short"] * 3)
    await Runner(registry, 1).run_chunk(chunk, SOURCE, Stop(), lambda _: None, took=lambda count, _: took.append(count))
    assert told == [0, 1, 2]


async def test_what_ends_is_told_before_a_bulk_call_after_a_handler_that_has_waited() -> None:
    registry, ended, told = Operations[Any](), list[int](), list[int]()

    @registry.post("/short")
    async def short() -> None:
        await asyncio.sleep(0)

    @registry.post("/all", bulk=True)
    async def all_(bodies: list[int]) -> None:
        told.append(sum(ended))
        await asyncio.sleep(0)
        told.append(sum(ended))

    chunk = Chunk("01J", "17", 1, (make_operation("/short"), make_operation("/all", 1, index=1)))
    await Runner(registry, 1).run_chunk(chunk, SOURCE, Stop(), ended.append)
    assert told[1] == 1


async def test_worker_that_has_ended_leaves_no_timer() -> None:
    registry = Operations[Any]()

    @registry.post("/short", timeout_seconds=60)
    async def short() -> None:
        await asyncio.sleep(0)

    await Runner(registry, 1).run_chunk(make_chunk("/short", "/short"), SOURCE, Stop(), lambda _: None)
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert [one for one in scheduled if not one.cancelled()] == []


async def test_marks_of_a_handler_that_waits_are_not_seen_by_the_next() -> None:
    registry, variable, seen = Operations[Any](), ContextVar[str]("variable", default="unset"), list[str]()

    @registry.post("/set")
    async def set_it() -> None:
        seen.append(variable.get())
        variable.set("set")
        await asyncio.sleep(0)

    await Runner(registry, 1).run_chunk(make_chunk(*["/set"] * 3), SOURCE, Stop(), lambda _: None)
    assert seen == ["unset"] * 3


async def test_handler_that_ends_late_has_no_effect_on_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice of an attempt that has ended is not given to a later one."""
    monkeypatch.setattr("penstock.running.left_behind.NOTICE_SECONDS", 0.1)
    registry = Operations[Any]()

    @registry.post("/late", timeout_seconds=0.01)
    async def late() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    @registry.post("/slow", bulk=True, timeout_seconds=60)
    async def slow(bodies: list[int]) -> list[int]:
        await asyncio.sleep(0.15)
        return bodies

    chunk = Chunk("01J", "17", 1, (make_operation("/late"), make_operation("/slow", 1, index=1)))
    verdicts = await Runner(registry, 1).run_chunk(chunk, SOURCE, Stop(), lambda _: None)
    assert [as_outcome(verdicts[index]).status for index in range(2)] == [504, 200]


@pytest.mark.parametrize("path", ["/on-the-loop", "/in-a-thread"])
async def test_what_depends_on_others_starts_with_the_present_priority(path: str) -> None:
    app = Operations[Any]()
    urgency, held = Urgency(Priority.LOW), dict[str, list[Priority]]()

    def note(name: str) -> None:
        lanes = runner._slots._lanes.items()
        held[name] = [priority for priority, lane in lanes if lane.held]

    @app.post("/first")
    async def first() -> None:
        note("first")
        urgency.change(Priority.HIGH)

    @app.post("/on-the-loop")
    async def on_the_loop() -> None:
        note("second")

    @app.post("/in-a-thread")
    def in_a_thread() -> None:
        note("second")

    runner = Runner(app, 1)
    chunk = Chunk(
        "01J", "0", 1, (Operation(0, "0", "POST", "/first"), Operation(1, "1", "POST", path, links=Links((0,))))
    )
    source = replace(SOURCE, priority=Priority.LOW)
    verdicts = await runner.run_chunk(chunk, source, Stop(), lambda _: None, urgency=urgency)
    await runner.close()
    assert {as_outcome(verdict).state for verdict in verdicts.values()} == {OutcomeState.SUCCEEDED}
    assert held == {"first": [Priority.LOW], "second": [Priority.HIGH]}
    note("after")
    assert held["after"] == []
