"""The lifespan of an application and its middleware, with each kind of handler."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import CallNext, Context, Operations, Reject, Retry
from penstock.chunk import Chunk, Operation
from penstock.context import NoState
from penstock.errors import HandlerFailed, LifespanFailed, Misconfigured
from penstock.outcome import Outcome, TryAgain, Verdict, result_value
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.telemetry import Event
from tests.support.cpu_toys import double, reject, use_state

SOURCE = Source("01J", "01J")


async def run(operations: Operations[Any], *paths: str, body: Any = None) -> list[Verdict]:
    runner = Runner(operations, 4, cpu_processes=1)
    asked = tuple(Operation(index, str(index), "POST", path, body) for index, path in enumerate(paths))
    try:
        verdicts = await runner.run_chunk(Chunk("01J", "0", 1, asked), SOURCE, Stop(), lambda _: None)
    finally:
        await runner.close()
    return [verdicts[index] for index in range(len(paths))]


def results(verdicts: Sequence[Verdict]) -> list[Any]:
    return [result_value(one.result) if isinstance(one, Outcome) else "again" for one in verdicts]


class Application:
    """Its lifespan and its handlers note what happens."""

    def __init__(self, *, fails: str = "") -> None:
        self.notes: list[str] = []
        self.fails = fails
        self.operations = operations = Operations(lifespan=self.lifespan)

        @operations.post("/async")
        async def on_loop(context: Context) -> Any:
            return context.state

        @operations.post("/thread")
        def in_thread(context: Context) -> Any:
            return context.state

        @operations.post("/bulk", bulk=True)
        async def bulk(contexts: list[Context]) -> list[Any]:
            return [context.state for context in contexts]

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[str]:
        if self.fails == "start":
            raise ConnectionError("no database.")
        try:
            yield "open"
        except BaseException as error:
            self.notes.append(repr(error))
            raise
        finally:
            self.notes.append("closed")
            if self.fails == "end":
                raise ConnectionError


async def test_handlers_get_what_the_lifespan_yields() -> None:
    application = Application()
    async with application.operations.running():
        assert application.operations.state == "open"
        assert results(await run(application.operations, "/async", "/thread", "/bulk", "/bulk")) == ["open"] * 4
        with pytest.raises(Misconfigured, match="runs already in this process"):
            await application.operations.running().__aenter__()
        assert application.notes == []
    assert application.notes == ["closed"]
    assert application.operations.state is None
    async with application.operations.running():  # again, after it has ended
        assert application.operations.state == "open"


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("start", "did not start: ConnectionError: no database. The log has more."),
        ("end", "did not end: ConnectionError. The log has more."),
    ],
)
async def test_lifespan_that_fails_is_told_in_a_sentence_and_logged(fails: str, words: str) -> None:
    with capture_logs() as logs, pytest.raises(LifespanFailed) as told:
        async with Application(fails=fails).operations.running():
            assert fails == "end"
    assert str(told.value) == f"The application's lifespan {words}"
    assert [line["event"] for line in logs] == [Event.LIFESPAN_FAILED]


async def test_error_of_the_program_reaches_the_lifespan_and_goes_on() -> None:
    application = Application(fails="end")
    with capture_logs(), pytest.raises(KeyError):
        async with application.operations.running():
            raise KeyError("x")
    assert application.notes == ["KeyError('x')", "closed"]


async def plain_coroutine() -> None: ...


async def plain_generator() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("lifespan", [plain_coroutine, plain_generator])
async def test_lifespan_without_its_decorator_is_told(lifespan: Any) -> None:
    with capture_logs(), pytest.raises(LifespanFailed, match=r"Decorate it with contextlib\.asynccontextmanager\."):
        await Operations(lifespan=lifespan).running().__aenter__()


def with_middleware(notes: list[Any]) -> Operations[Any]:
    operations = Operations()

    @operations.middleware
    async def outer(context: Context | list[Context], call_next: CallNext) -> Any:
        contexts = context if isinstance(context, list) else [context]
        notes.append([one.operation_id for one in contexts])
        try:
            return await call_next()
        except Exception as error:
            notes.append(type(error))
            raise

    @operations.middleware
    async def inner(context: Context, call_next: CallNext) -> Any:
        result = await call_next()
        return [*result, "more"] if isinstance(result, list) and result == ["changed"] else result

    return operations


async def test_middleware_is_called_around_each_kind_of_handler() -> None:
    notes: list[Any] = []
    operations = with_middleware(notes)

    @operations.post("/async")
    async def on_loop() -> list[str]:
        return ["changed"]

    @operations.post("/thread")
    def in_thread(context: Context) -> str:
        return context.key

    @operations.post("/bulk", bulk=True)
    async def bulk(contexts: list[Context]) -> list[Any]:
        return [context.key for context in contexts]

    assert results(await run(operations, "/async", "/thread", "/bulk", "/bulk")) == [
        ["changed", "more"],
        "01J/1",
        "01J/2",
        "01J/3",
    ]
    assert sorted(notes) == [["0"], ["1"], ["2", "3"]]


async def test_middleware_sees_what_a_handler_raises_and_can_replace_it() -> None:
    notes: list[Any] = []
    operations = with_middleware(notes)

    @operations.post("/reject")
    async def reject_() -> None:
        raise Reject(409, "No.")

    @operations.post("/break")
    def break_() -> None:
        raise KeyError

    @operations.post("/retry", bulk=True)
    async def retry(contexts: list[Context]) -> list[Any]:
        raise Retry

    @operations.middleware
    async def innermost(context: Context | list[Context], call_next: CallNext) -> Any:
        try:
            return await call_next()
        except KeyError as error:
            raise Reject(404, "Replaced.") from error

    rejected, replaced, again = await run(operations, "/reject", "/break", "/retry")
    assert isinstance(rejected, Outcome)
    assert isinstance(replaced, Outcome)
    assert (rejected.status, replaced.status) == (409, 404)
    assert isinstance(again, TryAgain)
    assert Counter(note for note in notes if isinstance(note, type)) == {Reject: 2, Retry: 1}


async def test_middleware_is_called_around_a_process() -> None:
    notes: list[Any] = []
    operations = with_middleware(notes)
    operations.post("/double", status=201, cpu_bound=True)(double)
    operations.post("/fail", cpu_bound=True)(reject)
    doubled = (await run(operations, "/double", body={"n": 4}))[0]
    failed = (await run(operations, "/fail"))[0]
    assert isinstance(doubled, Outcome)
    assert (doubled.status, result_value(doubled.result)) == (201, {"n": 8})
    assert isinstance(failed, Outcome)
    assert failed.status == 409
    assert HandlerFailed in notes


async def enter(state: Any) -> None:
    async with state:
        pass


def enter_directly(state: Any) -> None:
    with state:
        pass


@pytest.mark.parametrize(
    "use",
    [
        lambda state: state.x,
        lambda state: state["x"],
        lambda state: state("x"),
        bool,
        len,
        list,
        lambda state: "x" in state,
        enter_directly,
        lambda state: enter(state).send(None),
    ],
)
def test_missing_state_explains_itself_however_it_is_used(use: Any) -> None:
    with pytest.raises(Misconfigured, match="runs in another process"):
        use(NoState("POST /x"))


async def test_state_in_another_process_explains_itself() -> None:
    application = Application()
    application.operations.post("/state", cpu_bound=True, max_attempts=1)(use_state)
    async with application.operations.running():
        [verdict] = await run(application.operations, "/state")
    assert isinstance(verdict, Outcome)
    assert verdict.error is not None
    assert "runs in another process and uses context.state" in verdict.error["detail"]


def test_middleware_that_is_no_coroutine_function_is_rejected() -> None:
    with pytest.raises(Misconfigured, match="is not an `async def` function"):
        Operations().middleware(lambda _context, _call_next: None)  # type: ignore[type-var]


async def test_without_middleware_handlers_are_called_in_the_shortest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "run", None)
    assert results(await run(Application().operations, "/async")) == [None]
